"""`failures.csv`: the images that the last extraction could not read, for people to read."""

import csv
from collections.abc import Iterable
from pathlib import Path

from cache.atomic import replacing
from cache.segments import Failure
from evaluate.printable import printable


def write_failures(path: Path, failures: Iterable[Failure]) -> None:
    """Write each image and why it could not be read, once; no file where there is none.

    Raises OSError.
    """
    reasons = {(f.path, f.reason): f for f in failures}
    if not reasons:
        path.unlink(missing_ok=True)
        return
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow(("path", "reason", "sha256"))
        for failure in reasons.values():
            row = (failure.path, failure.reason, failure.sha256.hex())
            table.writerow(tuple(map(printable, row)))
