"""Augmented views: what an image might have looked like, drawn from its content and a number.

A frozen backbone can't be trained on endless variations, but it can embed some of each image. The
rule is part of every cache's identity: change it, change its name.
"""

from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

VIEWS_RULE = (
    "0: clean; others by SHA-256 of image and number: turned up to 10 degrees, cropped to "
    "50..100 % of the area at 3:4..4:3 of its shape, mirrored or not, brightness and contrast "
    "x 0.8..1.2, blurred up to 1 pixel or not, inverted or not; 1"
)
TURN, AREA, SHAPE, LIGHT, BLUR = 10.0, (0.5, 1.0), (3 / 4, 4 / 3), (0.8, 1.2), 1.0
MOST = 2  # times the final size, to which an image is reduced before it is turned


def rendered(gray: Image.Image, key: bytes, number: int, size: int) -> NDArray[np.uint8]:
    """Return a view of an image of mode L: uint8 [1, size, size]. The same for the same image.

    key: SHA-256 of its file. A crop also moves, and a gel may be dark on light or light on dark.
    """
    random = np.random.default_rng(list(sha256(key + number.to_bytes(2, "big")).digest()))
    shrink = max(1.0, min(gray.size) / (MOST * size))
    small = gray.resize((round(gray.width / shrink), round(gray.height / shrink)), _BILINEAR)
    turned = small.rotate(random.uniform(-TURN, TURN), _BILINEAR, fillcolor=_border(small))
    view = turned.resize((size, size), _BILINEAR, box=_crop(turned, random))
    if random.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    contrast, brightness = random.uniform(*LIGHT, 2)
    mean = float(np.asarray(view).mean())
    view = view.point([((level - mean) * contrast + mean) * brightness for level in range(256)])
    if random.random() < 0.5:
        view = view.filter(ImageFilter.GaussianBlur(random.uniform(0, BLUR)))
    if random.random() < 0.5:
        view = ImageChops.invert(view)
    return np.array(view)[np.newaxis]


_BILINEAR = Image.Resampling.BILINEAR


def _border(image: Image.Image) -> int:
    """Return the median level of the outermost pixels: what lies beyond is most likely like it."""
    pixels = np.asarray(image)
    edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return int(np.median(np.concatenate(edges)))


def _crop(image: Image.Image, random: np.random.Generator) -> tuple[float, float, float, float]:
    """Draw a box after Szegedy et al. 2015: a share of the area, and a change of the shape."""
    area, shape = random.uniform(*AREA), np.exp(random.uniform(*np.log(SHAPE)))
    width = image.width * min(1.0, float(np.sqrt(area * shape)))
    height = image.height * min(1.0, float(np.sqrt(area / shape)))
    left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
    return left, top, left + width, top + height
