"""The table of heads: what is trained on top of an embedding."""

from __future__ import annotations

from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Head:
    """A classifier on an embedding: float32 [B, D] → logits [B, C].

    Trained by an optimizer: layers of `hidden` units with ReLU and `dropout`, and a linear one.
    Or fitted at once, by the function of its name in heads/fitted.py. strengths: of
    regularisation, from which validation chooses. standard: used unless others are asked for.
    """

    summary: str
    hidden: tuple[int, ...] = ()
    dropout: tuple[float, ...] = ()
    fitted: bool = False
    strengths: tuple[float, ...] = (0.0,)
    standard: bool = False


NEIGHBOURS = 5  # that vote
# Held while a module's first weights are drawn: torch has one generator for all threads.
DRAWING = RLock()

# λ of (mean loss) + λ/2 |W|², from next to nothing to almost everything.
PATH = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)

HEADS: dict[str, Head] = {
    "single": Head("one linear layer", standard=True),
    "multi": Head(
        "512 → 256 → classes, ReLU, dropout 0.25 / 0.5", (512, 256), (0.25, 0.5), standard=True
    ),
    "logreg": Head("logistic regression, to convergence", fitted=True, strengths=PATH),
    "ridge": Head("least squares on ±1, in closed form", fitted=True, strengths=PATH),
    "prototype": Head("the nearest class mean", fitted=True),
    "knn": Head("vote of the 5 nearest images by cosine", fitted=True),
}


def build_head(name: str, dim: int, classes: int, kept: int = 0) -> nn.Module:
    """Make a head's module: float32 [B, D] → logits [B, C]. kept: rows that `knn` remembers."""
    from torch import nn

    if name == "knn":
        from heads.fitted import Neighbours

        return Neighbours(dim, classes, kept)
    head = HEADS[name]
    layers: list[nn.Module] = []
    with DRAWING:
        for width, dropout in zip(head.hidden, head.dropout, strict=True):
            layers += [nn.Linear(dim, width), nn.ReLU(), nn.Dropout(dropout)]
            dim = width
        layers.append(nn.Linear(dim, classes))
    return nn.Sequential(*layers) if head.hidden else layers[0]
