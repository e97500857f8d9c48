"""Activation maps: which parts of an image contributed to the predicted class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from cache.arrays import ArrayFileError, read_arrays, write_arrays
from cache.errors import HeadError, ResultsError
from extract.embedding_spec import LoadedBackbone
from heads.architectures import NEIGHBOURS
from heads.closed_form import NearestNeighbors

FORMAT = "frostline-maps-2"
IMAGES_AT_ONCE = 8
COLOURS = "plasma"  # of matplotlib: ordered to the eye, and at no end black or white like a gel
OPACITY = 0.65  # where a map is highest; the picture must still be seen


@dataclass(frozen=True)
class Maps:
    """Activation maps of n images: the SHA-256 of each one's file, and uint8 [n, h, w]."""

    hashes: tuple[bytes, ...]
    maps: NDArray[np.uint8]


def activation_maps(
    backbone: LoadedBackbone, head: nn.Module, pixels: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Compute Grad-CAM (Selvaraju et al. 2017) of the predicted class, through head and backbone.

    The backbone's last feature maps, each weighted by the mean of the class's gradient over it,
    summed, and cut off below 0.

    A class's gradient is taken of its logit less the mean of all logits: what is added to all of
    them changes no answer, so it must change no map. The votes of `knn` have no gradient; in their
    stead stands the mean cosine to each class's nearest images (`_scores`).

    Args:
        pixels: uint8 [n, 1, 224, 224] → uint8 [n, h, w], each map scaled by its own maximum to
            0..255; all 0 where nothing contributed to the class.

    Raises:
        HeadError: the head has no gradient, or the backbone no layer with feature maps.
    """
    parts = [
        _some(backbone, head, pixels[start : start + IMAGES_AT_ONCE])
        for start in range(0, len(pixels), IMAGES_AT_ONCE)
    ]
    return np.concatenate(parts)


def _some(
    backbone: LoadedBackbone, head: nn.Module, pixels: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    with torch.inference_mode(False), torch.enable_grad():  # type: ignore[no-untyped-call]
        with _feature_maps(backbone.module) as found:
            embeddings = backbone.module(torch.from_numpy(pixels))
        if not found:
            raise HeadError(f"{backbone.name} has no layer that gives feature maps: no map of it")
        scores = _scores(head, embeddings)
        if not scores.requires_grad:
            raise HeadError(f"{type(head).__name__}: this head has no gradient: no map of it")
        chosen = head(embeddings).argmax(1, keepdim=True)
        above = scores.gather(1, chosen).squeeze(1) - scores.mean(1)
        (gradient,) = torch.autograd.grad(above.sum(), found[-1])  # an image's is its own alone
        with torch.no_grad():
            weights = gradient.mean((2, 3), keepdim=True)
            cam = (weights * found[-1]).sum(1).relu()
            scaled = cam * (255 / cam.amax((1, 2), keepdim=True).clamp_min(1e-30))
            return scaled.round().to(torch.uint8).numpy()


@contextmanager
def _feature_maps(module: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list that a forward pass leaves its last feature map in, float [n, C, h, w].

    What comes after it is differentiable by it, though all parameters are frozen. Each layer's map
    replaces the one before, which is let go with its graph: no more than one layer is remembered.
    """
    found: list[Tensor] = []

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> Tensor | None:
        if not isinstance(output, Tensor) or output.dim() != 4 or min(output.shape[2:]) < 2:
            return None
        found[:] = [output.detach().requires_grad_()]
        return found[0].clone()  # which the next layer may overwrite

    layers = [layer for layer in module.modules() if layer is not module]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _scores(head: nn.Module, embeddings: Tensor) -> Tensor:
    """Return [n, C], differentiable: the logits; for `knn` the mean cosine to the nearest 5 images
    of each class, of which the largest is the class that is nearest.
    """
    if not isinstance(head, NearestNeighbors):
        scores: Tensor = head(embeddings)
        return scores
    near = normalize(embeddings) @ head.directions.t()
    of_classes = [near[:, head.labels == number] for number in range(head.classes)]
    return torch.stack(
        [own.topk(min(NEIGHBOURS, own.shape[1])).values.mean(1) for own in of_classes], 1
    )


def maps_path(heads: Path, head_id: str) -> Path:
    """Where the activation maps of a head lie."""
    return heads / f"{head_id}.maps.npz"


def write_maps(path: Path, maps: Maps) -> None:
    """Write maps whole or not at all. Raises OSError on a full disk."""
    hashes = np.frombuffer(b"".join(maps.hashes), np.uint8).reshape(len(maps.hashes), -1)
    write_arrays(path, {"hashes": hashes, "maps": maps.maps}, FORMAT)


def read_maps(path: Path) -> Maps:
    """Read what `write_maps` wrote.

    Raises:
        ResultsError: the file is damaged.
        OSError: it is not there, or can't be read.
    """
    try:
        arrays, _ = read_arrays(path, FORMAT)
    except ArrayFileError as error:
        raise ResultsError(f"{path} can't be used: {error}. Run evaluate again.") from None
    return Maps(tuple(row.tobytes() for row in arrays["hashes"]), arrays["maps"])


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.uint8]) -> Image.Image:
    """Colour a picture where its map is high: uint8 [224, 224] and uint8 [h, w] → RGB, 224 x 224.

    The lower a map, the more transparent; at 0 the picture is as it was.
    """
    import matplotlib as mpl

    picture = Image.fromarray(pixels)
    smooth = Image.fromarray(heat).resize(picture.size, Image.Resampling.BICUBIC)
    colours = Image.fromarray(mpl.colormaps[COLOURS](np.asarray(smooth), bytes=True)[..., :3])
    opacity = smooth.point([round(level * OPACITY) for level in range(256)])
    return Image.composite(colours, picture.convert("RGB"), opacity)
