"""A list of images as a CSV file, with the columns `path` and `label`: read and written."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from cache.atomic import replacing
from cache.errors import DatasetError

if TYPE_CHECKING:
    from extract.scan import ImageFile

SUFFIX = ".csv"
COLUMNS = ("path", "label")


def read_list(path: Path) -> list[tuple[str, str]]:
    """Return the label and the path of every image listed, in the list's order.

    The file is UTF-8; names that are no valid Unicode are kept as bytes (PEP 383). Other columns
    are not looked at. Paths are relative to the list's own folder, or absolute.

    Raises:
        DatasetError: it is no such list; with the line.
        OSError: it can't be read.
    """
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = csv.DictReader(file)
        try:
            if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
                raise DatasetError(
                    f"{path}, line 1: no column {' and '.join(missing)}: the first line of a list "
                    f"names its columns, separated by commas, such as {','.join(COLUMNS)}"
                )
            listed = [(row["label"], row["path"]) for row in _complete(path, rows)]
        except csv.Error as error:
            raise DatasetError(f"{path}, after line {rows.line_num}: {error}: mend it") from None
    if not listed:
        raise DatasetError(f"{path} lists no image: add a line with the path and label of each")
    folder = str(path.parent)
    return [(label, os.path.join(folder, given)) for label, given in listed]  # noqa: PTH118


def write_list(path: Path, files: Iterable[ImageFile]) -> None:
    """Write a list of images as `read_list` reads it, whole or not at all. Raises OSError."""
    with replacing(path) as temporary:
        temporary.write_bytes(as_csv(files, path.parent))


def as_csv(files: Iterable[ImageFile], folder: Path) -> bytes:
    """Return a list of images to lie in a folder.

    Paths are relative to it, so that both can be moved together; absolute where that can't be, on
    another drive.
    """
    text, folder = StringIO(newline=""), folder.resolve()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows((_relative(file.path, folder), file.label) for file in files)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _complete(path: Path, rows: csv.DictReader[str]) -> Iterator[dict[str, str]]:
    for row in rows:
        for name in COLUMNS:
            if not row[name] or "\0" in row[name]:
                raise DatasetError(
                    f"{path}, line {rows.line_num}: no {name}: give one, or remove the line"
                )
        yield row


def _relative(path: Path, folder: Path) -> str:
    absolute = os.path.abspath(path)  # noqa: PTH100 - links stay what they are
    try:
        return Path(os.path.relpath(absolute, folder)).as_posix()
    except ValueError:  # Windows: another drive
        return Path(absolute).as_posix()
