"""Compaction, pruning and what readers get from a compacted cache."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.errors import CacheError, Failure
from cache.maintenance.compact import compact
from cache.provenance import merge_notes
from cache.segment import Rows, read_header, verify_segment, write_segment
from cache.store import Cache, open_cache, read, read_all, summarize
from tests.test_cache import IDENTITY, NOTE, rows, write
from tests.toy import key


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return open_cache(tmp_path, IDENTITY)


def fill(cache: Cache) -> None:
    write(cache, 5, 1, 9, failed=[Failure(key(3), "3.png", "empty")])
    write(cache, 2, 3)
    write(cache, 5, 7, failed=[Failure(key(8), "8.png", "truncated")])


def is_mapped(array: np.ndarray) -> bool:
    base = array
    while base is not None and not isinstance(base, np.memmap):
        base = base.base  # type: ignore[assignment]
    return base is not None


def test_the_same_rows_in_order(cache: Cache) -> None:
    fill(cache)
    path = compact(cache)
    assert cache.segments == [path]
    found = read_all(cache)
    assert found.embeddings[:, 0].tolist() == [1, 2, 3, 5, 7, 9]
    assert read_header(cache.segments[0]).provenance == merge_notes([NOTE] * 3)


def test_reading_all_or_a_run_of_rows_copies_nothing(cache: Cache) -> None:
    fill(cache)
    compact(cache)
    assert is_mapped(read(cache))
    assert is_mapped(read(cache, [key(2), key(3), key(5)]))
    picked = read(cache, [key(5), key(2)])
    assert picked[:, 0].tolist() == [5, 2]
    for array in (read(cache), picked):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_equal_caches_become_equal_files(cache: Cache, tmp_path: Path) -> None:
    other = open_cache(tmp_path / "other", IDENTITY)
    fill(cache)
    write(other, 9, 7, 5, failed=[Failure(key(8), "8.png", "truncated")])
    write(other, 3, 2, 1)
    first, second = compact(cache), compact(other)
    assert first and second
    assert first.name == second.name


def test_a_failure_that_became_readable_is_dropped(cache: Cache) -> None:
    fill(cache)
    before = summarize(cache)
    compact(cache)
    assert summarize(cache).failures.keys() == before.failures.keys() == {key(8)}
    assert [f.sha256 for f in read_header(cache.segments[0]).failures] == [key(8)]


def test_compacting_again_changes_nothing(cache: Cache) -> None:
    fill(cache)
    path = compact(cache)
    assert path
    written = path.stat().st_mtime_ns
    assert compact(cache) == path
    assert path.stat().st_mtime_ns == written


def test_a_single_segment_is_replaced_by_its_compacted_self(cache: Cache) -> None:
    path = write(cache, 1, 2, 3)
    assert compact(cache) == path
    assert read_header(path).compacted
    assert len(read_all(cache).hashes) == 3


def test_new_rows_go_beside_it_and_into_it(cache: Cache) -> None:
    fill(cache)
    compact(cache)
    write(cache, 4)
    assert read(cache, [key(4), key(5)])[:, 0].tolist() == [4, 5]
    compact(cache)
    assert read_all(cache).embeddings[:, 0].tolist() == [1, 2, 3, 4, 5, 7, 9]


def test_pruning_drops_rows_and_failures(cache: Cache) -> None:
    fill(cache)
    compact(cache, {key(1), key(8), key(77)})
    assert read_all(cache).embeddings[:, 0].tolist() == [2, 3, 5, 7, 9]
    assert summarize(cache).failures == {}


def test_pruning_everything_leaves_an_empty_cache(cache: Cache) -> None:
    fill(cache)
    assert compact(cache, {key(n) for n in (1, 2, 3, 5, 7, 8, 9)}) is None
    assert cache.segments == []
    assert read_all(cache).embeddings.shape == (0, 3)


def test_failures_alone_are_kept(cache: Cache) -> None:
    write(cache, 1, failed=[Failure(key(8), "8.png", "truncated")])
    path = compact(cache, {key(1)})
    assert path
    assert summarize(cache).failures.keys() == {key(8)}
    assert compact(cache) == path
    assert cache.segments == [path]


def test_views_lie_one_after_the_other(cache: Cache) -> None:
    hashes = np.concatenate([rows(2, 1).hashes, rows(2, 1).hashes])
    embeddings = np.arange(12, dtype=np.float32).reshape(4, 3)
    views = np.array([0, 0, 3, 3], np.uint16)
    write_segment(cache.folder, IDENTITY, Rows(hashes, views, embeddings), [], NOTE)
    compact(cache)
    assert is_mapped(read(cache, view=3))
    assert read(cache, [key(1), key(2)], view=3)[:, 0].tolist() == [9, 6]
    found = read_all(cache)
    assert found.views.tolist() == [0, 3, 0, 3]
    assert found.embeddings[:, 0].tolist() == [3, 9, 0, 6]


def test_a_damaged_segment_stops_it_before_anything_changes(cache: Cache) -> None:
    fill(cache)
    bad = cache.segments[1]
    with h5py.File(bad, "r+") as file:
        file["embedding"][0, 0] += 1
    segments = cache.segments
    with pytest.raises(CacheError, match=f"{bad.name}.*checksum"):
        compact(cache)
    assert cache.segments == segments


def test_nan_in_a_compacted_segment_is_found_by_verify(cache: Cache) -> None:
    fill(cache)
    path = compact(cache)
    assert path
    with h5py.File(path, "r+") as file:
        file["embedding"][0, 0] = np.nan
    with pytest.raises(CacheError, match="NaN or infinity"):
        verify_segment(path)


def test_a_segment_of_another_cache_stops_it(cache: Cache) -> None:
    fill(cache)
    other = dataclasses.replace(IDENTITY, precision="bf16")
    write_segment(cache.folder, other, rows(4), [], NOTE)
    with pytest.raises(CacheError, match="precision: 'bf16'"):
        compact(cache)


def test_notes_add_numbers_and_list_words() -> None:
    notes = [
        {"engine": "torch", "rows": 2, "versions": {"h5py": "3.16"}},
        {"engine": "openvino", "rows": 3, "versions": {"h5py": "3.16", "openvino": "2026"}},
    ]
    summed = merge_notes(notes)
    assert summed == {
        "engine": ["openvino", "torch"],
        "rows": 5,
        "versions": {"h5py": "3.16", "openvino": "2026"},
    }
    assert merge_notes([summed, notes[0]])["engine"] == ["openvino", "torch"]
