"""A list of images as a CSV file with the columns `path`, `label`, perhaps `sha256`: in and out."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import StringIO, TextIOWrapper
from pathlib import Path
from posixpath import normpath
from typing import TYPE_CHECKING, NamedTuple

from cache.atomic import replacing
from cache.errors import DatasetError
from extract.places import is_remote, is_url, plain
from extract.remote import is_file, opened

if TYPE_CHECKING:
    from extract.scan import ImageFile

SUFFIX = ".csv"
COLUMNS = ("path", "label")
SHA256 = "sha256"  # a column that may be there
HEXADECIMAL = re.compile("[0-9a-fA-F]{64}")


class Row(NamedTuple):
    """A line of a list: class, path or URL of the image, SHA-256 of its bytes where it is said."""

    label: str
    path: str
    sha256: bytes | None


def is_list(path: Path) -> bool:
    """Tell whether a path, here or behind a URL, is a list. Raises DatasetError."""
    return path.suffix.lower() == SUFFIX and is_file(path)


def read_list(path: Path) -> list[tuple[str, str]]:
    """Return the label and the path of every image listed, as `rows_of` does, and raise as that."""
    return [(row.label, row.path) for row in rows_of(path)]


def rows_of(path: Path) -> Iterator[Row]:
    """Yield what a list says of every image, in its order; it is never in memory as a whole.

    The file is UTF-8; names that are no valid Unicode are kept as bytes (PEP 383). Paths are URLs,
    absolute, or relative to the list's own folder or URL. A third column, `sha256`, may say the
    SHA-256 of an image's bytes, 64 hexadecimal digits, or be empty. Others are not looked at.

    Raises:
        DatasetError: it is no such list, with the line; or it can't be had from its URL.
        OSError: it can't be read.
    """
    number = 0
    with opened(path) as content:
        file = TextIOWrapper(content, newline="", encoding="utf-8-sig", errors="surrogateescape")
        rows = csv.reader(file)
        try:
            columns = _columns(path, next(rows, []))
            at = _folder(path)
            for number, row in enumerate(filter(None, rows), start=1):  # noqa: B007
                label, given, sha256 = _fields(path, rows.line_num, row, columns)
                yield Row(label, at(plain(given)), sha256)
        except csv.Error as error:
            raise DatasetError(f"{path}, line {rows.line_num}: {error}: mend it") from None
        finally:
            file.detach()
    if not number:
        raise DatasetError(f"{path} lists no image: add a line with the path and label of each")


def write_list(path: Path, files: Iterable[ImageFile]) -> None:
    """Write a list of images as `read_list` reads it, whole or not at all. Raises OSError."""
    with replacing(path) as temporary:
        temporary.write_bytes(as_csv(files, path.parent))


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a list as `rows_of` reads it, with paths as they are, whole or not at all.

    The rows are never in memory as a whole. Raises OSError.
    """
    with replacing(path) as temporary, adding_to(temporary) as add:
        add(rows)


@contextmanager
def adding_to(path: Path) -> Iterator[Callable[[Iterable[Row]], None]]:
    """Begin a list as `write_rows` writes it; yield what adds rows to it. Raises OSError."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow((*COLUMNS, SHA256))
        yield lambda rows: table.writerows(
            (row.path, row.label, row.sha256.hex() if row.sha256 else "") for row in rows
        )


def as_csv(files: Iterable[ImageFile], folder: Path) -> bytes:
    """Return a list of images to lie in a folder.

    Paths are relative to it, so that both can be moved together; absolute where that can't be, on
    another drive or behind a URL.
    """
    text, folder = StringIO(newline=""), folder.resolve()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows((_relative(file.path, folder), file.label) for file in files)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _columns(path: Path, names: list[str]) -> tuple[int, int, int | None]:
    """Return where path, label and SHA-256 are in a line. names: the first line."""
    if missing := [name for name in COLUMNS if name not in names]:
        raise DatasetError(
            f"{path}, line 1: no column {' and '.join(missing)}: the first line of a list "
            f"names its columns, separated by commas, such as {','.join(COLUMNS)}"
        )
    given, label = (names.index(name) for name in COLUMNS)
    return given, label, names.index(SHA256) if SHA256 in names else None


def _fields(
    path: Path, line: int, row: list[str], columns: tuple[int, int, int | None]
) -> tuple[str, str, bytes | None]:
    """Return label, path and SHA-256 of a line."""
    found = [row[column] if column < len(row) else "" for column in columns[:2]]
    for name, value in zip(COLUMNS, found, strict=True):
        if not value or "\0" in value:
            raise DatasetError(f"{path}, line {line}: no {name}: give one, or remove the line")
    digits = row[columns[2]] if columns[2] is not None and columns[2] < len(row) else ""
    if digits and not HEXADECIMAL.fullmatch(digits):
        raise DatasetError(
            f"{path}, line {line}: {SHA256} must be 64 hexadecimal digits: mend it, or leave it "
            "empty"
        )
    return found[1], found[0], bytes.fromhex(digits) if digits else None


def _folder(path: Path) -> Callable[[str], str]:
    """Return how a path that a list gives is found from where the list lies."""
    if not is_remote(path):
        folder = str(path.parent)
        return lambda given: given if is_url(given) else os.path.join(folder, given)  # noqa: PTH118
    scheme, colon, above = str(path.parent).partition("://")

    def at(given: str) -> str:
        if is_url(given) or given.startswith("/"):
            return given
        parts = given.split("/")
        below = f"{above.rstrip('/')}/{given}"
        return scheme + colon + (normpath(below) if {"..", "."} & {*parts} else below)

    return at


def _relative(path: Path, folder: Path) -> str:
    if is_remote(path):
        return str(path)
    absolute = os.path.abspath(path)  # noqa: PTH100 - links stay what they are
    try:
        return Path(os.path.relpath(absolute, folder)).as_posix()
    except ValueError:  # Windows: another drive
        return Path(absolute).as_posix()
