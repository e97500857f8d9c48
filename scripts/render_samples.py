"""Render the sample images that ship with the project: gels, and pictures that resemble gels.

Every image is drawn by a random generator seeded with the image's own name, so one image can be
rendered alone and nothing depends on the order.
"""

import argparse
import hashlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SPLITS = {"dataset": 46, "test_images": 11}  # images of each class
PNG_EVERY = 9  # shares no factor with the number of kinds: format and kind are not tied

Canvas: TypeAlias = NDArray[np.float64]  # 0 is black, 1 is white
Size: TypeAlias = tuple[int, int]  # height and width, as numpy has them
Place = TypeVar("Place", float, Canvas)
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

    def text(self, x: float, y: float, text: str, height: float, shade: float, to: str) -> float:
        """Write from, around or up to a point (Pillow's anchor); return where the text ends."""
        font = ImageFont.load_default(2 * height)
        self.pen.text((2 * x, 2 * y), text, fill=round(255 * shade), font=font, anchor=to)
        return x + self.pen.textlength(text, font) / 2

    def canvas(self) -> Canvas:
        """Return the drawing at its true size."""
        return np.asarray(self.image.reduce(2), dtype=np.float64) / 255


class Band(NamedTuple):
    """Molecules of one size; lengths are fractions of the run from the wells to the front."""

    position: float
    strength: float
    thickness: float = 0.007
    smear: float = 0.0  # how far a trail reaches back towards the wells


class Ladder(NamedTuple):
    """Molecules of known sizes, largest first, some loaded double so that one can count."""

    sizes: tuple[int, ...]
    bright: tuple[int, ...]

    def position(self, size: float) -> float:
        """Place a size: mobility falls with its logarithm."""
        largest, smallest = self.sizes[0], self.sizes[-1]
        return 0.12 + 0.73 * math.log(largest / size) / math.log(largest / smallest)


BP100 = Ladder((1500, 1200, 1000, 900, 800, 700, 600, 500, 400, 300, 200, 100), (1000, 500))
KB1 = Ladder((10000, 8000, 6000, 5000, 4000, 3000, 2000, 1500, 1000, 500), (3000, 1000))
KDA = Ladder((250, 150, 100, 75, 50, 37, 25, 20, 15, 10), (75, 25))

Lane: TypeAlias = list[Band]
Recipe: TypeAlias = Callable[[Generator], Iterator[Lane]]


def pcr(rng: Generator) -> Iterator[Lane]:
    """One amplicon in the lanes where the reaction worked, a haze of primers in all."""
    amplicon = BP100.position(rng.uniform(180, 1100))
    for worked in rng.random(rng.integers(4, 13)) < rng.uniform(0.5, 1.0):
        primers = Band(rng.normal(0.93, 0.004), rng.uniform(0.05, 0.4), 0.018, 0.05)
        product = Band(rng.normal(amplicon, 0.002), rng.lognormal(0.2, 0.6), 0.009, 0.01)
        yield [primers, product] if worked else [primers]


def digest(rng: Generator) -> Iterator[Lane]:
    """Fragments of restriction enzymes: the longer a fragment, the more dye it binds."""
    for cuts in rng.integers(1, 7, rng.integers(4, 10)):
        fragments = 1000 * np.exp(rng.uniform(math.log(0.5), math.log(9), cuts))
        yield [Band(KB1.position(size), 0.3 + size / 4000) for size in fragments]


def plasmid(rng: Generator) -> Iterator[Lane]:
    """Supercoiled, linear and nicked rings of one plasmid, in shares that differ by lane."""
    forms = KB1.position(rng.uniform(2000, 4000)) + np.array([0.08, 0.0, -0.13])
    for shares in rng.dirichlet([1.2, 0.7, 0.7], rng.integers(5, 13)):
        yield [Band(p, 2 * s, 0.008, 0.02) for p, s in zip(forms, shares, strict=True)]


def genomic(rng: Generator) -> Iterator[Lane]:
    """Overloaded DNA of high molecular weight, sheared to a smear in the poorer samples."""
    for sheared in rng.random(rng.integers(4, 10)):
        intact = Band(rng.normal(0.1, 0.004), 2.5 * (1 - sheared) + 0.2, 0.014, 0.03)
        yield [intact, Band(rng.uniform(0.35, 0.85), sheared, 0.07, rng.uniform(0.1, 0.3))]


