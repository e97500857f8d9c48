"""Augmented views: what an image might have looked like, drawn from its content and a number.

A frozen backbone can't be trained on endless variations, but it can embed some of each image. The
rule is part of every cache's key: change it, change its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

# numpy and Pillow are imported where they are used: the command line shows the table below.
if TYPE_CHECKING:
    import numpy as np
    from numpy.random import Generator
    from numpy.typing import NDArray
    from PIL import Image


@dataclass(frozen=True)
class Policy:
    """How an image may be changed.

    Attributes:
        summary: For the command line.
        rule: Its name in a cache's key.
        draw: (image of mode L, side of the square to return, random generator) → square.
    """

    summary: str
    rule: str
    draw: Callable[[Image.Image, int, Generator], Image.Image]


TURN, AREA, SHAPE, LIGHT, BLUR = 10.0, (0.5, 1.0), (3 / 4, 4 / 3), (0.8, 1.2), 1.0
STRONG_TURN, SHIFT, STRONG_LIGHT, STRONG_BLUR = 40.0, 0.2, (0.6, 1.4), 2.0
MOST = 2  # times the final size, to which an image is reduced before it is turned
LARGEST_NUMBER = 2**16 - 1  # of a view: a row's key has two bytes for it


def render_view(
    gray: Image.Image, key: bytes, number: int, size: int, policy: str = "gentle"
) -> NDArray[np.uint8]:
    """Return a view of an image; the same for the same image, number and policy.

    Args:
        gray: Mode L.
        key: SHA-256 of its file.
        number: 1 to LARGEST_NUMBER.
        size: Side of the square.
        policy: One of POLICIES.

    Returns:
        uint8 [1, size, size].
    """
    import numpy as np
    from PIL.Image import Resampling

    random = np.random.default_rng(list(sha256(key + number.to_bytes(2, "big")).digest()))
    shrink = max(1.0, min(gray.size) / (MOST * size))
    reduced = round(gray.width / shrink), round(gray.height / shrink)
    small = gray.resize(reduced, Resampling.BILINEAR)
    return np.array(POLICIES[policy].draw(small, size, random))[np.newaxis]


def border_level(image: Image.Image) -> int:
    """Return the median level of the outermost pixels: what lies beyond is most likely like it."""
    import numpy as np

    pixels = np.asarray(image)
    edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return int(np.median(np.concatenate(edges)))


def _gentle(image: Image.Image, size: int, random: Generator) -> Image.Image:
    """A crop also moves, and a gel may be dark on light or light on dark."""
    from PIL import ImageChops, ImageFilter
    from PIL.Image import Resampling, Transpose

    degrees, level = random.uniform(-TURN, TURN), border_level(image)
    turned = image.rotate(degrees, Resampling.BILINEAR, fillcolor=level)
    view = turned.resize((size, size), Resampling.BILINEAR, box=_crop(turned, random))
    if random.random() < 0.5:
        view = view.transpose(Transpose.FLIP_LEFT_RIGHT)
    view = _lit(view, random, LIGHT)
    if random.random() < 0.5:
        view = view.filter(ImageFilter.GaussianBlur(random.uniform(0, BLUR)))
    if random.random() < 0.5:
        view = ImageChops.invert(view)
    return view


def _strong(image: Image.Image, size: int, random: Generator) -> Image.Image:
    """Each change is made or not; where none would be, one of them is."""
    from PIL import ImageFilter
    from PIL.Image import Resampling, Transpose

    made = random.random(6) < 0.5
    made[random.integers(6)] |= not made.any()
    turn, shift, mirror, flip, light, blur = made
    degrees = random.uniform(-STRONG_TURN, STRONG_TURN) if turn else 0.0
    x, y = random.uniform(-SHIFT, SHIFT, 2) * image.size if shift else (0, 0)
    pixels, level = (round(x), round(y)), border_level(image)
    moved = image.rotate(degrees, Resampling.BILINEAR, translate=pixels, fillcolor=level)
    view = moved.resize((size, size), Resampling.BILINEAR)
    if mirror:
        view = view.transpose(Transpose.FLIP_LEFT_RIGHT)
    if flip:
        view = view.transpose(Transpose.FLIP_TOP_BOTTOM)
    if light:
        view = _lit(view, random, STRONG_LIGHT)
    if blur:
        view = view.filter(ImageFilter.GaussianBlur(random.uniform(0, STRONG_BLUR)))
    return view


def _lit(view: Image.Image, random: Generator, light: tuple[float, float]) -> Image.Image:
    import numpy as np

    contrast, brightness = random.uniform(*light, 2)
    mean = float(np.asarray(view).mean())
    return view.point([((level - mean) * contrast + mean) * brightness for level in range(256)])


def _crop(image: Image.Image, random: Generator) -> tuple[float, float, float, float]:
    """Draw a box after Szegedy et al. 2015: a share of the area, and a change of the shape."""
    import numpy as np

    area, shape = random.uniform(*AREA), np.exp(random.uniform(*np.log(SHAPE)))
    width = image.width * min(1.0, float(np.sqrt(area * shape)))
    height = image.height * min(1.0, float(np.sqrt(area / shape)))
    left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
    return left, top, left + width, top + height


_NUMBERED = "0: clean; others by SHA-256 of image and number: "

POLICIES: dict[str, Policy] = {
    "gentle": Policy(
        "turned, cropped, mirrored, lighter or darker, blurred, inverted: what may happen to a gel",
        _NUMBERED + "turned up to 10 degrees, cropped to 50..100 % of the area at 3:4..4:3 of its "
        "shape, mirrored or not, brightness and contrast x 0.8..1.2, blurred up to 1 pixel or not, "
        "inverted or not; 1",
        _gentle,
    ),
    "strong": Policy(
        "turned up to 40°, shifted up to 20 %, mirrored, flipped, lit otherwise, blurred: a random "
        "choice of these",
        _NUMBERED + "a random choice of: turned up to 40 degrees, shifted up to 20 % each way, "
        "mirrored, flipped, brightness and contrast x 0.6..1.4, blurred up to 2 pixels; 1",
        _strong,
    ),
}
