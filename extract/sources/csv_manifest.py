"""A list of images as a CSV file with the columns `path`, `label`, perhaps `sha256`: in and out.

- What spreadsheets and Windows make of such a file is read if it is unambiguous: the separator is
  the one that the first line has, a byte order mark says the encoding, names of columns are read
  without case and blanks, and a path with backslashes or blanks around it is taken as it exists.
- Anything else is an error that says what was found, with its line.
"""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO, TextIOWrapper
from pathlib import Path
from posixpath import normpath
from typing import TYPE_CHECKING, Any, NamedTuple

from cache.errors import DatasetError
from cache.files import replacing
from cache.tables import open_table, path_cell, table_text, writer
from extract.sources.class_names import check_class_names, class_name
from extract.sources.file_names import is_image
from extract.sources.image_file import is_remote, is_url, plain
from extract.sources.url import is_file, open_file

if TYPE_CHECKING:
    from extract.sources.image_file import ImageFile

SUFFIX = ".csv"
COLUMNS = ("path", "label")
SHA256 = "sha256"  # a column that may be there
HEXADECIMAL = re.compile("[0-9a-fA-F]{64}")
SEPARATORS = ",;\t|"
HEAD_BYTES = 2**14  # in which the first line must end
SHOWN, SHOWN_CHARACTERS = 5, 40  # of what was found, in an error
UTF8 = "utf-8-sig"
# How a file begins: its encoding. That of 32 bits begins as that of 16 does.
MARKS = {
    codecs.BOM_UTF8: UTF8,
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SEPARATOR_LINE = re.compile(r"sep=(.)[\r\n]", re.IGNORECASE)  # of Excel, before the first line
# What a column of hashes may be called by mistake, without what is neither letter nor digit.
LIKE_SHA256 = ("sha", "sha2", "sha256sum", "sha256hash", "sha265", "hash", "digest", "checksum")


class Row(NamedTuple):
    """A line of a list: class, path or URL of the image, SHA-256 of its bytes where it is said."""

    label: str
    path: str
    sha256: bytes | None


def is_list(path: Path) -> bool:
    """Return whether a path, here or behind a URL, is a list. Raises DatasetError."""
    return path.suffix.lower() == SUFFIX and is_file(path)


def read_list(path: Path) -> list[tuple[str, str]]:
    """Return the label and the path of every image listed, as `rows_of` does, and raise as that."""
    return [(row.label, row.path) for row in rows_of(path)]


def rows_of(path: Path) -> Iterator[Row]:
    """Yield what a list says of every image, in its order; it is never in memory as a whole.

    Paths are URLs, absolute, or relative to the list's own folder or URL. Names that are no valid
    Unicode are kept as bytes (PEP 383). See the module and `listed_rows`.
    """
    return (row for _, _, row in listed_rows(path))


def listed_rows(path: Path) -> Iterator[tuple[int, str, Row]]:
    """Yield of every image its line, its path as it is listed, and what `rows_of` yields.

    Raises:
        DatasetError: it is no such list, with the line; or it cannot be fetched from its URL.
        OSError: it can't be read.
    """
    layout, number, line = _layout(path), 0, 1
    at = _folder(path)
    with open_file(path) as content:
        # Names of files need not be UTF-8.
        errors = "surrogateescape" if layout.encoding == UTF8 else "strict"
        file = TextIOWrapper(content, newline="", encoding=layout.encoding, errors=errors)
        try:
            rows = layout.reader(file)
            next(row for row in rows if _is_header(row))
            for row in rows:
                line = rows.line_num
                if _is_empty(row) or _is_comment(row, layout):
                    continue
                label, given, sha256 = _fields(path, line, row, layout)
                number += 1
                yield line, given, Row(label, at(plain(given)), sha256)
        except csv.Error as error:
            raise DatasetError(f"{path}, line {rows.line_num}: {error}. Correct it.") from None
        except UnicodeError as error:
            raise DatasetError(
                f"{path}, after line {line}: it is not {layout.encoding.upper()} text ({error}). "
                "Save it as CSV UTF-8."
            ) from None
        finally:
            file.detach()
    if not number:
        raise DatasetError(f"{path} lists no image: add a line with the path and label of each")


def list_remarks(path: Path) -> list[str]:
    """Return what the user should know about the columns of a list. Raises as `rows_of`."""
    layout = _layout(path)
    if not layout.unused:
        return []
    shown = _shown(layout.unused)
    hint = next(
        (f" For hashes, call the column {SHA256}." for n in layout.unused if _is_sha(n)), ""
    )
    return [
        f"{path}: columns not used: {shown}. Groups and given splits are not supported yet: images "
        f"of one patient may end up in both training and validation.{hint}"
    ]


def check_listed_classes(path: Path) -> None:
    """Make sure of the names of classes in a list. Raises DatasetError, OSError."""

    def images_of(label: str) -> tuple[int, str]:
        lines = [at for at, _, row in listed_rows(path) if class_name(row.label) == label]
        return len(lines), f"line {lines[0]}"

    check_class_names(path, {class_name(row.label) for row in rows_of(path)}, images_of)


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
    with open_table(path) as file:
        table = writer(file)
        table.writerow((*COLUMNS, SHA256))
        yield lambda rows: table.writerows(
            (path_cell(row.path), row.label, row.sha256.hex() if row.sha256 else "") for row in rows
        )


def as_csv(files: Iterable[ImageFile], folder: Path) -> bytes:
    """Return a list of images to lie in a folder.

    Paths are relative to it, so that both can be moved together; absolute where that can't be, on
    another drive or behind a URL.
    """
    folder = folder.resolve()
    rows = ((path_cell(_relative(file.path, folder)), file.label) for file in files)
    return table_text(COLUMNS, rows).encode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class _Layout:
    """How a list is written.

    Attributes:
        separator: Between cells.
        spaced: A blank follows each separator.
        width: Number of columns.
        path, label, sha256: Their places; sha256 None if there is no such column.
        unused: Names of the other columns.
    """

    encoding: str
    separator: str
    spaced: bool
    width: int
    path: int
    label: int
    sha256: int | None
    unused: tuple[str, ...]

    def reader(self, file: Iterable[str]) -> Any:
        """Return a reader of the rows of a text."""
        return _reader(file, self.separator, self.spaced)


def _reader(file: Iterable[str], separator: str, spaced: bool) -> Any:
    # Strict: else an open quote would take the rest of the file for one cell.
    return csv.reader(file, delimiter=separator, skipinitialspace=spaced, strict=True)


def _layout(path: Path) -> _Layout:
    """Find out how a list is written. Raises DatasetError, OSError."""
    with open_file(path) as content:
        head = content.read(HEAD_BYTES)
    encoding = next((name for mark, name in MARKS.items() if head.startswith(mark)), UTF8)
    errors = "surrogateescape" if encoding == UTF8 else "strict"
    try:
        text = codecs.getincrementaldecoder(encoding)(errors).decode(head)
    except UnicodeError as error:
        raise DatasetError(
            f"{path}: it is not {encoding.upper()} text ({error}). Save it as CSV UTF-8."
        ) from None
    said = SEPARATOR_LINE.match(text)
    found: list[list[str]] = []
    for separator in said[1] if said else SEPARATORS:
        row, spaced = _first_row(text, separator)
        names = [class_name(cell).casefold() for cell in row]
        found.append(row)
        if {*COLUMNS} <= {*names}:
            return _layout_of(path, encoding, separator, spaced, row, names)
    raise _no_columns(path, max(found, key=len), text)


def _first_row(text: str, separator: str) -> tuple[list[str], bool]:
    """Return the names of columns, and whether a blank follows each separator."""
    try:
        for spaced in (False, True):
            rows = _reader(StringIO(text, newline=""), separator, spaced)
            row: list[str] = next((row for row in rows if _is_header(row)), [])
            if spaced or not all(cell.startswith(" ") for cell in row[1:]) or len(row) < 2:
                return row, spaced
    except csv.Error:  # not with this separator
        pass
    return [], False


def _layout_of(
    path: Path, encoding: str, separator: str, spaced: bool, row: list[str], names: list[str]
) -> _Layout:
    """Return the layout of a list with these columns, as written and as compared."""
    while not names[-1]:  # separators at the end of a line
        names.pop()
    if twice := [name for name, count in Counter(filter(None, names)).items() if count > 1]:
        raise DatasetError(
            f"{path}, line 1: there are several columns {_shown(twice)}. Rename or remove all but "
            "one."
        )
    used = (*COLUMNS, SHA256)
    return _Layout(
        encoding=encoding,
        separator=separator,
        spaced=spaced,
        width=len(names),
        path=names.index(COLUMNS[0]),
        label=names.index(COLUMNS[1]),
        sha256=names.index(SHA256) if SHA256 in names else None,
        unused=tuple(
            class_name(cell) or f"column {number} (without a name)"
            for number, (cell, name) in enumerate(zip(row, names, strict=False), start=1)
            if name not in used
        ),
    )


def _no_columns(path: Path, row: list[str], text: str) -> DatasetError:
    """Return the error about a first line that lacks a column."""
    names = [class_name(cell).casefold() for cell in row]
    missing = [name for name in COLUMNS if name not in names]
    if "\0" in text[:SHOWN_CHARACTERS]:
        found = "it has zero bytes, as UTF-16 has. Save it as CSV UTF-8"
    elif any(is_image(cell.strip()) for cell in row):
        found = f"found an image instead, {_shown(row)}. Add a first line with names of columns"
    else:
        found = f"found {_shown(row) or 'nothing'}. Name the columns in the first line"
    return DatasetError(
        f"{path}, line 1: no column {' and '.join(missing)}: {found}, such as {','.join(COLUMNS)}"
    )


def _is_header(row: Sequence[str]) -> bool:
    """Return whether a row is the first one that is not empty, a comment or Excel's separator."""
    return not (_is_empty(row) or row[0].startswith("#") or row[0].lower().startswith("sep="))


def _is_empty(row: Sequence[str]) -> bool:
    return not any(cell.strip() for cell in row)


def _is_comment(row: Sequence[str], layout: _Layout) -> bool:
    """Return whether a row is a comment, and no image whose name begins with #."""
    given = row[layout.path] if layout.path < len(row) else ""
    return row[0].startswith("#") and not is_image(given.strip())


def _is_sha(name: str) -> bool:
    letters = "".join(c for c in name.casefold() if c.isalnum())
    return letters in (SHA256, *LIKE_SHA256)


def _shown(names: Sequence[str]) -> str:
    """Show some names, as far as they are short."""
    some = [name.strip() for name in names if name.strip()]
    cut = [
        name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}…"
        for name in some[:SHOWN]
    ]
    return ", ".join(cut) + (f" and {len(some) - SHOWN} more" if len(some) > SHOWN else "")


