"""The table of heads: what is trained on top of an embedding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Head:
    """build: (length D of the embedding, number of classes C) → float32 [B, D] → logits [B, C]."""

    summary: str
    build: Callable[[int, int], nn.Module]


def _single(dim: int, classes: int) -> nn.Module:
    from torch import nn

    return nn.Linear(dim, classes)


def _multi(dim: int, classes: int) -> nn.Module:
    from torch import nn

    return nn.Sequential(
        nn.Linear(dim, 512),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(256, classes),
    )


HEADS: dict[str, Head] = {
    "single": Head("one linear layer", _single),
    "multi": Head("512 → 256 → classes, ReLU, dropout 0.25 / 0.5", _multi),
}
