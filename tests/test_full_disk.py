"""A disk that is full: nothing that was finished is lost; with room, the run goes on."""

import errno
import os
import re
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from cache.errors import CacheError
from cache.maintenance.compact import compact
from cache.maintenance.verify import verify
from cache.segment import Rows, write_segment
from cache.store import Cache, open_cache, read_all
from extract.artifact_store import ArtifactStore, Note
from extract.backends.openvino import convert, save
from extract.dataset import scan
from extract.embedding_spec import LoadedBackbone
from extract.imaging.decode import SIZE
from extract.imaging.gray_input import GrayInput
from heads.config import HeadConfig
from heads.search.space import SearchPlan
from heads.training import train_heads
from tests import killing
from tests.test_cache import IDENTITY, NOTE, rows
from tests.toy import extract_one

pytestmark = pytest.mark.slow

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mounted)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


def is_whole(root: Path) -> None:
    assert [error for _, error in verify(root) if error] == []
    assert list(root.glob("*/.*.tmp")) == []


def numbered(first: int, count: int) -> Rows:
    return rows(*range(first, first + count))


def test_extraction_stops_and_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, toy: LoadedBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.writer.SEGMENT_ROWS", 16)
    images = scan(killing.draw_images(tmp_path / "images", 80)).files
    (small_disk / "filler").write_bytes(bytes(225 * 1024))
    with pytest.raises(OSError, match="No space left"):
        extract_one(toy, images, small_disk)
    is_whole(small_disk)
    kept = len(read_all(killing.only_cache(small_disk)).hashes)
    assert 0 < kept < 80
    enlarge(small_disk)
    again = extract_one(toy, images, small_disk)
    assert (again.present, again.computed) == (kept, 80 - kept)
    whole = extract_one(toy, images, tmp_path / "whole")
    assert np.array_equal(read_all(again.cache).embeddings, read_all(whole.cache).embeddings)


def test_compaction_without_room_says_how_much_it_needs(small_disk: Path) -> None:
    cache = open_cache(small_disk, IDENTITY)
    for first in (0, 1000):
        write_segment(cache.folder, IDENTITY, numbered(first, 1000), [], NOTE)
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 8192))
    before = read_all(cache).embeddings
    with pytest.raises(CacheError, match=r"needs .* MiB .* nothing was changed"):
        compact(cache)
    assert np.array_equal(read_all(cache).embeddings, before)
    is_whole(small_disk)


def test_compaction_whose_room_is_taken_meanwhile(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(small_disk, IDENTITY)
    for first in (0, 1000):
        write_segment(cache.folder, IDENTITY, numbered(first, 1000), [], NOTE)
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 8192))
    monkeypatch.setattr("cache.maintenance.compact.disk_usage", lambda folder: Usage(1, 0, 1 << 30))
    with pytest.raises(OSError, match="No space left"):
        compact(cache)
    assert len(cache.segments) == 2
    is_whole(small_disk)
    enlarge(small_disk)
    assert compact(cache)
    assert len(read_all(cache).hashes) == 2000


def test_a_head_without_room_says_in_one_sentence_how_much_it_needs(
    small_disk: Path, caches: dict[str, Cache], labels: dict[bytes, str]
) -> None:
    """Of 1,280 x 512 numbers: 2.6 MB and more."""
    sweep = SearchPlan((HeadConfig("multi", "sgd", epochs=1),))
    with pytest.raises(OSError, match="No space left") as raised:
        train_heads(caches["cpu"], labels, "dataset", sweep, small_disk / "heads")
    assert re.search(r"\(3\.0 MiB are needed\)", str(raised.value))
    assert "multi-sgd" in str(raised.value)
    assert [path.name for path in (small_disk / "heads").glob("*.safetensors")] == []
    enlarge(small_disk)
    done = train_heads(caches["cpu"], labels, "dataset", sweep, small_disk / "heads")
    assert done.trained == 1


def test_a_converted_graph_without_room_says_how_much_it_needs(small_disk: Path) -> None:
    """Of 8 x 50,176 numbers."""
    wide = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 8))
    graph = convert(GrayInput(nn.Sequential(nn.Conv2d(3, 1, 1), wide), [0.5] * 3, [0.5] * 3))
    artifact = ArtifactStore(small_disk).artifact("wide")
    with pytest.raises(OSError, match=r"No space left on device \(\d\.\d MiB are needed\)"):
        artifact.fill(partial(save, graph))
    assert [path for path in small_disk.iterdir() if path.is_dir()] == []
    enlarge(small_disk)
    artifact.fill(partial(save, graph))
    assert artifact.read(Note)


def full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Path, "replace"), (os, "fsync"), (os, "posix_fallocate"), (np, "memmap")],
)
@pytest.mark.parametrize("work", ["write", "compact"])
def test_full_at_any_step(
    owner: object, name: str, work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Injected, where no file system fails so to order: at the rename, for example."""
    cache = open_cache(tmp_path, IDENTITY)
    first, second = numbered(0, 30), numbered(30, 30)
    write_segment(cache.folder, IDENTITY, first, [], NOTE)
    write_segment(cache.folder, IDENTITY, second, [], NOTE)
    before, segments = read_all(cache), cache.segments
    steps: dict[str, Callable[[Cache], object]] = {
        "write": lambda c: write_segment(c.folder, IDENTITY, numbered(60, 30), [], NOTE),
        "compact": compact,
    }
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        if work == "compact" or name in ("replace", "fsync"):
            with pytest.raises(OSError, match="No space left"):
                steps[work](cache)
            assert cache.segments == segments
    is_whole(tmp_path)
    after = read_all(cache)
    kept = [list(after.hashes.tobytes()[i : i + 32]) for i in range(0, after.hashes.size, 32)]
    assert all(list(key) in kept for key in before.hashes)
