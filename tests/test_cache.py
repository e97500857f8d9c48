"""The cache's promises: whole segments or none, nothing mixed, nothing believed."""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cache.embedding_key import EmbeddingKey
from cache.errors import CacheError, Failure
from cache.files import replacing
from cache.segment import Rows, read_embeddings, read_header, verify_segment, write_segment
from cache.store import Cache, find_caches, open_cache, read, summarize
from extract.writer import SegmentWriter
from tests.toy import key

IDENTITY = EmbeddingKey(
    backbone="toy",
    weights_sha256="ab" * 32,
    embedding_dim=3,
    gray="luma",
    bit_depth="full scale",
    fit="stretch",
    interpolation="bilinear",
    size=224,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    views="0: clean",
    precision="fp32",
    calibration="",
    device="cpu",
)
NOTE = {"weights": "random:0", "engine": "torch", "rows": 2, "seconds": 1.0}


def rows(*numbers: int, value: float = 0.0) -> Rows:
    hashes = np.frombuffer(b"".join(map(key, numbers)), np.uint8).reshape(-1, 32)
    embeddings = np.array([[n, n + 0.5, value] for n in numbers], np.float32).reshape(-1, 3)
    return Rows(hashes, np.zeros(len(numbers), np.uint16), embeddings)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return open_cache(tmp_path, IDENTITY)


def write(
    cache: Cache, *numbers: int, value: float = 0.0, failed: list[Failure] | None = None
) -> Path:
    return write_segment(cache.folder, cache.key, rows(*numbers, value=value), failed or [], NOTE)


class TestIdentity:
    def test_survives_json(self) -> None:
        assert EmbeddingKey.from_json(IDENTITY.to_json()) == IDENTITY

    @pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(EmbeddingKey)])
    def test_any_difference_is_another_cache(self, field: str) -> None:
        old = getattr(IDENTITY, field)
        new: Any = {str: "other", int: 99, tuple: (0.1, 0.2, 0.3)}[type(old)]
        other = dataclasses.replace(IDENTITY, **{field: new})
        assert other.name != IDENTITY.name
        assert IDENTITY.differences(other) == [f"{field}: {old!r}, not {new!r}"]

    def test_another_format_is_refused(self) -> None:
        text = dataclasses.replace(IDENTITY, format_version=2).to_json()
        with pytest.raises(CacheError, match="cache format 2"):
            EmbeddingKey.from_json(text)


