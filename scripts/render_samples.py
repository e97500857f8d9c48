"""Render the sample images that ship with the project: gels, and pictures that resemble gels.

Every image is drawn by a random generator seeded with the image's own name, so one image can be
rendered alone and nothing depends on the order.
"""

import argparse
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SPLITS = {"dataset": 46, "test_images": 11}  # images of each class
PNG_EVERY = 7  # no multiple of the numbers of kinds, so kind and format are not tied together

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

    def line(self, points: Sequence[tuple[float, float]], shade: float, width: float = 1) -> None:
        """Join points, each x and y."""
        doubled = [(2 * x, 2 * y) for x, y in points]
        self.pen.line(doubled, fill=round(255 * shade), width=round(2 * width), joint="curve")

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

    def lane(self) -> list[Band]:
        """Return the ladder's own lane."""
        return [Band(self.position(s), 1.8 if s in self.bright else 0.8) for s in self.sizes]


BP100 = Ladder((1500, 1200, 1000, 900, 800, 700, 600, 500, 400, 300, 200, 100), (1000, 500))
KB1 = Ladder((10000, 8000, 6000, 5000, 4000, 3000, 2000, 1500, 1000, 500), (3000, 1000))
KDA = Ladder((250, 150, 100, 75, 50, 37, 25, 20, 15, 10), (75, 25))

Lane: TypeAlias = list[Band]
Gel: TypeAlias = tuple[Ladder, list[Lane]]  # the samples, and the ladder that goes beside them
Recipe: TypeAlias = Callable[[Generator], Gel]


def pcr(rng: Generator) -> Gel:
    """One amplicon in the lanes where the reaction worked, a haze of primers in all."""
    amplicon = BP100.position(rng.uniform(180, 1100))
    samples: list[Lane] = []
    for worked in rng.random(rng.integers(4, 13)) < rng.uniform(0.5, 1.0):
        primers = Band(rng.normal(0.93, 0.004), rng.uniform(0.05, 0.4), 0.018, 0.05)
        product = Band(rng.normal(amplicon, 0.002), rng.lognormal(0.2, 0.6), 0.009, 0.01)
        samples.append([primers, product] if worked else [primers])
    return BP100, samples


def digest(rng: Generator) -> Gel:
    """Fragments of restriction enzymes: the longer a fragment, the more dye it binds."""
    samples: list[Lane] = []
    for cuts in rng.integers(1, 7, rng.integers(4, 10)):
        fragments = 1000 * np.exp(rng.uniform(math.log(0.5), math.log(9), cuts))
        samples.append([Band(KB1.position(f), 0.3 + f / 4000) for f in fragments])
    return KB1, samples


def plasmid(rng: Generator) -> Gel:
    """Supercoiled, linear and nicked rings of one plasmid, in shares that differ by lane."""
    forms = KB1.position(rng.uniform(2000, 4000)) + np.array([0.08, 0.0, -0.13])
    shares = rng.dirichlet([1.2, 0.7, 0.7], rng.integers(5, 13))
    return KB1, [[Band(f, 2 * s, 0.008, 0.02) for f, s in zip(forms, row)] for row in shares]


def genomic(rng: Generator) -> Gel:
    """Overloaded DNA of high molecular weight, sheared to a smear in the poorer samples."""
    samples: list[Lane] = []
    for sheared in rng.random(rng.integers(4, 10)):
        intact = Band(rng.normal(0.1, 0.004), 2.5 * (1 - sheared) + 0.2, 0.014, 0.03)
        smear = Band(rng.uniform(0.35, 0.85), sheared, 0.07, rng.uniform(0.1, 0.3))
        samples.append([intact, smear])
    return KB1, samples


def dilution(rng: Generator) -> Gel:
    """One sample diluted from lane to lane until its bands are lost."""
    bands = rng.uniform(0.2, 0.85, rng.integers(1, 4))
    steps = rng.uniform(1.3, 2.4) ** -np.arange(rng.integers(5, 11))
    return BP100, [[Band(b, 3 * step, 0.01, 0.03) for b in bands] for step in steps]


