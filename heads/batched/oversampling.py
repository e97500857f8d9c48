"""Oversampling of small classes with augmented views of their own images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def filled(
    labels: Sequence[int] | NDArray[np.int64], per_image: int, seed: int
) -> list[tuple[int, int]]:
    """Return the (row, view) pairs that make each class as large as the largest.

    No pair comes twice. Rows of a class get equally many views, or one more; which rows and views
    is drawn by the seed. A class that would need more than `per_image` views of a row stays
    smaller.

    Args:
        labels: Of the training rows.
        per_image: Number of views of each row; they are numbered from 1.
        seed: Of the draw.
    """
    classes, sizes = np.unique(np.asarray(labels), return_counts=True)
    generator = np.random.default_rng(seed)
    pairs: list[tuple[int, int]] = []
    for label, size in zip(classes, sizes, strict=True):
        rows = np.flatnonzero(np.asarray(labels) == label)
        missing = min(sizes.max() - size, per_image * size)
        rounds = -(-missing // size)  # of one view of each row; the last may be shorter
        order = [generator.permutation(rows) for _ in range(rounds)]
        views = {row: generator.permutation(per_image)[:rounds] + 1 for row in rows}
        turns = [(row, number) for number, chosen in enumerate(order) for row in chosen]
        pairs += [(int(row), int(views[row][number])) for row, number in turns[:missing]]
    return pairs
