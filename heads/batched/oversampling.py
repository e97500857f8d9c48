"""Filling up small classes with augmented views of their own images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def filled(
    labels: Sequence[int] | NDArray[np.int64], per_image: int, seed: int
) -> list[tuple[int, int]]:
    """Return the (row, view) pairs that each class needs besides its clean rows, to be as large as
    the largest.

    labels: of the rows that are trained on. per_image: views there are of each, from 1 on. No pair
    comes twice, and the rows of a class get the same number of views, but for one that some have
    more; which rows and which views is drawn by the seed. A class that would need more than
    `per_image` views of each row stays smaller.
    """
    classes, sizes = np.unique(np.asarray(labels), return_counts=True)
    generator = np.random.default_rng(seed)
    pairs: list[tuple[int, int]] = []
    for label, size in zip(classes, sizes, strict=True):
        rows = np.flatnonzero(np.asarray(labels) == label)
        lacking = min(sizes.max() - size, per_image * size)
        rounds = -(-lacking // size)  # of one view of each row; the last may be shorter
        order = [generator.permutation(rows) for _ in range(rounds)]
        views = {row: generator.permutation(per_image)[:rounds] + 1 for row in rows}
        turns = [(row, number) for number, chosen in enumerate(order) for row in chosen]
        pairs += [(int(row), int(views[row][number])) for row, number in turns[:lacking]]
    return pairs