def protein(rng: Generator) -> Gel:
    """A purification by SDS-PAGE: the crowd of host proteins fades, the product stays."""
    crowd = rng.uniform(0.08, 0.95, rng.integers(14, 26))
    amounts, product = rng.gamma(0.8, 0.5, crowd.size), rng.uniform(0.3, 0.75)
    samples: list[Lane] = []
    for crude in np.sort(rng.random(rng.integers(5, 11)))[::-1] ** 2:
        lane = [Band(p, crude * a, 0.008, 0.02) for p, a in zip(crowd, amounts)]
        lane += [Band(0.7, 0.2 * crude, 0.2), Band(product, rng.uniform(0.5, 3), 0.013, 0.02)]
        samples.append(lane)
    return KDA, samples


class Slab:
    """A loaded gel cast to a size: knows where in the picture lanes, wells and bands lie."""

    def __init__(self, rng: Generator, gel: Gel, size: Size) -> None:
        self.ladder, samples = gel
        before, after = rng.permuted([1, rng.integers(0, 2)])
        marker = [("M", self.ladder.lane())]
        numbered = [(str(number), lane) for number, lane in enumerate(samples, 1)]
        self.lanes = marker * before + numbered + marker * after
        self.pitch = size[1] / (len(self.lanes) + rng.uniform(0, 1.5))
        spare = size[1] - self.pitch * (len(self.lanes) - 1)
        self.columns = spare * rng.uniform(0.35, 0.65) + self.pitch * np.arange(len(self.lanes))
        self.wells = rng.uniform(-0.04, 0.1) * size[0]  # below 0: cropped out of the picture
        self.run = rng.uniform(0.82, 1.02) * (size[0] - self.wells)
        self.smile = rng.uniform(0, 0.03)  # the outer lanes are cooler and lag behind
        self.rng, self.size = rng, size

    def row(self, position: float, x: Canvas) -> Canvas:
        """Return y of a band at places across the gel."""
        return self.wells + self.run * (position - self.smile * (2 * x / self.size[1] - 1) ** 2)

    def stain(self) -> Canvas:
        """Return the density of the dye, band upon band."""
        y, x = np.indices(self.size, dtype=np.float64)
        density = np.zeros(self.size)
        half = self.pitch * self.rng.uniform(0.3, 0.42)
        for (_, lane), column in zip(self.lanes, self.columns):
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


def photograph(rng: Generator, slab: Slab, *, dark_bands: bool) -> Canvas:
    """Light a slab from below: its dye glows on dark or, in a Coomassie gel, blocks the light."""
    y, x = axes(slab.size)
    glow = rng.uniform(0.04, 0.3) + rng.uniform(0, 0.22) * clouds(rng, slab.size, 3, 3)
    glow += rng.uniform(0, 0.15) * bump(y - rng.uniform(-0.5, 1), 0.5)
    glow *= 1 - rng.uniform(0.05, 0.4) * (x**2 + y**2) / 2
    # Dye saturates the sensor, so that overloaded bands clip instead of growing brighter.
    dye = 1 - np.exp(-rng.uniform(0.4, 1.6) * slab.stain())
    picture = glow + (rng.uniform(0.75, 1) - glow) * dye + rng.uniform(0, 0.12) * slab.relief()
    for at_y, at_x in rng.uniform(-1, 1, (rng.integers(0, 12), 2)):  # dust
        picture += rng.uniform(0.1, 0.5) * bump(np.hypot(y - at_y, x - at_x), 0.006)
    return (1 - picture if dark_bands else picture).clip(0, 1)


def render_gel(recipe: Recipe, rng: Generator, size: Size) -> Canvas:
    """Cast, stain and photograph one gel; frame it with labels, as papers do, or tilt it."""
    dark_bands = rng.random() < (0.9 if recipe is protein else 0.2)
    if rng.random() < 0.6:
        picture = photograph(rng, Slab(rng, recipe(rng), size), dark_bands=dark_bands)
        return tilt(picture, rng.choice([0, rng.uniform(-4, 4)]))
    height, width = size[0] - 28, size[1] - 44
    slab = Slab(rng, recipe(rng), (height, width))
    paper = float(rng.random() < 0.7)
    sketch = Sketch(size, paper)
    ladder_first = slab.lanes[0][0] == "M"
    top, left = 20, (34 if ladder_first else 10)
    edge, to, ladder = (left - 3, "rm", 0) if ladder_first else (left + width + 3, "lm", -1)
    for (title, _), column in zip(slab.lanes, slab.columns):
        sketch.text(left + column, 11, title, 11, 1 - paper, "mm")
    lowest = 0.0
    for mark in slab.ladder.sizes:
        row = top + slab.row(slab.ladder.position(mark), slab.columns[ladder])
        if lowest + 9 < row < top + height:  # crowded sizes go without a label
            sketch.text(edge, row, str(mark), 10, 1 - paper, to)
            lowest = row
    canvas = sketch.canvas()
    inside = photograph(rng, slab, dark_bands=dark_bands)
    canvas[top : top + height, left : left + width] = inside
    return canvas


