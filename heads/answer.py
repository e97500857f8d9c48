"""A saved head's answers by numpy alone: whoever asks for one image need not wait for torch."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cache.errors import HeadError
from heads.architectures import HEADS, NEIGHBOURS
from heads.files import HeadInfo, SavedHead

ROWS_AT_ONCE = 512

Tensors = dict[str, NDArray[np.float32]]


def answer(saved: SavedHead, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a head's logits [n, C] for embeddings [n, D], as its module gives them.

    Raises:
        HeadError: the file is damaged.
    """
    try:
        tensors = load_file(saved.path)
        logits = _neighbours if "directions" in tensors else _layers
        blocks = range(0, max(1, len(embeddings)), ROWS_AT_ONCE)
        found = np.concatenate(
            [logits(saved.info, tensors, embeddings[i : i + ROWS_AT_ONCE]) for i in blocks]
        )
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise _damaged(saved.path, error) from error
    if found.shape != (len(embeddings), len(saved.info.classes)):
        raise _damaged(saved.path, f"it answers with {found.shape[1:]} numbers")
    return found


def probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Return calibrated probabilities [n, C] of logits [n, C]."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _layers(
    info: HeadInfo, tensors: Tensors, embeddings: NDArray[np.float32]
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
    info: HeadInfo, tensors: Tensors, embeddings: NDArray[np.float32]
) -> NDArray[np.float32]:
    """See `heads.fitted.Neighbours`."""
    norms = np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    near = (embeddings / norms) @ tensors["directions"].T
    nearest = np.argsort(-near, axis=1, kind="stable")[:, :NEIGHBOURS]
    labels = tensors["labels"][nearest]
    votes = np.stack([(labels == c).sum(1) + 1 for c in range(len(info.classes))], 1)
    shares = votes / votes.sum(1, keepdims=True)
    return np.asarray(np.log(shares), np.float32)


def _damaged(path: Path, why: object) -> HeadError:
    return HeadError(f"{path} can't be used: {why}. Delete it and run train-heads again.")