def _fields(
    path: Path, line: int, row: list[str], layout: _Layout
) -> tuple[str, str, bytes | None]:
    """Return label, path and SHA-256 of a line."""
    if not _is_empty(row[layout.width :]):
        raise DatasetError(
            f"{path}, line {line}: it has {len(row)} cells, but the first line names "
            f"{layout.width} columns. Put a cell that holds {layout.separator!r} in double quotes."
        )
    columns = {COLUMNS[0]: layout.path, COLUMNS[1]: layout.label}
    found = {name: row[at] if at < len(row) else "" for name, at in columns.items()}
    for name, value in found.items():
        if not value.strip() or "\0" in value:
            raise DatasetError(f"{path}, line {line}: no {name}: give one, or remove the line")
    given, label = found[COLUMNS[0]], found[COLUMNS[1]]
    if not class_name(label):
        raise DatasetError(f"{path}, line {line}: the label has blanks only. Give a class.")
    # A list that was made of a folder with such a name has it in the path, too.
    if (guess := as_windows_text(label)) and label not in given.split("/"):
        raise DatasetError(
            f"{path}, line {line}: the label is not UTF-8 text. In Windows-1252 it reads "
            f"{guess!r}. Save the list as CSV UTF-8."
        )
    at = layout.sha256
    digits = row[at].strip() if at is not None and at < len(row) else ""
    if digits and not HEXADECIMAL.fullmatch(digits):
        raise DatasetError(
            f"{path}, line {line}: {SHA256} must be 64 hexadecimal digits: correct it, or leave it "
            "empty"
        )
    return label, given, bytes.fromhex(digits) if digits else None