def barcode(rng: Generator, size: Size) -> Canvas:
    """Bars of one to four modules above their digits; lying down they look like one wide lane."""
    lying = rng.random() < 0.5
    height, width = size[::-1] if lying else size
    sketch = Sketch((height, width), rng.uniform(0.8, 1))
    edges = np.cumsum(rng.integers(1, 5, 2 * rng.integers(14, 40)))
    edges = width * (0.08 + 0.84 * (edges - edges[0]) / (edges[-1] - edges[0]))
    for left, right in zip(edges[::2], edges[1::2]):
        sketch.box(left, 0.1 * height, right, 0.8 * height, 0.1)
    digits = " ".join(map(str, rng.integers(0, 10, 13)))
    sketch.text(width / 2, 0.88 * height, digits, width / 16, 0.1, "mm")
    return tilt(sketch.canvas().T if lying else sketch.canvas(), rng.uniform(-6, 6))


def spectrogram(rng: Generator, size: Size) -> Canvas:
    """A voice: harmonics of a gliding pitch, loud where the mouth resonates, in syllables."""
    frequency = (1 - axes(size)[0]) / 2
    pitch = rng.uniform(0.03, 0.06) * (0.7 + clouds(rng, size, 1, 7))
    harmonics = np.exp(3 * np.cos(2 * np.pi * frequency / pitch) - 3)
    formants = clouds(rng, size, 6, 9) ** 2 * np.exp(-1.2 * frequency)
    syllables = 1 / (1 + np.exp(25 * (0.4 - clouds(rng, size, 1, int(rng.integers(6, 20))))))
    hiss = 0.25 * clouds(rng, size, size[0] // 2, size[1] // 3)
    power = 1.5 * harmonics * formants * syllables + hiss * (0.3 + formants)
    return 0.95 - power if rng.random() < 0.5 else power + 0.03


def chromatogram(rng: Generator, size: Size) -> Canvas:
    """Peaks that widen with time over a drifting baseline, one to three runs, above an axis."""
    (height, width), runs = size, int(rng.integers(1, 4))
    sketch = Sketch(size, 1)
    time = np.linspace(0, 1, 4 * width)
    for run in range(1, runs + 1):
        signal = 0.1 * clouds(rng, (1, time.size), 1, 5)[0]
        for peak in rng.uniform(0.05, 0.95, rng.integers(4, 16)):
            signal += rng.gamma(1, 0.4) * bump(time - peak, 0.004 + 0.012 * peak)
        trace = height * (0.88 * run - 0.75 * signal / signal.max()) / runs
        x = width * (0.1 + 0.86 * time)
        sketch.line(list(zip(x, trace)), rng.uniform(0, 0.5), rng.choice([1, 1.5, 2]))
    sketch.box(0.1 * width, 0.9 * height, 0.96 * width, 0.9 * height + 1, 0)
    for minute in range(0, 31, 5):
        x_tick = width * (0.1 + 0.86 * minute / 30)
        sketch.box(x_tick, 0.9 * height, x_tick + 1, 0.92 * height, 0)
        sketch.text(x_tick, 0.95 * height, str(minute), 11, 0, "mm")
    return sketch.canvas()


def text_page(rng: Generator, size: Size) -> Canvas:
    """A page of one or two columns of words nobody knows."""
    (height, width), columns = size, int(rng.integers(1, 3))
    sketch = Sketch(size, rng.uniform(0.85, 1))
    letter = rng.uniform(9, 15)
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
    fibres = clouds(rng, size, 8, size[1] // 2)
    picture = rng.uniform(0.5, 0.8) - 0.25 * rings + 0.15 * (fibres - 0.5) - 0.2 * knot
    return picture.T if rng.random() < 0.5 else picture


def fabric(rng: Generator, size: Size) -> Canvas:
    """Plaid: the same stripes in warp and weft, threads alternately on top."""
    y, x = np.indices(size)
    thread = int(rng.integers(3, 6))
    stripes = np.repeat(rng.uniform(0.1, 0.9, rng.integers(3, 7)), rng.integers(3, 9))
    over = (y // thread + x // thread) % rng.integers(2, 5) == 0  # plain weave or twill
    warp, weft = (stripes[axis // thread % stripes.size] for axis in (x, y))
    round_ = np.abs(np.sin(np.pi * np.where(over, x, y) / thread))
    return tilt(np.where(over, warp, weft) * (0.65 + 0.35 * round_), rng.uniform(-9, 9))


def radiograph(rng: Generator, size: Size) -> Canvas:
    """A chest: bright spine and heart between dark lungs, crossed by the arcs of the ribs."""
    y, x = axes(size)
    x = x + rng.uniform(-0.1, 0.1)
    lungs = bump(((np.abs(x) - 0.42) / 0.3) ** 2 + ((y - 0.05) / 0.75) ** 2, 0.6)
    arcs = y + rng.uniform(0.5, 0.9) * (np.abs(x) - 0.35) ** 2 + 0.03 * clouds(rng, size, 4, 4)
    ribs = np.sin(np.pi * rng.uniform(3.5, 5.5) * arcs) ** 2 * (np.abs(x) < 0.85)
    discs = 0.8 + 0.2 * np.sin(rng.uniform(25, 40) * y)
    heart = bump(np.hypot((x - 0.2) / 0.3, (y - 0.35) / 0.35), 0.6)
    picture = 0.6 - 0.5 * lungs + 0.16 * ribs * (0.4 + lungs) + 0.3 * bump(x, 0.09) * discs
    picture += 0.25 * heart - 0.5 * (np.abs(x) > 0.93 + 0.05 * y) + 0.08 * clouds(rng, size, 9, 9)
    return picture


def heat_map(rng: Generator, size: Size) -> Canvas:
    """Genes in groups that answer alike, measured in a few samples, beside the scale."""
    rows, columns = int(rng.integers(10, 36)), int(rng.integers(5, 16))
    height, width = size
    sketch = Sketch(size, 1)
    group = np.sort(rng.integers(0, 4, rows))
    levels = rng.random((4, columns))[group] + rng.normal(0, 0.15, (rows, columns))
    top, left, tall, wide = (
        0.08 * height,
        0.05 * width,
        0.86 * height / rows,
        0.75 * width / columns,
    )
    gap = rng.choice([0, 1])
    for (row, column), level in np.ndenumerate(levels.clip(0, 1)):
        x, y = left + wide * column, top + tall * row
        sketch.box(x, y, x + wide - gap, y + tall - gap, level)
    for step in range(50):
        y = height * (0.3 + 0.008 * step)
        sketch.box(0.86 * width, y, 0.92 * width, y + 0.01 * height, 1 - step / 50)
    return sketch.canvas()


def piano_keys(rng: Generator, size: Size) -> Canvas:
    """White keys with black ones in twos and threes, on one or two manuals."""
    (height, width), manuals = size, int(rng.integers(1, 3))
    sketch = Sketch(size, rng.uniform(0.05, 0.4))
    wide, first = width / rng.uniform(8, 22), int(rng.integers(0, 7))
    for manual in range(manuals):
        top, tall = height * (manual + 0.1) / manuals, 0.85 * height / manuals
        for key in range(-1, 23):
            sketch.box(key * wide + 1, top, (key + 1) * wide - 1, top + tall, 0.92)
        for key in range(-1, 23):
            if (key + first) % 7 not in (2, 6):  # no black key between E and F, B and C
                middle = (key + 1) * wide
                sketch.box(middle - 0.3 * wide, top, middle + 0.3 * wide, top + 0.62 * tall, 0.08)
    shade = 0.75 + 0.35 * clouds(rng, size, 3, 2)
    return tilt(sketch.canvas() * shade, rng.uniform(-8, 8))


def cells(rng: Generator, size: Size) -> Canvas:
    """Cells under a microscope: a bright membrane, a dark rim and a nucleus each."""
    y, x = np.indices(size, dtype=np.float64)
    picture = 0.45 + 0.2 * clouds(rng, size, 3, 3) + 0.1 * clouds(rng, size, 40, 40)
    radius = rng.uniform(12, 34)
    for at_y, at_x in rng.uniform(0, 1, (rng.integers(12, 45), 2)) * size:
        squeeze, turn = rng.uniform(0.6, 1), rng.uniform(0, np.pi)
        along = (x - at_x) * math.cos(turn) + (y - at_y) * math.sin(turn)
        across = (y - at_y) * math.cos(turn) - (x - at_x) * math.sin(turn)
        r = np.hypot(along, across / squeeze) / (radius * rng.uniform(0.7, 1.2))
        picture += 0.3 * bump(r - 1, 0.07) - 0.2 * bump(r - 0.85, 0.1) - 0.25 * bump(r, 0.25)
    return picture


def skyline(rng: Generator, size: Size) -> Canvas:
    """Towers in three ranks, the near ones darker, with windows lit here and there."""
    height, width = size
    night = rng.random() < 0.5
    sketch = Sketch(size, 0.12 if night else 0.85)
    for rank in range(3):
        left = -rng.uniform(0, 30)
        wall = (0.2, 0.14, 0.06)[rank] if night else (0.65, 0.5, 0.3)[rank]
        while left < width:
            wide = rng.uniform(0.08, 0.2) * width
            top = height * (rng.uniform(0.1, 0.55) + 0.15 * rank)
            sketch.box(left, top, left + wide, height, wall)
            step = rng.uniform(5, 9)
            for y in np.arange(top + step, height, 1.3 * step):
                for x in np.arange(left + step / 2, left + wide - step, step):
                    lit = rng.random() < 0.4
                    sketch.box(x, y, x + step / 2, y + step / 2, wall + (0.5 if lit else -0.05))
            left += wide + rng.uniform(-2, 12)
    return sketch.canvas()


GELS: dict[str, Painter] = {
    recipe.__name__: partial(render_gel, recipe)
    for recipe in (pcr, digest, plasmid, genomic, dilution, protein)
}
NOT_GELS: dict[str, Painter] = {
    painter.__name__: painter
    for painter in (barcode, spectrogram, chromatogram, text_page, wood_grain, fabric)
    + (radiograph, heat_map, piano_keys, cells, skyline)
}


def samples() -> Iterator[tuple[str, Painter]]:
    """Give every image's path, less its ending, and its painter; the kinds take turns."""
    for split, count in SPLITS.items():
        for label, painters in (("gel", GELS), ("not_gel", NOT_GELS)):
            for number, painter in zip(range(1, count + 1), cycle(painters.values())):
                yield f"{split}/{label}/{label}_{number}", painter


def write(stem: Path, rng: Generator, canvas: Canvas, *, png: bool) -> int:
    """Develop a canvas with the grain of a sensor and return how many bytes the file takes."""
    grain = rng.uniform(0.001, 0.004) if png else rng.uniform(0.005, 0.02)  # PNG keeps every speck
    pixels = (canvas + rng.normal(0, grain, canvas.shape)).clip(0, 1) * 255
    path = stem.with_suffix(".png" if png else ".jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.round().astype(np.uint8)).save(
        path, optimize=True, quality=int(rng.integers(80, 89))
    )
    return path.stat().st_size


def main() -> None:
    """Render every image."""
    parser = argparse.ArgumentParser(description=__doc__)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=Path, default=root, help="default: the repository")
    out: Path = parser.parse_args().out
    sizes: list[int] = []
    for index, (name, painter) in enumerate(samples()):
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()))
        height, width = (int(side) for side in rng.integers(240, 421, 2))
        canvas = painter(rng, (height, width))
        sizes.append(write(out / name, rng, canvas, png=index % PNG_EVERY == 0))
    print(f"{len(sizes)} images, {sum(sizes) / 1e6:.2f} MB, in {out}")


if __name__ == "__main__":
    main()
