"""Heads as torch modules."""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING

from heads.architectures import HEADS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


# Held while parameters are initialised: torch has one generator for all threads.
DRAWING = RLock()


def build_head(
    name: str, dim: int, classes: int, rows: int = 0, training: bool = False
) -> nn.Module:
    """Return a head's module: float32 [B, D] → logits [B, C].

    Args:
        name: Of HEADS.
        dim: Length of an embedding D.
        classes: Number of classes C.
        rows: Training images, which `knn` stores.
        training: As it is trained; else as it is saved, with batch norm folded into the linear
            layers.
    """
    from torch import nn

    if name == "knn":
        from heads.closed_form import NearestNeighbors

        return NearestNeighbors(dim, classes, rows)
    head = HEADS[name]
    activation = {"relu": nn.ReLU, "gelu": nn.GELU}[head.activation]
    layers: list[nn.Module] = []
    with DRAWING:
        for width, dropout in zip(head.hidden, head.dropout, strict=True):
            # Batch norm cancels a bias; Adam would turn what rounding leaves of it into steps.
            layers.append(nn.Linear(dim, width, bias=not (head.batch_norm and training)))
            if head.batch_norm:
                layers.append(nn.BatchNorm1d(width) if training else nn.Identity())
            layers += [activation(), nn.Dropout(dropout)]
            dim = width
        layers.append(nn.Linear(dim, classes))
    return nn.Sequential(*layers) if head.hidden else layers[0]


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a saved head from the state of its module in training.

    Batch norm is affine at inference, and is folded into the linear layer before it.
    """
    from torch.nn import BatchNorm1d
    from torch.nn.utils.fusion import fuse_linear_bn_weights

    norms = [name.split(".")[0] for name in state if name.endswith(".running_mean")]
    tensors = {name: state[name] for name in state if name.split(".")[0] not in norms}
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
        tensors |= {f"{linear}.weight": weight.detach(), f"{linear}.bias": bias.detach()}
    return tensors
