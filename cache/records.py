"""JSON and TOML texts → typed records.

- One form of error, `RecordError`, for text that is no JSON or TOML, that is nested too deeply, or
  whose values have other names or types than the record.
- The caller turns it into one of our errors, with the file's path and what to do.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

DEEPEST = 50  # levels of lists and tables

T = TypeVar("T")
# tomllib takes memory by the square of the parts of a key: 40 GB for 100,000, which are 200 kB.
LONG_KEY = re.compile(r"(?<![\w-])(?:[\w-]+[ \t]*\.[ \t]*){64}")


class RecordError(ValueError):
    """The text is not the expected record; the message says where it differs."""


def parse_json(text: str | bytes, kind: type[T]) -> T:
    """Read JSON as a dataclass, TypedDict, or any other type that msgspec knows.

    NaN and Infinity are accepted, as Python writes them: a record that forbids them checks this
    itself.

    Raises:
        RecordError: see the module.
    """
    return _parse(lambda: json.loads(text), kind)


def parse_toml(text: str, kind: type[T]) -> T:
    """Read TOML as `parse_json` reads JSON. Raises RecordError."""
    if LONG_KEY.search(text):
        raise RecordError("a key has more than 64 parts")
    return _parse(lambda: tomllib.loads(text), kind)


def read_text(path: Path) -> str:
    """Read a file of text that a person or we wrote: UTF-8, a byte order mark is left out.

    Raises:
        RecordError: it can't be read, or is not UTF-8.
        FileNotFoundError: it does not exist.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RecordError(error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise RecordError(f"it is not UTF-8 text ({error})") from None


def convert(content: object, kind: type[T]) -> T:
    """Check values that were read already. Raises RecordError."""
    return _parse(lambda: content, kind)


def _parse(read: Callable[[], Any], kind: type[T]) -> T:
    try:
        content = read()
        _check_depth(content)
        return msgspec.convert(content, kind)
    except RecursionError:
        raise RecordError("it is nested too deeply") from None
    except (ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise RecordError(str(error)) from None


def _check_depth(content: Any) -> None:
    """Refuse what could be read, but not be written or shown again. Raises RecursionError."""
    level = [content]
    for _ in range(DEEPEST):
        level = [v for v in level if isinstance(v, dict | list)]
        if not level:
            return
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    raise RecursionError
