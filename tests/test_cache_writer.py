"""Segments cut by the number of rows: whoever writes them, and however often, the same files."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache.errors import CacheError, Failure
from cache.segment import read_header
from cache.store import Cache, as_keys, open_cache, read_all, row_key
from extract import writer as module
from extract.writer import SegmentWriter
from tests.test_cache import IDENTITY, rows, write
from tests.toy import key

SHARD = range(25)
UNREADABLE = {3: "empty", 11: "truncated"}


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_ROWS", 10)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return open_cache(tmp_path, IDENTITY)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as one:
        yield one


def keep(writer: SegmentWriter, images: Sequence[int], batch: int = 4) -> None:
    """Add the rows that the writer lacks, and the failures, as an extraction does: in batches."""
    images = [n for n in images if key(n) not in writer.stored]
    for start in range(0, len(images), batch):
        some = images[start : start + batch]
        good = [n for n in some if n not in UNREADABLE]
        failed = [Failure(key(n), f"{n}.png", UNREADABLE[n]) for n in some if n in UNREADABLE]
        writer.add([key(n) for n in good], rows(*good).embeddings, failed)


def names(cache: Cache) -> list[str]:
    return [path.name for path in cache.segments]


def counts(cache: Cache) -> list[int]:
    return sorted(len(read_header(path).hashes) for path in cache.segments)


@pytest.fixture
def expected(tmp_path: Path, pool: ThreadPoolExecutor) -> list[str]:
    """Return the names of the shard's segments, written at once."""
    cache = open_cache(tmp_path / "at once", IDENTITY)
    writer = SegmentWriter(cache, {}, pool, seconds=None)
    keep(writer, SHARD)
    writer.close()
    assert counts(cache) == [3, 10, 10]
    return names(cache)


@pytest.mark.parametrize("batch", [1, 3, 7, 25])
def test_the_size_of_batches_does_not_matter(
    cache: Cache, pool: ThreadPoolExecutor, expected: list[str], batch: int
) -> None:
    writer = SegmentWriter(cache, {"host": "another"}, pool, seconds=None)
    keep(writer, SHARD, batch)
    writer.close()
    assert names(cache) == expected


@pytest.mark.parametrize("until", range(0, 25, 4))
def test_after_a_kill_the_next_one_writes_what_the_first_would_have(
    cache: Cache, pool: ThreadPoolExecutor, expected: list[str], until: int
) -> None:
    killed = SegmentWriter(cache, {}, pool, seconds=None)
    keep(killed, SHARD[:until])  # never closed: what is not yet a segment is lost
    pool.submit(lambda: None).result()
    again = SegmentWriter(cache, {}, pool, seconds=None)
    keep(again, SHARD)
    again.close()
    assert names(cache) == expected
    assert sum(counts(cache)) == len(SHARD) - len(UNREADABLE)


@pytest.mark.parametrize("ahead", range(0, 25, 4))
def test_two_that_do_the_same_shard_leave_it_once(
    cache: Cache, pool: ThreadPoolExecutor, expected: list[str], ahead: int
) -> None:
    """A node that was given up, but lives: it goes on while another does its shard."""
    given_up = SegmentWriter(cache, {}, pool, seconds=None)
    keep(given_up, SHARD[:ahead])
    pool.submit(lambda: None).result()
    other = SegmentWriter(cache, {}, pool, seconds=None)
    keep(other, SHARD)
    other.close()
    keep(given_up, SHARD[ahead:])
    given_up.close()
    assert names(cache) == expected
    assert sum(counts(cache)) == len(SHARD) - len(UNREADABLE)


def test_two_that_write_in_the_same_moment_write_the_same_file(
    cache: Cache, pool: ThreadPoolExecutor, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = [SegmentWriter(cache, {}, pool, seconds=None) for _ in range(2)]
    for writer in writers:
        monkeypatch.setattr(writer, "refresh", lambda: None)  # each has looked already
        keep(writer, SHARD)
        writer.close()
    assert names(cache) == expected


def test_what_others_wrote_is_known_after_a_look(cache: Cache, pool: ThreadPoolExecutor) -> None:
    writer = SegmentWriter(cache, {}, pool, seconds=None)
    write(cache, 1, 2, failed=[Failure(key(3), "3.png", "empty")])
    assert key(1) not in writer.stored
    writer.refresh()
    assert key(1) in writer.stored
    keep(writer, [1, 2, 3, 4])
    writer.close()
    assert counts(cache) == [1, 2]
    assert sum(len(read_header(path).failures) for path in cache.segments) == 1


def test_a_damaged_segment_of_others_does_no_harm(cache: Cache, pool: ThreadPoolExecutor) -> None:
    writer = SegmentWriter(cache, {}, pool, seconds=None)
    path = write(cache, 1, 2)
    path.write_bytes(path.read_bytes()[:100])
    keep(writer, [5])
    writer.close()
    path.unlink()
    assert as_keys(read_all(cache).hashes) == [key(5)]


def test_of_an_image_each_view_is_a_row(cache: Cache, pool: ThreadPoolExecutor) -> None:
    writer = SegmentWriter(cache, {}, pool, seconds=None)
    keys = [row_key(key(n), view) for n in range(6) for view in range(3)]
    writer.add(keys, rows(*range(18)).embeddings, [])
    writer.close()
    assert counts(cache) == [8, 10]
    assert SegmentWriter(cache, {}, pool).stored.missing(keys) == set()


def test_with_a_limit_of_time_a_segment_ends_earlier(
    cache: Cache, pool: ThreadPoolExecutor
) -> None:
    writer = SegmentWriter(cache, {}, pool, seconds=0)
    keep(writer, SHARD[:8])
    writer.close()
    assert counts(cache) == [3, 4]


def test_an_error_of_writing_is_told_once_and_the_next_rows_are_kept(
    cache: Cache, pool: ThreadPoolExecutor
) -> None:
    writer = SegmentWriter(cache, {}, pool, seconds=None)
    writer.add([key(1)], rows(1, value=float("nan")).embeddings, [])
    with pytest.raises(CacheError, match="NaN"):
        writer.close()
    writer.close()
    keep(writer, [2])
    writer.close()
    assert counts(cache) == [1]
