"""The table of corruptions: what can happen to an image, so that a model should be uncertain."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.uint8]  # [H, W], H and W multiples of 4
NOISE, BLUR, CONTRAST = 40.0, 6.0, 0.15  # gray levels, pixels, share
COARSE = 14  # pixels that are left in each direction
TILES = 4  # in each direction


@dataclass(frozen=True)
class Corruption:
    """A corruption of images.

    Attributes:
        summary: What it is, in words.
        apply: (pixels, random numbers) → pixels.
    """

    summary: str
    apply: Callable[[Pixels, np.random.Generator], Pixels]


def _noise(pixels: Pixels, random: np.random.Generator) -> Pixels:
    noisy = pixels + random.normal(0, NOISE, pixels.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _blur(pixels: Pixels, random: np.random.Generator) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(BLUR)))


def _coarse(pixels: Pixels, random: np.random.Generator) -> Pixels:
    image = Image.fromarray(pixels)
    small = image.resize((COARSE, COARSE), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.NEAREST))


def _shuffled(pixels: Pixels, random: np.random.Generator) -> Pixels:
    rows = [np.hsplit(row, TILES) for row in np.vsplit(pixels, TILES)]
    tiles = [tile for row in rows for tile in row]
    mixed = [tiles[i] for i in random.permutation(len(tiles))]
    return np.asarray(
        np.block([mixed[start : start + TILES] for start in range(0, len(mixed), TILES)])
    )


def _turned(pixels: Pixels, random: np.random.Generator) -> Pixels:
    return np.array(np.rot90(pixels), np.uint8)


def _faint(pixels: Pixels, random: np.random.Generator) -> Pixels:
    mean = pixels.mean()
    return np.asarray(np.rint(mean + CONTRAST * (pixels - mean)), np.uint8)


CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption("noise of 40 gray levels", _noise),
    "blur": Corruption("blurred by 6 pixels", _blur),
    "coarse": Corruption("14 x 14 pixels left", _coarse),
    "shuffled": Corruption("16 tiles in another order", _shuffled),
    "turned": Corruption("turned by 90 degrees", _turned),
    "faint": Corruption("15 % of the contrast", _faint),
}