def as_windows_text(name: str) -> str:
    """Return what a name that is not UTF-8 reads as in Windows-1252; "" for any other name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    return ""


def path_hint(given: str) -> str:
    """Say what to do about a listed path that does not exist."""
    if guess := as_windows_text(given):
        return (
            f"This line is not UTF-8 text; in Windows-1252 it reads '{guess}'. Save the list as "
            "CSV UTF-8."
        )
    return "Correct the paths. A relative path starts in the folder of the list."


def _folder(path: Path) -> Callable[[str], str]:
    """Return how a path that a list gives is found from where the list lies."""
    if not is_remote(path):
        folder = str(path.parent)
        return lambda given: given if is_url(given) else _existing(folder, given)
    scheme, colon, above = str(path.parent).partition("://")

    def at(given: str) -> str:
        if is_url(given) or given.startswith("/"):
            return given
        parts = given.split("/")
        below = f"{above.rstrip('/')}/{given}"
        return scheme + colon + (normpath(below) if {"..", "."} & {*parts} else below)

    return at


def _existing(folder: str, given: str) -> str:
    """Return a path from this folder. With backslashes or blanks around it: as it exists."""
    paths = [given]
    if given != given.strip():
        paths.append(given.strip())
    if "\\" in given:
        paths += [name.replace("\\", "/") for name in paths]
    joined = [os.path.join(folder, name) for name in paths]  # noqa: PTH118
    if len(joined) == 1:
        return joined[0]
    return next((name for name in joined if os.path.lexists(name)), joined[0])


def _relative(path: Path, folder: Path) -> str:
    if is_remote(path):
        return str(path)
    absolute = os.path.abspath(path)  # noqa: PTH100 - links stay what they are
    try:
        return Path(os.path.relpath(absolute, folder)).as_posix()
    except ValueError:  # Windows: another drive
        return Path(absolute).as_posix()
