"""A cache behind a URL: in memory, and over the real protocol of S3."""

import dataclasses
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
from s3fs import S3FileSystem
from upath import UPath

from cache.errors import CacheError, Failure, SegmentGoneError
from cache.locks import sharing
from cache.maintenance.compact import compact
from cache.maintenance.transfer import fetch
from cache.maintenance.verify import verify
from cache.segment import (
    Rows,
    read_each_header,
    read_embeddings,
    read_header,
    verify_segment,
    write_segment,
)
from cache.storage import BEGINNING
from cache.store import Cache, find_caches, open_cache, read, read_all, summarize
from extract.writer import SegmentWriter
from tests.test_cache import IDENTITY, NOTE, rows, write
from tests.toy import key

ACCESS: dict[str, Any] = {"key": "x", "secret": "x"}


@pytest.fixture
def bucket(endpoint: str) -> Path:
    """An empty bucket on it."""
    place: Any = UPath("s3://frost", endpoint_url=endpoint, **ACCESS)
    if place.exists():
        place.fs.rm("frost", recursive=True)
    place.fs.mkdir("frost")
    return cast(Path, place)


@pytest.fixture(params=["memory", "s3"])
def root(request: pytest.FixtureRequest) -> Iterator[Path]:
    if request.param == "s3":
        yield request.getfixturevalue("bucket") / "cache"
    else:
        place: Any = UPath("memory://frost/cache")
        yield cast(Path, place)
        place.fs.store.clear()


@pytest.fixture
def cache(root: Path) -> Cache:
    return open_cache(root, IDENTITY)


def wide(n: int = 300, dim: int = 256) -> tuple[Any, Rows]:
    """More embeddings than the beginning of a file holds."""
    key = dataclasses.replace(IDENTITY, embedding_dim=dim)
    embeddings = np.random.default_rng(0).normal(size=(n, dim)).astype(np.float32)
    found = rows(*range(n))
    return key, Rows(found.hashes, found.views, embeddings)


