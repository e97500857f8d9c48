"""A saved head's answers by numpy alone: whoever asks for one image need not wait for torch."""

import numpy as np
from numpy.typing import NDArray

from cache.arrays import Arrays
from heads.architectures import HEADS, NEIGHBOURS
from heads.store import HeadInfo, SavedHead, read_tensors

ROWS_AT_ONCE = 512


def answer(saved: SavedHead, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a head's logits [n, C] for embeddings [n, D], as its module gives them.

    Raises:
        HeadError: the file is damaged.
        OSError: it is not there, or can't be read.
    """
    tensors = read_tensors(saved)
    logits = _neighbours if "directions" in tensors else _layers
    blocks = range(0, max(1, len(embeddings)), ROWS_AT_ONCE)
    return np.concatenate(
        [logits(saved.info, tensors, embeddings[i : i + ROWS_AT_ONCE]) for i in blocks]
    )


def probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Return calibrated probabilities [n, C] of logits [n, C]."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _layers(
    info: HeadInfo, tensors: Arrays, embeddings: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Linear layers, in the order of their numbers, with the head's activation between them."""
    activation = {"relu": _relu, "gelu": _gelu}[HEADS[info.configuration.head].activation]
    names = [name.removesuffix("weight") for name in tensors if name.endswith("weight")]
    names.sort(key=lambda name: int(name.rstrip(".") or 0))
    hidden = embeddings
    for position, name in enumerate(names):
        hidden = activation(hidden) if position else hidden
        hidden = hidden @ tensors[f"{name}weight"].T + tensors[f"{name}bias"]
    return hidden


def _relu(hidden: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(hidden, 0)


def _gelu(hidden: NDArray[np.float32]) -> NDArray[np.float32]:
    """X Φ(x), Φ the normal distribution (Hendrycks & Gimpel 2016)."""
    from scipy.special import ndtr

    return np.asarray(hidden * ndtr(hidden), np.float32)


def _neighbours(
    info: HeadInfo, tensors: Arrays, embeddings: NDArray[np.float32]
) -> NDArray[np.float32]:
    """See `heads.fitted.Neighbours`."""
    norms = np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    near = (embeddings / norms) @ tensors["directions"].T
    nearest = np.argsort(-near, axis=1, kind="stable")[:, :NEIGHBOURS]
    labels = tensors["labels"][nearest]
    votes = np.stack([(labels == c).sum(1) + 1 for c in range(len(info.classes))], 1)
    shares = votes / votes.sum(1, keepdims=True)
    return np.asarray(np.log(shares), np.float32)