def protein(rng: Generator) -> Iterator[Lane]:
    """A purification: the crowd of the host's proteins fades, the product stays."""
    crowd = rng.uniform(0.08, 0.95, rng.integers(14, 26))
    amounts, product = rng.gamma(0.8, 0.5, crowd.size), rng.uniform(0.3, 0.75)
    for crude in np.sort(rng.random(rng.integers(5, 11)))[::-1] ** 2:
        haze, pure = Band(0.7, 0.2 * crude, 0.2), Band(product, rng.uniform(0.5, 3), 0.013, 0.02)
        bands = [Band(p, crude * a, 0.008, 0.02) for p, a in zip(crowd, amounts, strict=True)]
        yield [haze, pure, *bands]


class Slab:
    """A loaded gel cast to a size: knows where in the picture lanes, wells and bands lie."""

    def __init__(self, rng: Generator, samples: Iterator[Lane], ladder: Ladder, size: Size) -> None:
        self.rng, self.ladder, self.size = rng, ladder, size
        known = [Band(ladder.position(s), 1.8 if s in ladder.bright else 0.8) for s in ladder.sizes]
        marker = [("M", known)]
        numbered = [(str(number), lane) for number, lane in enumerate(samples, 1)]
        self.lanes = marker + numbered + marker * int(rng.integers(0, 2))
        self.pitch = size[1] / (len(self.lanes) + 0.4)
        first = rng.uniform(0.4, 1) * self.pitch
        self.columns = [first + self.pitch * n for n in range(len(self.lanes))]
        self.wells = rng.uniform(-0.04, 0.1) * size[0]  # below 0: cropped out of the picture
        self.run = rng.uniform(0.82, 1.02) * (size[0] - self.wells)
        self.smile = rng.uniform(0, 0.03)  # the outer lanes are cooler and lag behind

    def row(self, position: float, x: Place) -> Place:
        """Return y of a band at one place across the gel, or at many."""
        return self.wells + self.run * (position - self.smile * (2 * x / self.size[1] - 1) ** 2)

    def stain(self) -> Canvas:
        """Return the density of the dye, band upon band."""
        y, x = np.indices(self.size, dtype=np.float64)
        density = np.zeros(self.size)
        half = self.pitch * self.rng.uniform(0.3, 0.42)
        for (_, lane), column in zip(self.lanes, self.columns, strict=True):
            across = (x - column) / half
            inside = np.exp(-(across**6)) * self.rng.lognormal(0, 0.15)
            bow = self.rng.uniform(-0.002, 0.006) * across**2
            for band in lane:
                depth = (y - self.row(band.position, x)) / self.run + bow
                trail = bump(depth, band.thickness + np.where(depth < 0, band.smear, 0))
                density += band.strength * inside * (bump(depth, band.thickness) + 0.4 * trail)
        return density

    def relief(self) -> Canvas:
        """Return the wells: shadow inside, light caught by the rim."""
        y, x = np.indices(self.size, dtype=np.float64)
        picture = np.zeros(self.size)
        for column in self.columns:
            along = (y - self.row(0, column)) / (0.017 * self.run + 1)
            outline = ((x - column) / (0.36 * self.pitch)) ** 4 + along**4
            picture += 0.7 * bump(outline - 1, 0.5) - (outline < 1)
        return picture


def photograph(rng: Generator, slab: Slab) -> Canvas:
    """Light a slab, never quite evenly, and catch what its dye gives back."""
    y, x = axes(slab.size)
    glow: Canvas = rng.uniform(0.04, 0.3) + rng.uniform(0, 0.22) * clouds(rng, slab.size, 3, 3)
    glow += rng.uniform(0, 0.15) * bump(y - rng.uniform(-0.5, 1), 0.5)
    glow *= 1 - rng.uniform(0.05, 0.4) * (x**2 + y**2) / 2
    # Dye saturates the sensor, so that overloaded bands clip instead of growing brighter.
    dye = 1 - np.exp(-rng.uniform(0.4, 1.6) * slab.stain())
    picture: Canvas = glow + (rng.uniform(0.75, 1) - glow) * dye
    picture += rng.uniform(0, 0.12) * slab.relief()
    for at_y, at_x in rng.uniform(-1, 1, (rng.integers(0, 12), 2)):  # dust
        picture += rng.uniform(0.1, 0.5) * bump(np.hypot(y - at_y, x - at_x), 0.006)
    return picture.clip(0, 1)


