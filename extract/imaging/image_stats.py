"""What an image looks like, in a few numbers: to find copies that differ in their bytes, and images
that are not like the others.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extract.imaging.decode import DecodedImage
from extract.imaging.preprocessing import FULL_SCALE, LEAST

SMALL = 32  # pixels of the reduced image that is transformed
LOWEST = 8  # frequencies in each direction that are compared
BITS = LOWEST * LOWEST - 1  # all but the mean
FLAT = 2.0  # gray levels of contrast, below which a picture is blank and its hash that of noise
# The rows of the cosine transform for these frequencies: DCT-II, orthogonal, to a common factor.
WAVES = np.cos(
    np.pi / SMALL * np.outer(np.arange(LOWEST), np.arange(SMALL) + 0.5), dtype=np.float32
) * np.array([[0.5**0.5], *[[1.0]] * (LOWEST - 1)], np.float32)


@dataclass(frozen=True)
class ImageStats:
    """Statistics of one image, by which copies and outliers are found.

    Attributes:
        bits: The perceptual hash, 8 bytes.
        width: Of the file, in pixels.
        height: Of the file, in pixels.
        mode: Pillow's name of how it is stored.
        brightness: Mean of the gray levels, 0 to 255.
        contrast: Standard deviation of the gray levels.
        full_scale: See `Depth`.
        largest: See `Depth`.
        white: See `Depth`.
    """

    bits: bytes
    width: int
    height: int
    mode: str
    brightness: float
    contrast: float
    full_scale: int = 255
    largest: int = 255
    white: int = 255


def compute_stats(picture: DecodedImage) -> ImageStats:
    """Look at a decoded image."""
    pixels = picture.pixels[0]
    counts = np.bincount(pixels.ravel(), minlength=256)  # much faster than mean and std of pixels
    levels = np.arange(256)
    mean = counts @ levels / pixels.size
    variance = counts @ (levels - mean) ** 2 / pixels.size
    stored = (picture.width, picture.height, picture.mode)
    return ImageStats(
        perceptual_hash(pixels), *stored, float(mean), float(variance**0.5), *picture.depth
    )


def perceptual_hash(pixels: NDArray[np.uint8]) -> bytes:
    """Return the hash of a gray image uint8 [H, W]: 63 bits in 8 bytes.

    It tells for each of the lowest frequencies of the cosine transform whether it is above their
    median (Zauner 2010). Another size or format, a little more light or contrast leave it nearly as
    it is; a mirrored, turned or cropped image has another.
    """
    lowest = (WAVES @ shrink(pixels) @ WAVES.T).ravel()[1:]
    return np.packbits(lowest > np.median(lowest)).tobytes()


def shrink(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a small picture of a gray image uint8 [H, W]: float32 [32, 32], 0 to 255."""
    small = Image.fromarray(pixels).resize((SMALL, SMALL), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def signs(image_stats: Iterable[ImageStats]) -> NDArray[np.float32]:
    """Return hashes as ±1 [N, 63]: the product of two is 63 less twice the bits they differ in."""
    packed = np.frombuffer(b"".join(stats.bits for stats in image_stats), np.uint8).reshape(-1, 8)
    bits = np.unpackbits(packed, axis=1, count=BITS)
    return np.where(bits, np.float32(1), np.float32(-1))


def smallest_white(image_stats: Collection[ImageStats]) -> int:
    """Return the smallest 2^b - 1 (b from 8 to 16) that holds every value of these images.

    FULL_SCALE where it would change nothing: no file's own full scale is larger.
    """
    largest = max(
        (stats.largest for stats in image_stats if stats.full_scale > 255), default=FULL_SCALE
    )
    white = int(2 ** max(LEAST, largest.bit_length()) - 1)
    return white if any(stats.full_scale > white for stats in image_stats) else FULL_SCALE
