"""The table of heads: what is trained on top of an embedding."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Head:
    """A classifier on an embedding: float32 [B, D] → logits [B, C].

    Trained by an optimizer: layers of `hidden` units, each linear, batch norm if it has one,
    activation and `dropout`; and a linear one. Or fitted at once, by the function of its name in
    heads/closed_form.py. strengths: of regularisation, from which validation chooses. standard:
    used unless others are asked for.
    """

    summary: str
    hidden: tuple[int, ...] = ()
    dropout: tuple[float, ...] = ()
    activation: str = "relu"
    batch_norm: bool = False
    fitted: bool = False
    strengths: tuple[float, ...] = (0.0,)
    standard: bool = False


# λ of (mean loss) + λ/2 |W|², from next to nothing to almost everything.
PATH = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)

HEADS: dict[str, Head] = {
    "single": Head("one linear layer", standard=True),
    "multi": Head(
        "512 → 256 → classes, ReLU, dropout 0.25 / 0.5", (512, 256), (0.25, 0.5), standard=True
    ),
    "mlp-gelu": Head(
        "512 → 256 → 128 → classes, batch norm, GELU, dropout 0.3 each",
        (512, 256, 128),
        (0.3, 0.3, 0.3),
        activation="gelu",
        batch_norm=True,
    ),
    "logreg": Head("logistic regression, to convergence", fitted=True, strengths=PATH),
    "ridge": Head("least squares on ±1, in closed form", fitted=True, strengths=PATH),
    "prototype": Head("the nearest class mean", fitted=True),
    "knn": Head("vote of the 5 nearest images by cosine", fitted=True),
}


def tensor_shapes(name: str, dim: int, classes: int, kept: int = 0) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a head as it is saved; see `build_head`.

    All are float32, but the `labels` of `knn`, which are int64.
    """
    if name == "knn":
        return {"directions": (kept, dim), "labels": (kept,)}
    head = HEADS[name]
    if not head.hidden:
        return {"weight": (classes, dim), "bias": (classes,)}
    apart = 4 if head.batch_norm else 3  # from one linear layer to the next
    widths = (dim, *head.hidden, classes)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (before, after) in enumerate(pairwise(widths)):
        shapes |= {f"{apart * layer}.weight": (after, before), f"{apart * layer}.bias": (after,)}
    return shapes


NEIGHBOURS = 5  # that vote
