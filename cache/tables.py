r"""CSV files: written by one rule, read as written or as a spreadsheet program saved them.

- UTF-8, lines end in \n. A file name that is no valid Unicode is written as its bytes (PEP 383).
- A cell with a separator, quote, carriage return or newline is quoted, so that every text comes
  back as it was.
- Reading accepts what loses nothing: a byte order mark, \r\n, `;` or tabs as separators, empty
  columns and rows at the end. All else is a `TableError`, with the line.
- Programs for tables execute a cell that begins with = + - @, a tab or a carriage return.
  `neutral` and `path_cell` make a cell harmless, `restored` undoes `neutral`.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import zip_longest
from math import isnan
from pathlib import Path
from typing import IO, Any
from zlib import crc32

from filelock import FileLock, Timeout

from cache.files import replacing

SEPARATORS = (",", ";", "\t")
LOCK_TIMEOUT_S = 60
LARGEST_CELL = 2**31 - 1  # characters; csv's own limit is less than a large confusion matrix
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
RISKY = "=+-@\t\r"  # what makes a cell a formula, if it begins with it
QUOTED_RISK = re.compile(rf"'*[{re.escape(RISKY)}]")
NUMBER = re.compile(r"-?(\d+(\.\d+)?([eE][+-]?\d+)?|inf)", re.ASCII)


CHECKSUM = "checksum"  # column of a row's checksum
CHANGED = "a cell was changed after it was written"


class TableError(ValueError):
    """The text is no such table; the message says where and why."""


@dataclass(frozen=True)
class Table:
    """A CSV file as text.

    Attributes:
        columns: Names in the first line.
        rows: The cells of each row by column; empty rows are left out.
        lines: The number of each row's last line in the file.
    """

    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    lines: tuple[int, ...]


def read_table(path: Path, needed: Collection[str]) -> Table:
    """Read a CSV file that has these columns, and perhaps others.

    Raises:
        TableError: it can't be read, or is no such table.
        FileNotFoundError: it does not exist.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TableError(error.strerror or str(error)) from None
    return parse_table(content, needed)


def parse_table(content: bytes, needed: Collection[str]) -> Table:
    """Read a table as `read_table` does. Raises TableError."""
    if content.startswith(UTF_16):
        raise TableError("it is UTF-16 text; CSV files must be UTF-8")
    if b"\0" in content:
        raise TableError("it holds NUL bytes, so it is no text")
    text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    if not text.strip():
        raise TableError("it is empty")
    separator = max(SEPARATORS, key=lambda it: len(_first_line(text, it).intersection(needed)))
    lines = _rows(text, separator)
    _, names = next(lines, (1, []))
    columns = _columns(names, needed)
    least = 1 + max(map(columns.index, needed), default=-1)
    rows = {number: _row(number, cells, columns, least) for number, cells in lines if any(cells)}
    return Table(columns, tuple(rows.values()), tuple(rows))


