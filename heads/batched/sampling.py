"""Random draws of training, in this order: an epoch's views, its batches, each batch's dropout.

- All from one generator with the configuration's seed: who draws the same way trains on the same
  batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from heads.architectures import HEADS
from heads.config import HeadConfig


def views_of(rows: int, views: int, generator: Generator) -> Tensor:
    """Draw each row's view for an epoch, int64 [N]: 0, the clean one, to `views`."""
    return torch.randint(views + 1, (rows,), generator=generator)


def class_sampling_weights(labels: Tensor) -> Tensor:
    """Return sampling weights, float64 [P], of rows with labels int64 [P], for equal classes."""
    sizes = torch.bincount(labels)
    return 1.0 / sizes[labels].double()


def batches_of(
    pool: Tensor, batch_size: int, odds: Tensor | None, generator: Generator
) -> Sequence[Tensor]:
    """Draw an epoch's batches of row numbers, int64; the last may be smaller.

    Args:
        pool: Row numbers, int64 [P].
        batch_size: Rows in a batch.
        odds: Sampling weights [P], to draw P rows with replacement; None: each row once.
        generator: Source of randomness.
    """
    if odds is None:
        order = torch.randperm(len(pool), generator=generator)
    else:
        order = odds.multinomial(len(pool), replacement=True, generator=generator)
    return torch.split(pool[order], batch_size)


def masks_of(rows: int, head: str, generator: Generator) -> list[Tensor]:
    """Draw the units of a batch that dropout keeps: for each hidden layer, bool [B, width].

    They are divided by 1 - rate, as by `torch.nn.Dropout`.
    """
    architecture = HEADS[head]
    return [
        torch.rand(rows, width, generator=generator) >= rate
        for width, rate in zip(architecture.hidden, architecture.dropout, strict=True)
    ]


def row_weights(
    configurations: Sequence[HeadConfig], training: Tensor, labels: Tensor, classes: int
) -> Tensor:
    """Return the weight of each row in each head's loss, float32 [N, K].

    Rows that a head is not trained on have 0, others the weight of their class. A batch's loss is
    the weighted mean.

    Args:
        training: Bool [K, N].
        labels: int64 [N].
    """
    sizes = class_sizes(training, labels, classes)
    weights = class_weights(configurations, sizes, torch.float32)
    return training.t().to(weights) * weights[labels]


def class_sizes(training: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the training rows of each class, int64 [F, C], by masks bool [F, N]."""
    counts = [torch.bincount(labels[mask], minlength=classes) for mask in training]
    return torch.stack(counts)


def class_weights(
    configurations: Sequence[HeadConfig], sizes: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return the weight of each class in each head's loss, [C, K], from class sizes [K, C].

    It is 1, or with balance `weights` the mean class size divided by the size of the class.
    """
    weights = torch.ones(sizes.shape, dtype=dtype)
    for number, configuration in enumerate(configurations):
        if configuration.balance == "weights":
            counts = sizes[number].to(dtype)
            weights[number] = counts.sum() / (int((counts > 0).sum()) * counts.clamp(min=1))
    return weights.t()
