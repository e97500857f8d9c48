"""The only computation of a head's logits, by numpy: one image does not wait for torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from heads.architectures import HEADS, NEIGHBOURS

ROWS_AT_ONCE = 512
Floats = NDArray[np.float32]
Tensors = Mapping[str, NDArray[np.float32] | NDArray[np.int64]]


def head_logits(head: str, classes: int, tensors: Tensors, embeddings: Floats) -> Floats:
    """Return the logits of a head, float32 [n, C], as its torch module computes them.

    Args:
        head: Name of the architecture.
        classes: Number of classes C.
        tensors: As saved, see `tensor_shapes`.
        embeddings: float32 [n, D].
    """
    blocks = []
    for start in range(0, max(1, len(embeddings)), ROWS_AT_ONCE):
        block = embeddings[start : start + ROWS_AT_ONCE]
        if "directions" in tensors:
            blocks.append(_nearest_neighbors(classes, tensors, block))
        else:
            blocks.append(_layers(HEADS[head].activation, tensors, block))
    return np.concatenate(blocks)


def probabilities(logits: Floats, temperature: float) -> NDArray[np.float64]:
    """Return calibrated probabilities, float64 [n, C], of logits [n, C]."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _layers(activation: str, tensors: Tensors, hidden: Floats) -> Floats:
    """Linear layers, in the order of their numbers, with the activation between them."""
    names = [name.removesuffix("weight") for name in tensors if name.endswith("weight")]
    names.sort(key=lambda name: int(name.rstrip(".") or 0))
    for position, name in enumerate(names):
        if position:
            hidden = np.maximum(hidden, 0) if activation == "relu" else _gelu(hidden)
        hidden = hidden @ tensors[f"{name}weight"].T + tensors[f"{name}bias"]
    return hidden


def _gelu(hidden: Floats) -> Floats:
    """X Φ(x), Φ the normal distribution (Hendrycks & Gimpel 2016)."""
    from scipy.special import ndtr

    return np.asarray(hidden * ndtr(hidden), np.float32)


def _nearest_neighbors(classes: int, tensors: Tensors, embeddings: Floats) -> Floats:
    """See `heads.closed_form.NearestNeighbors`."""
    norms = np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    distances = -(embeddings / norms) @ tensors["directions"].T
    count = min(NEIGHBOURS, distances.shape[1])
    nearest = np.argpartition(distances, count - 1, axis=1)[:, :count]
    labels = tensors["labels"][nearest]
    votes = np.stack([(labels == c).sum(1) + 1 for c in range(classes)], 1)
    return np.asarray(np.log(votes / votes.sum(1, keepdims=True)), np.float32)