def _columns(names: list[str], needed: Collection[str]) -> tuple[str, ...]:
    """Return the names of columns without empty ones at the end. Raises TableError."""
    while names and not names[-1]:
        names.pop()
    if missing := [name for name in needed if name not in names]:
        raise TableError(f"it lacks the columns {', '.join(missing[:5])}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise TableError(f"it has two columns {twice[0]!r}")
    return tuple(names)


def _row(number: int, cells: list[str], columns: Sequence[str], least: int) -> dict[str, str]:
    """Return the cells of a line by column. Raises TableError."""
    if len(cells) < least:
        raise TableError(f"line {number} is cut short")
    if any(cells[len(columns) :]):
        raise TableError(f"line {number} has more cells than there are columns")
    return dict(zip_longest(columns, cells[: len(columns)], fillvalue=""))


def write_table(file: IO[str], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table.

    None and NaN are empty cells, other numbers the shortest text that is read as equal.

    Args:
        file: Of `open_table`.
        columns: Names in the first line.
        rows: Values in the order of the columns.
    """
    table = writer(file)
    table.writerow(columns)
    table.writerows([as_cell(value) for value in row] for row in rows)


def rewrite_table(
    path: Path, table: Callable[[], tuple[Sequence[str], Iterable[Sequence[Any]]]]
) -> None:
    """Replace a CSV file, one process at a time; written whole or not at all.

    Args:
        path: The file; its folder is created.
        table: Returns columns and rows; called while no other process writes the file.

    Raises:
        TableError: Another process has locked the file for a minute.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT_S):
            columns, rows = table()
            with replacing(path) as temporary, open_table(temporary) as file:
                write_table(file, columns, rows)
    except Timeout:
        raise TableError(
            f"{path} is being written by another process. Wait for it and try again."
        ) from None


def open_table(path: Path) -> IO[str]:
    """Open a file to write a table into. Raises OSError."""
    return path.open("w", newline="", encoding="utf-8", errors="surrogateescape")


def table_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return what `write_table` writes."""
    text = StringIO(newline="")
    write_table(text, columns, rows)
    return text.getvalue()


def writer(file: IO[str]) -> Any:
    r"""Return a csv.writer whose lines end in \n, but which quotes \r as well as \n."""
    return csv.writer(_Lines(file))


def as_cell(value: object) -> str:
    """Return a value as the text of a cell."""
    if value is None or (isinstance(value, float) and isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)


def as_number(cell: str) -> float:
    """Read a number as `as_cell` writes it. Raises ValueError."""
    if not NUMBER.fullmatch(cell):
        raise ValueError(f"{cell[:40]!r} is not a number")
    return float(cell)


def as_whole_number(cell: str) -> int:
    """Read a whole number, up to 2⁵³; `20.0` is one too. Raises ValueError."""
    number = as_number(cell)
    if "e" in cell.lower() or abs(number) > 2**53 or not number.is_integer():
        raise ValueError(f"{cell[:40]!r} is not a whole number")
    return int(number)


def as_flag(cell: str) -> bool:
    """Read `True` or `False`, in any case as spreadsheet programs write them. Raises ValueError."""
    if cell.lower() not in ("true", "false"):
        raise ValueError(f"{cell[:40]!r} is not True or False")
    return cell.lower() == "true"


def checksum(values: object) -> str:
    """Return a checksum of JSON's values. Its letters keep it text in every spreadsheet program."""
    return f"crc32:{crc32(json.dumps(values, sort_keys=True).encode()):08x}"


def neutral(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet program would take for a formula.

    A single `-` is none.
    """
    return f"'{text}" if QUOTED_RISK.match(text) and text != "-" else text


def restored(text: str) -> str:
    """Return the text that `neutral` was given."""
    return text[1:] if text.startswith("'") and QUOTED_RISK.match(text) else text


def path_cell(path: str) -> str:
    """Put `./` before a relative path that a spreadsheet program would take for a formula."""
    return f"./{path}" if path.startswith(tuple(RISKY)) else path


class _Lines:
    """What csv.writer writes a row into: it quotes the characters of its own line end only."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def write(self, row: str) -> int:
        return self.file.write(row.removesuffix("\r\n") + "\n")


def _rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each row. Raises TableError."""
    csv.field_size_limit(LARGEST_CELL)
    reader = csv.reader(StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise TableError(f"line {reader.line_num}: {error}") from None


def _first_line(text: str, separator: str) -> set[str]:
    try:
        return {*next(_rows(text, separator), (1, []))[1]}
    except TableError:
        return set()


# Of a text file beside it, as `sha256sum` writes it: for tables that people open too.
CHECKSUM_SUFFIX = ".sha256"


def write_checksum(path: Path) -> None:
    """Write the checksum of a file as it is now. Raises OSError."""
    with replacing(checksum_path(path)) as temporary:
        temporary.write_text(_checksum_line(path), encoding="utf-8", errors="surrogateescape")


def check_checksum(path: Path) -> None:
    """Hold a file against its checksum.

    Raises:
        ValueError: the file is not as it was written, or has no checksum.
        OSError: one of them can't be read.
    """
    try:
        stored = checksum_path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        raise ValueError("it has no checksum: an older version of Frostline wrote it") from None
    if stored != _checksum_line(path):
        raise ValueError("its content does not match its checksum")


def checksum_path(path: Path) -> Path:
    """Where the checksum of a file lies."""
    return path.with_name(path.name + CHECKSUM_SUFFIX)


def _checksum_line(path: Path) -> str:
    with path.open("rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n"