def labelled(slab: Slab, picture: Canvas, size: Size, paper: float) -> Canvas:
    """Frame a picture as journals do, lane numbers above it and the ladder's sizes beside it."""
    sketch = Sketch(size, paper)
    top, left = size[0] - picture.shape[0] - 8, size[1] - picture.shape[1] - 8
    for (title, _), column in zip(slab.lanes, slab.columns, strict=True):
        sketch.text(left + column, top / 2, title, 11, 1 - paper, "mm")
    lowest = 0.0
    for mark in slab.ladder.sizes:
        row = top + slab.row(slab.ladder.position(mark), slab.columns[0])
        if lowest + 9 < row < size[0] - 8:  # crowded sizes go without a label
            sketch.text(left - 3, row, str(mark), 10, 1 - paper, "rm")
            lowest = row
    canvas = sketch.canvas()
    canvas[top:-8, left:-8] = picture
    return canvas


def render_gel(recipe: Recipe, ladder: Ladder, rng: Generator, size: Size) -> Canvas:
    """Cast, stain and photograph one gel; label the picture, or leave it as it was taken."""
    label = rng.random() < 0.35
    above, beside = (28, 42) if label else (0, 0)  # room for lane numbers and sizes
    slab = Slab(rng, recipe(rng), ladder, (size[0] - above, size[1] - beside))
    picture = photograph(rng, slab)
    if rng.random() < (0.9 if ladder is KDA else 0.2):
        picture = 1 - picture  # proteins take up Coomassie, which is dark; DNA is often inverted
    if label:
        return labelled(slab, picture, size, paper=rng.choice([0, 1], p=[0.3, 0.7]))
    side = rng.choice([1, 1, -1])  # a slab that lies face down has its ladder last
    return tilt(picture[:, ::side], rng.choice([0, rng.uniform(-4, 4)]))


def barcode(rng: Generator, size: Size) -> Canvas:
    """Bars of one to four modules above their digits; lying down they look like one wide lane."""
    height, width = size
    sketch = Sketch(size, rng.uniform(0.8, 1))
    edges = np.cumsum(rng.integers(1, 5, 2 * rng.integers(14, 40)))
    edges = width * (0.08 + 0.84 * (edges - edges[0]) / (edges[-1] - edges[0]))
    for left, right in edges.reshape(-1, 2):
        sketch.box(left, 0.1 * height, right, 0.8 * height, 0.1)
    digits = "".join(map(str, rng.integers(0, 10, 13)))
    sketch.text(width / 2, 0.88 * height, digits, width / 14, 0.1, "mm")
    return tilt(np.rot90(sketch.canvas(), int(rng.integers(0, 2))), rng.uniform(-6, 6))


