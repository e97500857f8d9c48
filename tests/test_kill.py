"""Killed at any moment, alone or beside others: nothing is lost, doubled or half-written."""

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cache.maintenance.compact import compact as compact_here
from cache.maintenance.verify import verify
from cache.segment import Rows, read_header
from cache.store import read_all
from tests import killing

pytestmark = pytest.mark.slow

IMAGES = 60
KILLS, SOAK_KILLS = 25, 240


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return killing.draw_images(tmp_path_factory.mktemp("images"), IMAGES)


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    root = tmp_path_factory.mktemp("uninterrupted")
    assert killing.finish(killing.start(killing.fill, data, root)) == 0
    return read_all(killing.only_cache(root))


def holds_only(root: Path, whole: Rows) -> None:
    """Every segment is whole, every row in it is the right one, none appears twice to readers."""
    assert [error for _, error in verify(root) if error] == []
    if not list(root.glob("*/*.h5")):
        return
    rows = read_all(killing.only_cache(root))
    places = {key.tobytes(): i for i, key in enumerate(whole.hashes)}
    found = [places[key.tobytes()] for key in rows.hashes]
    assert len(set(found)) == len(found)
    assert np.array_equal(rows.embeddings, whole.embeddings[found])


def is_complete(root: Path, whole: Rows) -> None:
    """A cache equals the uninterrupted one, row for row, bit for bit, with nothing left over."""
    rows = read_all(killing.only_cache(root))
    assert np.array_equal(rows.hashes, whole.hashes)
    assert rows.embeddings.tobytes() == whole.embeddings.tobytes()
    assert list(root.glob("*/.*.tmp")) == []


def test_any_number_of_kills_costs_no_row(
    data: Path, uninterrupted: Rows, tmp_path: Path, soak: bool, figure: Callable[[str], None]
) -> None:
    chance, killed = random.Random(4), Counter[str]()
    started = time.perf_counter()
    killing.finish(killing.start(killing.fill, data, tmp_path / "timed"))
    duration = time.perf_counter() - started
    number, root = 0, tmp_path / "0"
    while killed.total() < (SOAK_KILLS if soak else KILLS):
        filled = root.exists() and len(list(root.glob("*/*.h5"))) > 1
        work = killing.compact if filled and chance.random() < 0.4 else killing.fill
        if chance.random() < 0.2:
            place = "any moment"
            code = killing.finish(
                killing.start(work, data, root), chance.uniform(0, 1.2 * duration)
            )
        else:
            places = ["build", "fsync", "rename", "delete"]
            places += ["decode", "compute", "write"] if work is killing.fill else ["fill"]
            death = killing.random_death(chance, places)
            place = death.place
            code = killing.finish(killing.start(work, data, root, death))
        assert code in (0, -9), f"{work.__name__} ended with {code} at {place}"
        killed[f"{work.__name__}: {place}"] += code == -9
        holds_only(root, uninterrupted)
        if chance.random() < 0.1:  # now let it come to its end
            assert killing.finish(killing.start(killing.fill, data, root)) == 0
            is_complete(root, uninterrupted)
            number += 1
            root = tmp_path / str(number)
    assert killing.finish(killing.start(killing.fill, data, root)) == 0
    is_complete(root, uninterrupted)
    assert len([place for place, count in killed.items() if count]) >= (12 if soak else 5)
    table = ", ".join(f"{place} {count}" for place, count in sorted(killed.items()) if count)
    figure(f"kills survived: {killed.total()} ({table}); rows lost: 0; duplicates: 0")


@pytest.mark.parametrize("writers", [2, 4])
def test_several_writers_neither_corrupt_nor_duplicate(
    data: Path, uninterrupted: Rows, tmp_path: Path, writers: int, figure: Callable[[str], None]
) -> None:
    running = [killing.start(killing.fill, data, tmp_path) for _ in range(writers)]
    assert [killing.finish(process) for process in running] == [0] * writers
    is_complete(tmp_path, uninterrupted)
    cache = killing.only_cache(tmp_path)
    written = sum(len(read_header(path).hashes) for path in cache.segments)
    figure(f"{writers} writers: {written} rows written for {IMAGES} images, {IMAGES} read")
    compact_here(cache)
    assert len(cache.segments) == 1
    is_complete(tmp_path, uninterrupted)


def test_writers_and_compactions_at_once(data: Path, uninterrupted: Rows, tmp_path: Path) -> None:
    """A compaction deletes what others have listed; they find its rows in the new segment."""
    running = [killing.start(killing.fill, data, tmp_path)]
    codes = []
    while running[0].is_alive():
        codes.append(killing.finish(killing.start(killing.compact, data, tmp_path)))
        holds_only(tmp_path, uninterrupted)
    assert killing.finish(running[0]) == 0
    assert set(codes) == {0}
    is_complete(tmp_path, uninterrupted)


def test_a_killed_writer_is_cleaned_up_after_only_when_nobody_writes(
    data: Path, tmp_path: Path
) -> None:
    death = killing.Death("rename", 2, after=False)
    assert killing.finish(killing.start(killing.fill, data, tmp_path, death)) == -9
    assert len(list(tmp_path.glob("*/.*.tmp"))) == 1
    assert killing.finish(killing.start(killing.fill, data, tmp_path)) == 0
    assert list(tmp_path.glob("*/.*.tmp")) == []