class TestAtomic:
    def test_the_old_file_stays_when_writing_fails(self, tmp_path: Path) -> None:
        target = tmp_path / "file"
        target.write_text("old")
        with pytest.raises(RuntimeError), replacing(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")
        assert target.read_text() == "old"
        assert list(tmp_path.iterdir()) == [target]


class TestSegments:
    def test_what_is_written_is_read(self, cache: Cache) -> None:
        failed = Failure(key(9), "gel/ü [1].png", "the file is empty")
        path = write(cache, 1, 2, failed=[failed])
        header = read_header(path)
        assert header.key == IDENTITY
        assert np.array_equal(header.hashes, rows(1, 2).hashes)
        assert header.views.tolist() == [0, 0]
        assert header.failures == (failed,)
        assert header.provenance == NOTE
        assert np.array_equal(read_embeddings(path), rows(1, 2).embeddings)

    def test_the_same_rows_are_the_same_file(self, cache: Cache) -> None:
        assert write(cache, 1, 2) == write(cache, 1, 2)
        assert len(cache.segments) == 1

    def test_a_segment_of_failures_only(self, cache: Cache) -> None:
        failed = Failure(key(9), "a.png", "empty")
        assert read_header(write(cache, failed=[failed])).failures == (failed,)

    def test_nan_is_never_stored(self, cache: Cache) -> None:
        with pytest.raises(CacheError, match="NaN"):
            write(cache, 1, value=float("nan"))
        assert cache.segments == []

    def test_another_length_is_never_stored(self, cache: Cache) -> None:
        wrong = Rows(rows(1).hashes, rows(1).views, np.zeros((1, 4), np.float32))
        with pytest.raises(CacheError, match=r"shape \(1, 4\)"):
            write_segment(cache.folder, IDENTITY, wrong, [], NOTE)

    @pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
    def test_a_truncated_file_is_named_with_the_remedy(self, cache: Cache, keep: float) -> None:
        path = write(cache, *range(100))
        size = int(keep if keep > 1 else keep * path.stat().st_size)
        os.truncate(path, size)
        with pytest.raises(CacheError, match=f"{path.name}.*Delete this file"):
            read_header(path)

    def test_a_foreign_file_is_refused(self, cache: Cache) -> None:
        cache.folder.mkdir()
        path = cache.folder / "foreign.h5"
        with h5py.File(path, "w") as file:
            file["embedding"] = np.zeros((2, 3))
        with pytest.raises(CacheError, match="not a Frostline segment"):
            read_header(path)

    def test_wrong_shapes_are_refused(self, cache: Cache) -> None:
        path = write(cache, 1, 2)
        with h5py.File(path, "r+") as file:
            del file["view"]
            file["view"] = np.zeros(3, np.uint16)
        with pytest.raises(CacheError, match="shapes"):
            read_header(path)

    def test_a_segment_of_a_newer_version_is_not_to_be_deleted(self, cache: Cache) -> None:
        newer = dataclasses.replace(IDENTITY, format_version=2)
        path = write_segment(cache.folder, newer, rows(1), [], NOTE)
        with pytest.raises(CacheError, match="cache format 2") as caught:
            read_header(path)
        assert "Delete" not in str(caught.value)

    def test_a_file_that_cannot_be_opened_now_is_not_to_be_deleted(self, cache: Cache) -> None:
        with pytest.raises(CacheError, match="can't be opened") as caught:
            read_header(cache.folder / "gone.h5")
        assert "Delete" not in str(caught.value)

    def test_verify_finds_a_changed_number(self, cache: Cache) -> None:
        path = write(cache, 1, 2)
        verify_segment(path)
        with h5py.File(path, "r+") as file:
            file["embedding"][1, 2] = 1e-30
        with pytest.raises(CacheError, match="checksum"):
            verify_segment(path)

    def test_hdf5_itself_finds_a_flipped_bit_on_reading(self, cache: Cache) -> None:
        path = write(cache, *range(50))
        with h5py.File(path) as file:
            offset = file["embedding"].id.get_chunk_info(0).byte_offset
        data = bytearray(path.read_bytes())
        data[offset + 10] ^= 4
        path.write_bytes(data)
        with pytest.raises(CacheError, match=path.name):
            read_embeddings(path)


class TestStore:
    def test_rows_come_in_the_order_asked_for(self, cache: Cache) -> None:
        write(cache, 1, 2)
        write(cache, 3)
        found = read(cache, [key(3), key(1), key(3)])
        assert found.dtype == np.float32
        assert found[:, 0].tolist() == [3, 1, 3]
        assert set(summarize(cache).stored) == {key(1), key(2), key(3)}

    def test_a_row_written_twice_is_read_from_the_first_segment_by_name(self, cache: Cache) -> None:
        values = {write(cache, 1, value=value).name: value for value in (1.0, 2.0, 3.0)}
        assert read(cache, [key(1)])[0, 2] == values[min(values)]

    def test_missing_rows_are_counted(self, cache: Cache) -> None:
        write(cache, 1)
        with pytest.raises(CacheError, match=r"lacks 2 of 3 images.*run extract"):
            read(cache, [key(1), key(2), key(3)])

    def test_a_failure_is_no_lack(self, cache: Cache) -> None:
        write(cache, 1, failed=[Failure(key(2), "a.png", "empty")])
        held = summarize(cache)
        assert held.lacking([key(1), key(2), key(3)]) == {key(3)}
        assert held.failures[key(2)].reason == "empty"

    def test_a_segment_of_another_cache_is_refused_with_every_difference(
        self, cache: Cache
    ) -> None:
        other = dataclasses.replace(IDENTITY, precision="bf16", device="cuda")
        write_segment(cache.folder, other, rows(1), [], NOTE)
        with pytest.raises(CacheError, match=r"precision: 'bf16'.*device: 'cuda'"):
            read(cache, [key(1)])

    def test_caches_are_found_by_what_they_hold(self, tmp_path: Path) -> None:
        (tmp_path / "__pycache__").mkdir()
        other = dataclasses.replace(IDENTITY, device="cuda")
        for cache_key in (IDENTITY, other):
            write(open_cache(tmp_path, cache_key), 1)
        assert {cache.key.device for cache in find_caches(tmp_path)} == {"cpu", "cuda"}

    def test_provenance_sums_up(self, cache: Cache) -> None:
        write(cache, 1, 2)
        write(cache, 3, 4)
        assert summarize(cache).seconds_per_image == 0.5
        assert summarize(cache).weights == "random:0"

    def test_an_empty_cache_holds_nothing(self, cache: Cache) -> None:
        assert not summarize(cache).stored
        assert read(cache, []).shape == (0, 3)


def test_embeddings_are_read_only_however_they_lie(cache: Cache) -> None:
    write(cache, 1, 2)
    for embeddings in (read(cache), read(cache, [key(2), key(1)])):
        with pytest.raises(ValueError, match="read-only"):
            embeddings[0, 0] = 1


def test_of_two_reasons_the_first_segments_stays(cache: Cache) -> None:
    written = {
        write(cache, n, failed=[Failure(key(9), "a.png", reason)]): reason
        for n, reason in enumerate(("empty", "truncated", "refused"))
    }
    assert summarize(cache).failures[key(9)].reason == written[cache.segments[0]]


def test_a_damaged_row_is_an_error_to_whoever_reads_it(cache: Cache) -> None:
    """Without `verify`: HDF5 holds every chunk that it reads against its own checksum."""
    path = write(cache, 1, 2)
    with h5py.File(path) as file:
        chunk = file["embedding"].id.get_chunk_info(0)
    damaged = bytearray(path.read_bytes())
    damaged[chunk.byte_offset] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CacheError, match=path.name):
        read(cache)


def test_a_writer_leaves_out_what_others_wrote_meanwhile(cache: Cache) -> None:
    with ThreadPoolExecutor(1) as pool:
        writer = SegmentWriter(cache, {"weights": "random:0"}, pool)
        writer.add([key(1), key(2)], rows(1, 2).embeddings, [])
        write(cache, 2, 3)
        writer.close()
    assert set(writer.stored) == {key(1), key(2), key(3)}
    assert sum(len(read_header(path).hashes) for path in cache.segments) == 3
