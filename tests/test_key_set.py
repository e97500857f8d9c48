"""The set of row keys: as a Python set, in less memory."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import key_set as module
from cache.key_set import KeySet
from cache.store import open_cache, read_headers, row_key, row_keys, summarize
from tests.test_cache import IDENTITY, rows, write
from tests.toy import key

KEYS = st.builds(row_key, st.integers(0, 600).map(key), st.sampled_from([0, 1, 256]))


def of(*numbers: int, view: int = 0) -> KeySet:
    found = rows(*numbers)
    return KeySet([(found.hashes, np.full(len(numbers), view, np.uint16))])


@given(st.sets(KEYS), st.lists(st.sets(KEYS)), st.sets(KEYS))
def test_it_is_the_set_that_python_has(
    first: set[bytes], more: list[set[bytes]], asked: set[bytes]
) -> None:
    known, real = KeySet(), set(first)
    known.update(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RECENT", 5)
        for keys in more:
            known.update(keys)
            real |= keys
    assert set(known) == real
    assert len(known) == len(real)
    assert sorted(known) == sorted(real)
    assert known.missing(asked) == asked - real == asked - known == frozenset(asked) - known
    assert known.issuperset(asked) == real.issuperset(asked)
    assert known & asked == real & asked
    assert [key in known for key in asked] == [key in real for key in asked]


def test_a_key_that_ends_in_zeros_is_itself() -> None:
    odd = (7).to_bytes(32, "little")
    known = KeySet([(np.frombuffer(odd, np.uint8).reshape(1, 32), np.zeros(1, np.uint16))])
    assert odd in known
    assert list(known) == [odd]
    assert odd[:-1] + b"\1" not in known


def test_views_of_one_image_are_different_keys() -> None:
    known = of(1, view=3)
    assert row_key(key(1), 3) in known
    assert key(1) not in known
    assert row_key(key(1), 768) not in known  # the same bytes the other way around


def test_rows_that_several_segments_hold_count_once() -> None:
    found = rows(3, 1, 3)
    known = KeySet([(found.hashes, found.views), (found.hashes, found.views)])
    assert len(known) == 2
    assert set(known) == {key(1), key(3)}


def test_an_empty_one_has_nothing() -> None:
    assert len(KeySet()) == 0
    assert key(1) not in KeySet()
    assert KeySet().missing([key(1)]) == {key(1)}
    assert KeySet().missing([]) == set()


def test_of_a_cache_it_holds_every_row(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, IDENTITY)
    write(cache, 1, 2)
    write(cache, 2, 5)
    found = read_headers(cache)
    known = KeySet((header.hashes, header.views) for _, header in found)
    assert set(known) == {key for _, header in found for key in row_keys(header)}
    assert set(summarize(cache).stored) == set(known) == {key(1), key(2), key(5)}


def test_a_key_takes_34_bytes_and_no_more() -> None:
    hashes = np.random.default_rng(0).integers(0, 256, (100_000, 32), np.uint8)
    known = KeySet([(hashes, np.zeros(len(hashes), np.uint16))])
    known.update(hashes.view("V32").ravel()[:10].tolist())
    assert known._sorted.nbytes == 34 * len(known)
    assert not known._recent
