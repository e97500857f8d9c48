"""A compacted cache is mapped, whatever else it holds, and gives the same numbers and heads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cache.errors import CacheError
from cache.maintenance.compact import compact
from cache.segment import Rows, write_segment
from cache.store import Cache, as_keys, open_cache
from heads.embedding_dataset import labelled
from heads.training import train_heads
from tests.test_heads import STANDARD
from tests.toy import key

IMAGES, VIEWS = 40, 2


def filled(folder: Path, caches: dict[str, Cache], numbers: NDArray[np.float32]) -> Cache:
    """Write a cache of two segments. numbers: float32 [V, N, D]."""
    cache = open_cache(folder, caches["cpu"].key)
    hashes = np.frombuffer(b"".join(key(n) for n in range(IMAGES)), np.uint8).reshape(-1, 32)
    for some in (slice(0, None, 2), slice(1, None, 2)):
        mine = hashes[some]
        for view, embeddings in enumerate(numbers):
            views = np.full(len(mine), view, np.uint16)
            write_segment(cache.folder, cache.key, Rows(mine, views, embeddings[some]), (), {})
    return cache


@pytest.fixture
def numbers(caches: dict[str, Cache]) -> NDArray[np.float32]:
    shape = VIEWS + 1, IMAGES, caches["cpu"].key.embedding_dim
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("views", [0, VIEWS])
def test_some_images_of_a_cache_are_mapped_in_any_order(
    tmp_path: Path, caches: dict[str, Cache], numbers: NDArray[np.float32], views: int
) -> None:
    """Images to test on lie between those to train on."""
    cache = filled(tmp_path, caches, numbers)
    wanted = [31, 2, 3, 17, 5]
    hashes = np.frombuffer(b"".join(map(key, wanted)), np.uint8).reshape(-1, 32)
    labels = torch.zeros(len(wanted), dtype=torch.int64)
    copied = labelled(cache, hashes, labels, 1, views)
    compact(cache)
    mapped = labelled(cache, hashes, labels, 1, views)

    assert copied.at is None
    assert mapped.embeddings.shape[1] == (VIEWS + 1) * IMAGES
    for rows in (copied, mapped):
        assert rows.views == views
        flat, places = rows.to("cpu")
        assert np.array_equal(flat[places], numbers[: views + 1, wanted])
        assert np.array_equal(rows.clean(torch.tensor([1, 4])), numbers[0, [2, 5]])


def test_on_an_accelerator_only_these_images_take_room(
    tmp_path: Path, caches: dict[str, Cache], numbers: NDArray[np.float32]
) -> None:
    cache = filled(tmp_path, caches, numbers)
    compact(cache)
    hashes = np.frombuffer(key(7) + key(3), np.uint8).reshape(-1, 32)
    flat, places = labelled(cache, hashes, torch.zeros(2).long(), 1, VIEWS).to("meta")
    assert flat.shape == (2 * (VIEWS + 1), numbers.shape[2])
    assert places.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_heads_on_a_mapped_cache_are_the_same(
    tmp_path: Path, caches: dict[str, Cache], numbers: NDArray[np.float32]
) -> None:
    cache = filled(tmp_path, caches, numbers)
    labels = {key(n): "gel" if n % 3 else "not_gel" for n in range(0, IMAGES, 2)}
    before = train_heads(cache, labels, "data", STANDARD, tmp_path / "before")
    compact(cache)
    after = train_heads(cache, labels, "data", STANDARD, tmp_path / "after")
    for one, other in zip(before.heads, after.heads, strict=True):
        assert one.info.curves == other.info.curves


@pytest.mark.parametrize("compacted", [False, True])
def test_images_and_views_that_lack_are_named(
    tmp_path: Path, caches: dict[str, Cache], numbers: NDArray[np.float32], compacted: bool
) -> None:
    cache = filled(tmp_path, caches, numbers)
    if compacted:
        compact(cache)
    hashes = np.frombuffer(key(0) + key(IMAGES), np.uint8).reshape(-1, 32)
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(CacheError, match=r"lacks 1 of 2 images: run extract"):
        labelled(cache, hashes, labels, 1)
    with pytest.raises(CacheError, match=r"lacks 1 of 1 images.*run extract --views 3"):
        labelled(cache, hashes[:1], labels[:1], 1, 3)


def test_nan_in_a_compacted_cache_is_found_in_these_images_only(
    tmp_path: Path, caches: dict[str, Cache], numbers: NDArray[np.float32]
) -> None:
    """A mapped cache is otherwise checked by `cache verify` alone."""
    cache = filled(tmp_path, caches, numbers)
    path = compact(cache)
    assert path
    content = path.read_bytes()
    (at,) = [content.index(numbers[0, 9].tobytes())]
    path.write_bytes(content[:at] + np.float32(np.nan).tobytes() + content[at + 4 :])
    hashes = np.frombuffer(b"".join(map(key, (8, 9))), np.uint8).reshape(-1, 32)
    assert as_keys(hashes)[1] == key(9)
    labelled(cache, hashes[:1], torch.zeros(1).long(), 1)
    with pytest.raises(CacheError, match="holds NaN or infinity: run `cache verify`"):
        labelled(cache, hashes, torch.zeros(2).long(), 1)