class TestSegments:
    def test_it_is_the_same_file_as_here(self, cache: Cache, tmp_path: Path) -> None:
        there, here = write(cache, 1, 2), write(open_cache(tmp_path, IDENTITY), 1, 2)
        assert there.name == here.name
        assert there.read_bytes() == here.read_bytes()
        assert [path.name for path in cache.folder.iterdir()] == [there.name]

    def test_what_is_written_is_read(self, cache: Cache) -> None:
        failed = Failure(key(9), "gel/ü [1].png", "the file is empty")
        path = write(cache, 1, 2, failed=[failed])
        header = read_header(path)
        assert header.key == IDENTITY
        assert header.failures == (failed,)
        assert np.array_equal(header.hashes, rows(1, 2).hashes)
        assert np.array_equal(read_embeddings(path), rows(1, 2).embeddings)
        verify_segment(path)

    def test_of_a_header_the_embeddings_are_not_fetched(
        self, bucket: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache_key, found = wide()
        cache = open_cache(bucket, cache_key)
        path = write_segment(cache.folder, cache_key, found, [], NOTE)
        fetched = list[str]()
        as_usual = S3FileSystem._call_s3

        async def noted(files: Any, method: str, *given: Any, **more: Any) -> Any:
            if method == "get_object":
                fetched.append((given[0] if given else more)["Range"])
            return await as_usual(files, method, *given, **more)

        monkeypatch.setattr(S3FileSystem, "_call_s3", noted)
        assert np.array_equal(read_header(path).hashes, found.hashes)
        assert summarize(cache).stored.issuperset(map(key, range(300)))
        assert fetched == [f"bytes=0-{BEGINNING - 1}"] * 2
        assert path.stat().st_size > 4 * BEGINNING

    def test_a_header_longer_than_the_beginning_is_fetched_whole(self, cache: Cache) -> None:
        failed = [Failure(key(n), f"{n}.png", "x" * 1000) for n in range(200)]
        path = write(cache, 1, failed=failed)
        assert read_header(path).failures == tuple(failed)
        assert summarize(cache).failures.keys() == {failure.sha256 for failure in failed} - {key(1)}

    def test_a_truncated_file_is_named_with_the_remedy(self, cache: Cache) -> None:
        key, found = wide()
        path = write_segment(cache.folder, key, found, [], NOTE)
        whole = path.read_bytes()
        for length in (10, 3000, 200_000, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(CacheError, match=f"//.*{path.name}.*Delete this file"):
                read_header(path)

    def test_a_flipped_bit_is_found_by_whoever_reads_it(self, cache: Cache) -> None:
        key, found = wide()
        path = write_segment(cache.folder, key, found, [], NOTE)
        damaged = bytearray(path.read_bytes())
        damaged[-1000] ^= 1
        path.write_bytes(damaged)
        for reading in (read_embeddings, verify_segment):
            with pytest.raises(CacheError, match=f"{path.name}.*Delete this file"):
                reading(path)

    def test_one_that_is_gone_is_not_to_be_deleted(self, cache: Cache) -> None:
        path = write(cache, 1)
        (gone,) = read_each_header([cache.folder / "gone.h5"])
        assert isinstance(gone, SegmentGoneError)
        for reading in (read_header, read_embeddings):
            with pytest.raises(SegmentGoneError, match=r"gone\.h5 can't be opened"):
                reading(path.parent / "gone.h5")

    def test_a_compacted_one_is_read_instead_of_mapped(self, cache: Cache, tmp_path: Path) -> None:
        here = open_cache(tmp_path, IDENTITY)
        write(here, 2, 1)
        compacted = compact(here)
        assert compacted
        (cache.folder / compacted.name).write_bytes(compacted.read_bytes())
        assert read(cache)[:, 0].tolist() == [1, 2]


class TestStore:
    def test_nothing_is_there_before_it_is_written(self, cache: Cache, root: Path) -> None:
        assert cache.segments == []
        assert find_caches(root) == []
        assert read(cache, []).shape == (0, 3)

    def test_it_is_read_as_any_other(self, cache: Cache, root: Path) -> None:
        write(cache, 1, 2, failed=[Failure(key(7), "7.png", "empty")])
        write(cache, 3)
        assert find_caches(root) == [cache]
        assert read(cache, [key(3), key(1)])[:, 0].tolist() == [3, 1]
        assert read_all(cache).embeddings[:, 0].tolist() == [1, 2, 3]
        assert summarize(cache).lacking([key(3), key(4), key(7)]) == {key(4)}
        assert [error for _, error in verify(root)] == [None, None]

    def test_a_segment_of_another_cache_is_refused(self, cache: Cache, root: Path) -> None:
        other = dataclasses.replace(IDENTITY, precision="bf16")
        path = write_segment(cache.folder, other, rows(1), [], NOTE)
        with pytest.raises(CacheError, match=f"{path.name} belongs to another cache"):
            summarize(cache)
        assert next(str(error) for _, error in verify(root)).startswith(str(path))

    def test_nobody_is_alone(self, cache: Cache) -> None:
        with sharing(cache.folder) as first, sharing(cache.folder) as second:
            assert not first
            assert not second
        assert not cache.folder.exists()

    def test_it_is_not_compacted_there(self, cache: Cache, root: Path) -> None:
        write(cache, 1)
        with pytest.raises(CacheError, match=f"cache fetch {root}"):
            compact(cache)

    def test_writers_see_what_others_wrote(self, cache: Cache) -> None:
        with ThreadPoolExecutor(1) as pool:
            writer = SegmentWriter(cache, {"weights": "random:0"}, pool)
            writer.add([key(1), key(2)], rows(1, 2).embeddings, [])
            write(cache, 2, 3)
            writer.refresh()
            assert key(3) in writer.stored
            writer.close()
        assert read_all(cache).embeddings[:, 0].tolist() == [1, 2, 3]
        assert sum(len(read_header(path).hashes) for path in cache.segments) == 3


def test_a_server_that_does_not_answer_is_one_clear_error() -> None:
    place: Any = UPath(
        "s3://frost/cache",
        endpoint_url="http://127.0.0.1:1",
        config_kwargs={"retries": {"max_attempts": 0}, "connect_timeout": 1},
        **ACCESS,
    )
    place.fs.retries = 1
    with pytest.raises(CacheError, match=r"s3://frost/cache can't be reached.*try again"):
        find_caches(place)


class TestFetch:
    def test_every_cache_comes_whole(self, root: Path, tmp_path: Path) -> None:
        other = open_cache(root, dataclasses.replace(IDENTITY, device="cuda"))
        cache = open_cache(root, IDENTITY)
        paths = [write(cache, 1, 2), write(cache, 3), write(other, 1)]
        steps = list[tuple[int, int]]()
        done = fetch(root, tmp_path, lambda *step: steps.append(step))
        assert [(f.folder.name, f.copied, f.rows, f.present, f.damaged) for f in done] == [
            (cache.folder.name, 2, 3, 0, ()),
            (other.folder.name, 1, 1, 0, ()),
        ]
        assert steps == [(1, 3), (2, 3), (3, 3)]
        for path in paths:
            copy = tmp_path / path.parent.name / path.name
            assert copy.read_bytes() == path.read_bytes()
        assert not list(tmp_path.glob("*/.*.tmp"))

    def test_what_is_here_is_not_fetched_again(self, cache: Cache, tmp_path: Path) -> None:
        write(cache, 1, 2)
        fetch(cache.folder.parent, tmp_path)
        write(cache, 3)
        (again,) = fetch(cache.folder.parent, tmp_path)
        assert (again.copied, again.rows, again.present) == (1, 1, 1)

    def test_what_was_compacted_here_counts_by_its_rows(self, cache: Cache, tmp_path: Path) -> None:
        here = open_cache(tmp_path, IDENTITY)
        write(cache, 1, 2, failed=[Failure(key(8), "8.png", "empty")])
        write(cache, 3, failed=[Failure(key(1), "1.png", "no network")])
        fetch(cache.folder.parent, tmp_path)
        path = compact(here)
        write(cache, 4)
        write(cache, failed=[Failure(key(9), "9.png", "empty")])
        (again,) = fetch(cache.folder.parent, tmp_path)
        assert (again.copied, again.rows, again.present) == (2, 1, 2)
        assert path in here.segments
        assert read_all(here).embeddings[:, 0].tolist() == [1, 2, 3, 4]
        assert summarize(here).failures.keys() == {key(8), key(9)}

    def test_a_row_counts_that_failed_here(self, cache: Cache, tmp_path: Path) -> None:
        write(open_cache(tmp_path, IDENTITY), failed=[Failure(key(1), "1.png", "no network")])
        write(cache, 1)
        (done,) = fetch(cache.folder.parent, tmp_path)
        assert done.rows == 1

    def test_a_damaged_segment_costs_itself(self, cache: Cache, tmp_path: Path) -> None:
        good, bad = write(cache, 1, 2), write(cache, 3)
        damaged = bytearray(bad.read_bytes())
        with h5py.File(io.BytesIO(damaged)) as file:
            damaged[file["embedding"].id.get_chunk_info(0).byte_offset] ^= 1
        bad.write_bytes(damaged)
        for _ in range(2):  # the second time, something is here already
            (done,) = fetch(cache.folder.parent, tmp_path)
            assert len(done.damaged) == 1
            assert str(bad) in str(done.damaged[0])
        assert {path.name for path in done.folder.iterdir()} == {good.name, ".lock"}

    def test_a_segment_of_another_cache_stays_there(self, cache: Cache, tmp_path: Path) -> None:
        other = dataclasses.replace(IDENTITY, precision="bf16")
        write_segment(cache.folder, other, rows(1), [], NOTE)
        (done,) = fetch(cache.folder.parent, tmp_path)
        assert "belongs to another cache" in str(done.damaged[0])
        assert done.copied == 0

    def test_a_folder_without_caches_is_named(self, root: Path, tmp_path: Path) -> None:
        with pytest.raises(CacheError, match=f"{root} holds no cache"):
            fetch(root, tmp_path)
