"""Segments of other programs, or made to mislead: refused by name, and before they are read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cache.errors import CacheError
from cache.maintenance.transfer import fetch
from cache.maintenance.verify import verify
from cache.segment import read_header, write_segment
from cache.store import find_caches, open_cache
from tests.test_cache import IDENTITY, NOTE, rows

Change = Callable[[h5py.File], None]
MANY = 10**12
FILTERS: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip"},
    "lzf": {"compression": "lzf"},
    "shuffle": {"shuffle": True, "fletcher32": True},
    "scale-offset": {"scaleoffset": 3},
    "of others": {"compression": 32015, "allow_unknown_filter": True},  # Zstandard
    "none": {},  # not even a checksum
}


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    folder = open_cache(tmp_path / "cache", IDENTITY).folder
    return write_segment(folder, IDENTITY, rows(*range(40)), [], NOTE)


def attribute(name: str, value: Any) -> Change:
    def change(file: h5py.File) -> None:
        del file.attrs[name]
        file.attrs[name] = np.bytes_(value) if isinstance(value, str) else value

    return change


def note(**entries: Any) -> Change:
    return attribute("provenance", json.dumps(NOTE | entries))


def key(**fields: Any) -> Change:
    return attribute("identity", json.dumps(json.loads(IDENTITY.to_json()) | fields))


def part(name: str, **settings: Any) -> Change:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **settings)

    return change


def failures(text: str) -> Change:
    return part("failures", data=np.frombuffer(text.encode(), np.uint8))


def larger(file: h5py.File) -> None:
    """Declare 10¹² rows, of which no chunk is there."""
    for name, shape, kind in (
        ("hash", (32,), "u1"),
        ("view", (), "<u2"),
        ("embedding", (3,), "<f4"),
    ):
        settings = {"chunks": (256, *shape), "fletcher32": True}
        part(name, shape=(MANY, *shape), dtype=kind, **settings)(file)


DEEP = "[" * 50_000
WRONG: dict[str, Change] = {
    "10¹² rows": larger,
    "10¹² bytes of failures": part(
        "failures", shape=(MANY,), dtype="u1", chunks=(256,), fletcher32=True
    ),
    "a scalar": part("hash", data=np.uint8(1)),
    "provenance is a list": attribute("provenance", "[1]"),
    "provenance is deep": attribute("provenance", DEEP),
    "provenance is no text": attribute("provenance", np.arange(3)),
    "provenance is of any length": attribute("provenance", h5py.Empty("S1")),
    "rows are words": note(rows="2"),
    "rows beyond any number": note(rows=10**400),
    "seconds are a list": note(seconds=[1.0]),
    "an engine is a number": note(engine=3),
    "versions are a list": note(versions=["torch"]),
    "stages are words": note(stages={"read": "long"}),
    "identity is deep": attribute("identity", DEEP),
    "identity is a list": attribute("identity", "[]"),
    "its length is a word": key(embedding_dim="3"),
    "its mean is a word": key(mean="abc"),
    "its backbone is a number": key(backbone=3),
    "it has a field more": key(colour="red"),
    "failures are an object": failures("{}"),
    "failures are deep": failures(DEEP),
    "a failure has no hash": failures('[{"sha256": "ab", "path": "a", "reason": "b"}]'),
    "a failure's path is a number": failures(json.dumps([{"sha256": "0" * 64, "path": 1}])),
    **{
        f"filter {name}": part(
            "embedding", data=np.zeros((40, 3), np.float32), chunks=(40, 3), **settings
        )
        for name, settings in FILTERS.items()
    },
    "integers scaled": part(
        "hash", data=np.zeros((40, 32), np.uint8), chunks=(40, 32), scaleoffset=0
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_no_segment_says_is_an_error_that_names_the_file(
    name: str, segment: Path, tmp_path: Path
) -> None:
    with h5py.File(segment, "r+") as file:
        WRONG[name](file)
    root = segment.parent.parent
    with pytest.raises(CacheError, match=segment.name):
        read_header(segment)
    with pytest.raises(CacheError, match=segment.name):
        find_caches(root)
    ((_, error),) = verify(root)
    assert segment.name in str(error)
    (done,) = fetch(root, tmp_path / "here")
    assert [segment.name in str(error) for error in done.damaged] == [True]


def test_a_pipe_is_no_segment(segment: Path) -> None:
    import os

    segment.unlink()
    os.mkfifo(segment)
    with pytest.raises(CacheError, match="Not a regular file"):
        read_header(segment)
