"""How rows were computed: recorded beside them, never part of their key."""

from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

import msgspec

from cache.records import convert, parse_json

Words = str | list[str]
Seconds = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
Note = dict[str, Any]  # words, lists of words, numbers that can be added, and notes within notes


class _Entries(TypedDict, total=False):
    """What may be in a note."""

    weights: Words
    engine: Words
    host: Words
    versions: dict[str, Words]
    rows: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    seconds: Seconds
    stages: dict[str, Seconds]


def read_note(text: str) -> Note:
    """Read a note from JSON: the entries that this version knows.

    Raises:
        RecordError: it is none, or an entry has another type.
    """
    note = parse_json(text, dict[str, Any])
    known = {name: value for name, value in note.items() if name in _Entries.__annotations__}
    convert(known, _Entries)
    return known


def merge_notes(notes: Sequence[Note]) -> Note:
    """Sum up the notes of many segments: numbers are added, words listed once each, sorted.

    A word that is the same everywhere stays a word: `{"engine": "torch"}`.
    """
    return {
        name: _merged([note[name] for note in notes if name in note])
        for name in sorted({name for note in notes for name in note})
    }


def words(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return the words of a note's entry, one or many."""
    return (value,) if isinstance(value, str) else tuple(value)


def _merged(values: Sequence[Any]) -> Any:
    if isinstance(values[0], dict):
        return merge_notes(values)
    if isinstance(values[0], int | float):
        return sum(values)
    distinct = sorted({word for value in values for word in words(value)})
    return distinct[0] if len(distinct) == 1 else distinct
