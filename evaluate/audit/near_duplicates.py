"""Which of many images show the same: proposed by hash, confirmed by a backbone and by details."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extract.imaging.image_stats import BITS, FLAT, SMALL, ImageStats, signs

# Two images are near duplicates if BITS_APART * (1 - cosine) + bits <= MOST_APART and their details
# correlate: the less their hashes differ, the less alike need the backbone find them. Chosen by eye
# on gels exported twice and on CIFAR-10 (60,000 images; 329 groups in training, none across
# classes). Of the gels' pairs, the farthest has 8 bits and details of 0.96; the nearest others have
# 16 bits. Charts with common axes are up to 6 bits apart at a cosine of 0.94; their details: 0.43.
BITS_APART, MOST_APART, DETAILS = 40, 12, 0.6
UNTRAINED = 0.9  # the cosine taken where no trained backbone has seen the images
TINY = 1e-20  # length of an embedding, below which it is none
AROUND = 9  # pixels of the reduced picture, of whose mean a detail is the difference
SHIFT = 2  # pixels in each direction, by which one picture may be cut otherwise
PAIRS_AT_ONCE = 4096
AT_ONCE = 1 << 25  # numbers of a block of the product of all hashes: 128 MB

Floats = NDArray[np.float32]
Places = NDArray[np.int64]
Rows = Callable[[Places], Floats]  # of some images, by their places: [n, …]


@dataclass(frozen=True)
class Pair:
    """Two images, by their places: which show the same; how alike a backbone finds them, if one was
    asked; in how many of 63 bits their hashes differ.
    """

    first: int
    second: int
    cosine: float | None
    bits: int


def find_near_duplicates(
    image_stats: Sequence[ImageStats],
    embeddings: Rows | None,
    pictures: Rows,
    progress: Callable[[int, int], None],
) -> list[Pair]:
    """Find the near duplicates among N images, in blocks: memory grows with the pairs found.

    Args:
        embeddings: Gives those of some images, [n, D]; None: there are none.
        pictures: Gives their reduced pictures, [n, 32, 32]; only of those that are alike by all
            else. Of images without contrast nothing can be said. Pairs come in order of their
            places.
        progress: Counts images.
    """
    first, second, bits = _by_hash(image_stats, progress)
    cosine = np.full(len(bits), UNTRAINED)
    if embeddings is not None and len(bits):
        cosine = _cosines(first, second, embeddings)
    near = BITS_APART * (1 - cosine) + bits <= MOST_APART
    near[near] = _same_details(first[near], second[near], pictures)
    return [
        Pair(int(i), int(j), float(c) if embeddings is not None else None, int(b))
        for i, j, c, b in zip(first[near], second[near], cosine[near], bits[near], strict=True)
    ]


def _by_hash(
    image_stats: Sequence[ImageStats], progress: Callable[[int, int], None]
) -> tuple[Places, Places, Places]:
    """Return first and second places, and bits apart, of all pairs of at most MOST_APART."""
    places = np.flatnonzero([stats.contrast >= FLAT for stats in image_stats])
    hashes = signs(image_stats[int(index)] for index in places)
    found = [np.empty((0, 3), np.int64)]
    size = max(1, AT_ONCE // max(1, len(hashes)))
    for start in range(0, len(hashes), size):
        product = hashes[start : start + size] @ hashes[start:].T
        one, other = np.nonzero(product >= BITS - 2 * MOST_APART)
        bits = np.rint((BITS - product[one, other]) / 2).astype(np.int64)
        apart = other > one
        found.append(np.stack([one[apart] + start, other[apart] + start, bits[apart]], 1))
        progress(min(start + size, len(hashes)), len(hashes))
    pairs = np.concatenate(found)
    return places[pairs[:, 0]], places[pairs[:, 1]], pairs[:, 2]


def groups(pairs: Sequence[tuple[int, int]], count: int) -> list[int]:
    """Return of each of `count` images the number of its group, from 0; -1: it is alone.

    Who is like one of a group belongs to it.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not pairs:
        return [-1] * count
    first, second = np.array(pairs).T
    graph = coo_array((np.ones(len(pairs), bool), (first, second)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    numbers: dict[int, int] = {}
    alone = np.bincount(label)[label] == 1
    return [
        -1 if single else numbers.setdefault(name, len(numbers))
        for single, name in zip(alone, label.tolist(), strict=True)
    ]


def most_alike(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Leave out pairs that follow from others: of each group, keep the closest that connect it."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    if not pairs:
        return []
    # Above 0, as 0 means no connection; by bits, then by cosine.
    distance = [1 + pair.bits + (1 - (pair.cosine or 0)) / 10 for pair in pairs]
    first, second = [pair.first for pair in pairs], [pair.second for pair in pairs]
    graph = coo_array((distance, (first, second)), shape=(count, count)).tocsr()
    kept = minimum_spanning_tree(graph).tocoo()
    chosen = set(zip(kept.row.tolist(), kept.col.tolist(), strict=True))
    return [pair for pair in pairs if (pair.first, pair.second) in chosen]


def _cosines(first: Places, second: Places, embeddings: Rows) -> NDArray[np.float64]:
    who, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    rows = embeddings(who)
    norms = np.maximum(np.linalg.norm(rows, axis=1), TINY / 2)
    one, other = places.reshape(2, -1)
    cosines = np.empty(len(first))
    for start in range(0, len(first), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        a, b = one[some], other[some]
        products = np.einsum("nd,nd->n", rows[a], rows[b], dtype=np.float64)
        cosines[some] = products / (norms[a] * norms[b])
        # Of an image without an embedding, the backbone has no opinion.
        cosines[some][(products == 0) & ((norms[a] < TINY) | (norms[b] < TINY))] = UNTRAINED
    return cosines


def _same_details(first: Places, second: Places, pictures: Rows) -> NDArray[np.bool_]:
    """Tell of each pair whether its details correlate, one of them perhaps shifted a little."""
    from scipy.ndimage import uniform_filter

    if not len(first):
        return np.empty(0, np.bool_)
    who, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    small = pictures(who)
    details = small - uniform_filter(small, (0, AROUND, AROUND))
    one, other = places.reshape(2, -1)
    same = np.empty(len(first), np.bool_)
    for start in range(0, len(first), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        same[some] = _correlation(details[one[some]], details[other[some]]) >= DETAILS
    return same


def _correlation(first: Floats, second: Floats) -> Floats:
    """Return the largest correlation of pictures [n, 32, 32] over all shifts: [n]."""
    inner = SMALL - 2 * SHIFT
    middle = _normalised(first[:, SHIFT : SHIFT + inner, SHIFT : SHIFT + inner])
    largest = np.full(len(first), -1, np.float32)
    for y in range(2 * SHIFT + 1):
        for x in range(2 * SHIFT + 1):
            shifted = _normalised(second[:, y : y + inner, x : x + inner])
            largest = np.maximum(largest, np.einsum("nd,nd->n", middle, shifted))
    return largest


def _normalised(pictures: Floats) -> Floats:
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(norms, np.finfo(np.float32).tiny))
