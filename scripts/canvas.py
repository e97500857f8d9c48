"""What gels and other pictures are drawn with: noise, lens, turntable and pen."""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Canvas: TypeAlias = NDArray[np.float64]  # 0 is black, 1 is white
Size: TypeAlias = tuple[int, int]  # height and width, as numpy has them
Painter: TypeAlias = Callable[[Generator, Size], Canvas]


def clouds(rng: Generator, size: Size, rows: int, columns: int) -> Canvas:
    """Return noise of about 0 to 1, as smooth as few rows and columns of blobs make it."""
    blobs = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
    return np.asarray(blobs.resize(size[::-1], Image.Resampling.BICUBIC), dtype=np.float64)


def axes(size: Size) -> tuple[Canvas, Canvas]:
    """Return y as a column and x as a row, each running from -1 to 1."""
    return np.linspace(-1, 1, size[0])[:, None], np.linspace(-1, 1, size[1])[None, :]


def bump(distance: Canvas, width: float | Canvas) -> Canvas:
    """Return a Gaussian of height 1: what a lens makes of a point, a line or an edge."""
    return np.exp(-0.5 * (distance / width) ** 2)


def tilt(canvas: Canvas, degrees: float) -> Canvas:
    """Turn a canvas and cut away the rim where the corners would show."""
    height, width = canvas.shape
    turned = Image.fromarray(canvas.astype(np.float32)).rotate(degrees, Image.Resampling.BICUBIC)
    lost = math.sin(math.radians(abs(degrees))) / 2
    rim_y, rim_x = math.ceil(lost * width), math.ceil(lost * height)
    return np.asarray(turned, dtype=np.float64)[rim_y : height - rim_y, rim_x : width - rim_x]


class Sketch:
    """A Pillow drawing at twice the size: halving it smooths every edge."""

    def __init__(self, size: Size, shade: float) -> None:
        self.image = Image.new("L", (2 * size[1], 2 * size[0]), round(255 * shade))
        self.pen = ImageDraw.Draw(self.image)

    def box(self, left: float, top: float, right: float, bottom: float, shade: float) -> None:
        """Fill a rectangle."""
        self.pen.rectangle((2 * left, 2 * top, 2 * right, 2 * bottom), fill=round(255 * shade))

    def line(self, xs: Canvas, ys: Canvas, width: float, shade: float) -> None:
        """Join points by a line."""
        points = (2 * np.column_stack((xs, ys))).ravel().tolist()
        self.pen.line(points, round(255 * shade), round(2 * width), joint="curve")

    def text(self, x: float, y: float, text: str, height: float, shade: float, to: str) -> float:
        """Write from, around or up to a point (Pillow's anchor); return where the text ends."""
        font = ImageFont.load_default(2 * height)
        self.pen.text((2 * x, 2 * y), text, fill=round(255 * shade), font=font, anchor=to)
        return x + self.pen.textlength(text, font) / 2

    def canvas(self) -> Canvas:
        """Return the drawing at its true size."""
        return np.asarray(self.image.reduce(2), dtype=np.float64) / 255
