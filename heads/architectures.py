"""The table of heads: classifiers on an embedding."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Head:
    """A classifier on an embedding: float32 [B, D] → logits [B, C].

    Attributes:
        summary: For the help text.
        hidden: Units of the hidden layers: linear, batch norm, activation, dropout.
        dropout: Rate of each hidden layer.
        activation: Of the hidden layers.
        batch_norm: Whether hidden layers have it.
        fitted: In closed form or to convergence, by the function of its name in
            heads/closed_form.py, not by an optimizer.
        strengths: Regularisation λ from which validation chooses.
        standard: Used unless others are selected.
    """

    summary: str
    hidden: tuple[int, ...] = ()
    dropout: tuple[float, ...] = ()
    activation: str = "relu"
    batch_norm: bool = False
    fitted: bool = False
    strengths: tuple[float, ...] = (0.0,)
    standard: bool = False


# λ of (mean loss) + λ/2 |W|².
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


def tensor_shapes(name: str, dim: int, classes: int, rows: int = 0) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a saved head; see `build_head`.

    All are float32, except the `labels` of `knn`, which are int64.
    """
    if name == "knn":
        return {"directions": (rows, dim), "labels": (rows,)}
    head = HEADS[name]
    if not head.hidden:
        return {"weight": (classes, dim), "bias": (classes,)}
    step = 4 if head.batch_norm else 3  # modules from one linear layer to the next
    widths = (dim, *head.hidden, classes)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (before, after) in enumerate(pairwise(widths)):
        shapes |= {f"{step * layer}.weight": (after, before), f"{step * layer}.bias": (after,)}
    return shapes


NEIGHBOURS = 5  # of `knn`
