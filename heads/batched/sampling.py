"""What training draws at random, in this order: an epoch's views, its batches, and each batch's
dropout masks. All from one generator of a configuration's seed, so that whoever draws the same way
trains on the same batches.
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
    """Return how likely each row is drawn, if all classes shall be equally likely: float64 [P].

    labels: int64 [P], of the rows that batches are drawn from.
    """
    sizes = torch.bincount(labels)
    return 1.0 / sizes[labels].double()


def batches_of(
    pool: Tensor, batch_size: int, odds: Tensor | None, generator: Generator
) -> Sequence[Tensor]:
    """Draw an epoch's batches of row numbers, int64 each; the last may be smaller.

    pool: int64 [P], the rows there are. odds: None, each row comes once; else as many are drawn
    with replacement, by these odds.
    """
    if odds is None:
        order = torch.randperm(len(pool), generator=generator)
    else:
        order = odds.multinomial(len(pool), replacement=True, generator=generator)
    return torch.split(pool[order], batch_size)


def masks_of(rows: int, head: str, generator: Generator) -> list[Tensor]:
    """Draw what dropout leaves of a batch: for each hidden layer of a head, bool [B, width].

    What is left is divided by 1 - rate, as `torch.nn.Dropout` does.
    """
    entry = HEADS[head]
    return [
        torch.rand(rows, width, generator=generator) >= rate
        for width, rate in zip(entry.hidden, entry.dropout, strict=True)
    ]


def row_weights(
    configurations: Sequence[HeadConfig],
    training: Tensor,
    labels: Tensor,
    classes: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """What each row counts for in each head's loss, [N, K]: 0 if it is not trained on; else what
    its class counts for. A batch's loss is the mean by these weights.

    training: bool [K, N]. labels: int64 [N].
    """
    sizes = class_sizes(training, labels, classes)
    return training.t().to(dtype) * class_weights(configurations, sizes, dtype)[labels]


def class_sizes(training: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count the rows of each class that are trained on, int64 [F, C]. training: bool [F, N]."""
    counts = [torch.bincount(labels[mask], minlength=classes) for mask in training]
    return torch.stack(counts)


def class_weights(
    configurations: Sequence[HeadConfig], sizes: Tensor, dtype: torch.dtype
) -> Tensor:
    """What an image of each class counts for in each head's loss, [C, K]: 1, or the mean class size
    by the size of its class. sizes: of what each head is trained on, [K, C].
    """
    weights = torch.ones(sizes.shape, dtype=dtype)
    for number, configuration in enumerate(configurations):
        if configuration.balance == "weights":
            mine = sizes[number].to(dtype)
            weights[number] = mine.sum() / (int((mine > 0).sum()) * mine.clamp(min=1))
    return weights.t()