def spectrogram(rng: Generator, size: Size) -> Canvas:
    """A voice: harmonics of a gliding pitch, loud where the mouth resonates, in syllables."""
    frequency = (1 - axes(size)[0]) / 2
    pitch = rng.uniform(0.03, 0.06) * (0.7 + clouds(rng, size, 1, 7))
    harmonics = np.exp(3 * np.cos(2 * np.pi * frequency / pitch) - 3)
    formants = clouds(rng, size, 6, 9) ** 2 * np.exp(-1.2 * frequency)
    syllables = 1 / (1 + np.exp(25 * (0.4 - clouds(rng, size, 1, int(rng.integers(6, 20))))))
    hiss = 0.25 * clouds(rng, size, size[0] // 2, size[1] // 3)
    power: Canvas = 1.5 * harmonics * formants * syllables + hiss * (0.3 + formants)
    return 0.95 - power if rng.random() < 0.5 else power + 0.03


def text_page(rng: Generator, size: Size) -> Canvas:
    """A page of one or two columns of words nobody knows."""
    (height, width), columns = size, int(rng.integers(1, 3))
    sketch = Sketch(size, rng.uniform(0.85, 1))
    letter = rng.uniform(11, 16)
    for column in range(columns):
        left = width * (0.07 + 0.45 * column)
        for y in np.arange(0.08 * height, 0.94 * height, 1.35 * letter):
            x, stop = left, left + width * (0.88 / columns - 0.06) * rng.choice([1, 1, 1, 0.5])
            while x < stop - 3 * letter:
                word = "".join(rng.choice(list("aeioubdlmnrst"), rng.integers(2, 9)))
                x = sketch.text(x, y, word, letter, 0.1, "lm") + 0.3 * letter
    return tilt(sketch.canvas(), rng.uniform(-5, 5))


def wood_grain(rng: Generator, size: Size) -> Canvas:
    """Year rings cut lengthwise, bent around a knot, over fine fibres; along or across."""
    y, x = axes(size)
    knot = bump(np.hypot((y - rng.uniform(-1, 1)) / 3, x - rng.uniform(-1, 1)), 0.15)
    depth = rng.uniform(4, 14) * (x + 0.5 * clouds(rng, size, 2, 3)) + rng.uniform(1, 5) * knot
    rings = (depth % 1) ** rng.uniform(1, 3)  # slow growth in spring, a sharp end in autumn
    picture = rng.uniform(0.4, 0.7) - 0.25 * rings - 0.2 * knot
    picture += 0.15 * clouds(rng, size, 8, size[1] // 3)  # fibres
    return picture.T if rng.random() < 0.5 else picture


def radiograph(rng: Generator, size: Size) -> Canvas:
    """A chest, whole or in part: spine and heart between the lungs, crossed by arcs of ribs."""
    y, x = (rng.uniform(0.6, 1.1) * axis + rng.uniform(-0.2, 0.2) for axis in axes(size))
    lungs = bump(((np.abs(x) - 0.42) / 0.3) ** 2 + ((y - 0.05) / 0.75) ** 2, 0.6)
    arcs = y + rng.uniform(0.6, 1.6) * (np.abs(x) - 0.35) ** 2 + 0.1 * clouds(rng, size, 3, 3)
    ribs = np.sin(np.pi * rng.uniform(3, 5.5) * arcs) ** 2 * (np.abs(x) < 0.85)
    spine = bump(x, rng.uniform(0.06, 0.1)) * (0.8 + 0.2 * np.sin(rng.uniform(25, 40) * y))
    heart = bump(np.hypot((x - 0.2) / 0.3, (y - 0.35) / 0.35), rng.uniform(0.4, 0.8))
    body = rng.uniform(0.4, 0.6) * (np.abs(x) < 0.93 + 0.05 * y) + 0.1 * clouds(rng, size, 9, 9)
    bones = rng.uniform(0.1, 0.3) * ribs * (0.4 + lungs) + 0.3 * spine
    return body - rng.uniform(0.3, 0.5) * lungs + bones + 0.25 * heart


def heat_map(rng: Generator, size: Size) -> Canvas:
    """Genes in groups that answer alike, measured in a few samples, beside the scale."""
    rows, columns, gap = (int(n) for n in rng.integers((10, 5, 0), (36, 16, 2)))
    (height, width), groups = size, np.sort(rng.integers(0, 4, rows))
    levels = rng.random((4, columns))[groups] + rng.normal(0, 0.15, (rows, columns))
    tall, wide = 0.86 * height / rows, 0.75 * width / columns
    sketch = Sketch(size, 1)
    for (row, column), level in np.ndenumerate(levels.clip(0, 1)):
        x, y = 0.05 * width + wide * column, 0.07 * height + tall * row
        sketch.box(x, y, x + wide - gap, y + tall - gap, level)
    for y in np.linspace(0.3, 0.7, 60):
        sketch.box(0.86 * width, y * height, 0.92 * width, (y + 0.01) * height, 2.5 * (0.7 - y))
    return sketch.canvas()


def piano_keys(rng: Generator, size: Size) -> Canvas:
    """White keys with black ones in twos and threes, on one or two manuals."""
    (height, width), manuals = size, int(rng.integers(1, 3))
    sketch = Sketch(size, rng.uniform(0.05, 0.4))
    wide, first = width / rng.uniform(8, 22), int(rng.integers(0, 7))
    for manual in range(manuals):
        top, tall = height * (manual + 0.1) / manuals, 0.85 * height / manuals
        sketch.box(0, top, width, top + tall, 0.92)
        for key in range(23):
            x = key * wide
            sketch.box(x - 0.8, top, x + 0.8, top + tall, 0.3)
            if (key + first) % 7 not in (3, 0):  # no black key between E and F, B and C
                sketch.box(x - 0.3 * wide, top, x + 0.3 * wide, top + 0.62 * tall, 0.08)
    return tilt(sketch.canvas() * (0.75 + 0.35 * clouds(rng, size, 3, 2)), rng.uniform(-8, 8))


def cells(rng: Generator, size: Size) -> Canvas:
    """Cells under a microscope, some of them touching: bright halo, dark rim, nucleus."""
    y, x = np.indices(size)
    radius, reach = rng.uniform(12, 34), np.full(size, np.inf)
    for at_y, at_x in rng.uniform(0, 1, (rng.integers(12, 45), 2)) * size:
        turn, squeeze = rng.uniform(0, np.pi), rng.uniform(0.6, 1)
        turned = (x - at_x + 1j * (y - at_y)) * np.exp(1j * turn) / rng.uniform(0.7, 1.2)
        reach = np.minimum(reach, np.hypot(turned.real, turned.imag / squeeze) / radius)
    medium = 0.45 + 0.2 * clouds(rng, size, 3, 3) + 0.1 * clouds(rng, size, 40, 40)
    rim = 0.3 * bump(reach - 1, 0.07) - 0.2 * bump(reach - 0.85, 0.1)
    return medium + rim - 0.25 * bump(reach, 0.25)


GELS: dict[str, Painter] = {
    "PCR": partial(render_gel, pcr, BP100),
    "restriction digest": partial(render_gel, digest, KB1),
    "plasmid": partial(render_gel, plasmid, KB1),
    "genomic DNA": partial(render_gel, genomic, KB1),
    "protein": partial(render_gel, protein, KDA),
}
NOT_GELS: dict[str, Painter] = {
    "barcode": barcode,
    "spectrogram": spectrogram,
    "text page": text_page,
    "wood grain": wood_grain,
    "radiograph": radiograph,
    "heat map": heat_map,
    "piano keys": piano_keys,
    "cells": cells,
}


def samples() -> Iterator[tuple[str, Painter]]:
    """Give every image's path, less its ending, and its painter; the kinds take turns."""
    for split, count in SPLITS.items():
        for label, painters in (("gel", GELS), ("not_gel", NOT_GELS)):
            for number, painter in zip(range(1, count + 1), cycle(painters.values())):
                yield f"{split}/{label}/{label}_{number}", painter


def save(path: Path, rng: Generator, canvas: Canvas) -> int:
    """Write a canvas, with the grain of a sensor if a JPEG, and return the size of the file."""
    if path.suffix == ".jpg":  # PNG would keep every speck and grow fourfold
        canvas = canvas + rng.normal(0, rng.uniform(0.003, 0.01), canvas.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray((255 * canvas.clip(0, 1)).round().astype(np.uint8))
    image.save(path, optimize=True, quality=int(rng.integers(80, 88)))
    return path.stat().st_size


def main() -> None:
    """Render every image."""
    parser = argparse.ArgumentParser(description=__doc__)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=Path, default=root, help="default: the repository")
    out: Path = parser.parse_args().out
    sizes: list[int] = []
    for number, (name, painter) in enumerate(samples()):
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()))
        height, width = (int(side) for side in rng.integers(250, 377, 2))
        suffix = ".jpg" if number % PNG_EVERY else ".png"
        sizes.append(save(out / f"{name}{suffix}", rng, painter(rng, (height, width))))
    print(f"{len(sizes)} images, {sum(sizes) / 1e6:.2f} MB, in {out}")


if __name__ == "__main__":
    main()
