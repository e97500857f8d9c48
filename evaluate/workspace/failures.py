"""`failures.csv`: the images that the last extraction could not read, for people to read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cache.errors import ResultsError
from cache.files import check_replaceable, replacing
from cache.tables import neutral, open_table, path_cell, write_table

if TYPE_CHECKING:
    from cache.errors import Failure

COLUMNS = ("path", "reason", "sha256")


def check_failures(path: Path) -> None:
    """Make sure that no other file has the name of this table. Raises ResultsError, OSError."""
    check_replaceable(path, *(name.encode() for name in COLUMNS), what="The list of failures")


def write_failures(path: Path, failures: Iterable[Failure]) -> None:
    """Write each image and why it could not be read, once; no file where there is none.

    Raises:
        ResultsError: there are failures, and somebody else's file has this name.
        OSError: it can't be written.
    """
    reasons = {(f.path, f.reason): f for f in failures}
    try:
        check_failures(path)
    except ResultsError:
        if reasons:
            raise
        return  # nothing to write, and not ours to remove
    if not reasons:
        path.unlink(missing_ok=True)
        return
    rows = ((path_cell(f.path), neutral(f.reason), f.sha256.hex()) for f in reasons.values())
    with replacing(path) as temporary, open_table(temporary) as file:
        write_table(file, COLUMNS, rows)
