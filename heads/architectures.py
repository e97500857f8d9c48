"""The table of heads: what is trained on top of an embedding."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from threading import RLock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


@dataclass(frozen=True)
class Head:
    """A classifier on an embedding: float32 [B, D] → logits [B, C].

    Trained by an optimizer: layers of `hidden` units, each linear, batch norm if it has one,
    activation and `dropout`; and a linear one. Or fitted at once, by the function of its name in
    heads/fitted.py. strengths: of regularisation, from which validation chooses. standard: used
    unless others are asked for.
    """

    summary: str
    hidden: tuple[int, ...] = ()
    dropout: tuple[float, ...] = ()
    activation: str = "relu"
    batch_norm: bool = False
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


def build_head(
    name: str, dim: int, classes: int, kept: int = 0, training: bool = False
) -> nn.Module:
    """Make a head's module: float32 [B, D] → logits [B, C].

    kept: rows that `knn` remembers. training: as it is trained. Without, it is as it is saved:
    batch norm is part of the linear layer before it; see `folded`.
    """
    from torch import nn

    if name == "knn":
        from heads.fitted import Neighbours

        return Neighbours(dim, classes, kept)
    head = HEADS[name]
    activation = {"relu": nn.ReLU, "gelu": nn.GELU}[head.activation]
    layers: list[nn.Module] = []
    with DRAWING:
        for width, dropout in zip(head.hidden, head.dropout, strict=True):
            # Batch norm takes a bias away again: of what is left, rounding, Adam would make steps.
            layers.append(nn.Linear(dim, width, bias=not (head.batch_norm and training)))
            if head.batch_norm:
                layers.append(nn.BatchNorm1d(width) if training else nn.Identity())
            layers += [activation(), nn.Dropout(dropout)]
            dim = width
        layers.append(nn.Linear(dim, classes))
    return nn.Sequential(*layers) if head.hidden else layers[0]


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


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a head as it is saved, from those of its module as it was trained.

    Batch norm is affine at inference: it goes into the linear layer before it.
    """
    from torch.nn import BatchNorm1d
    from torch.nn.utils.fusion import fuse_linear_bn_weights

    norms = [name.split(".")[0] for name in state if name.endswith(".running_mean")]
    found = {name: state[name] for name in state if name.split(".")[0] not in norms}
    for norm in norms:
        linear = f"{int(norm) - 1}"
        weight, bias = fuse_linear_bn_weights(
            state[f"{linear}.weight"],
            None,
            state[f"{norm}.running_mean"],
            state[f"{norm}.running_var"],
            BatchNorm1d(1).eps,
            state[f"{norm}.weight"],
            state[f"{norm}.bias"],
        )
        found |= {f"{linear}.weight": weight.detach(), f"{linear}.bias": bias.detach()}
    return found
