"""Draw gels: load samples, run and stain them, photograph the slab."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from canvas import Canvas, Painter, Size, Sketch, axes, bump, clouds, tilt
from numpy.random import Generator

Place = TypeVar("Place", float, Canvas)


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

CacheFiller: TypeAlias = list[Band]
Recipe: TypeAlias = Callable[[Generator], Iterator[CacheFiller]]


def pcr(rng: Generator) -> Iterator[CacheFiller]:
    """One amplicon in the lanes where the reaction worked, a haze of primers in all."""
    amplicon = BP100.position(rng.uniform(180, 1100))
    for worked in rng.random(rng.integers(4, 13)) < rng.uniform(0.5, 1.0):
        primers = Band(rng.normal(0.93, 0.004), rng.uniform(0.05, 0.4), 0.018, 0.05)
        product = Band(rng.normal(amplicon, 0.002), rng.lognormal(0.2, 0.6), 0.009, 0.01)
        yield [primers, product] if worked else [primers]


def digest(rng: Generator) -> Iterator[CacheFiller]:
    """Fragments of restriction enzymes: the longer a fragment, the more dye it binds."""
    for cuts in rng.integers(1, 7, rng.integers(4, 10)):
        fragments = 1000 * np.exp(rng.uniform(math.log(0.5), math.log(9), cuts))
        yield [Band(KB1.position(size), 0.3 + size / 4000) for size in fragments]


def plasmid(rng: Generator) -> Iterator[CacheFiller]:
    """Supercoiled, linear and nicked rings of one plasmid, in shares that differ by lane."""
    forms = KB1.position(rng.uniform(2000, 4000)) + np.array([0.08, 0.0, -0.13])
    for shares in rng.dirichlet([1.2, 0.7, 0.7], rng.integers(5, 13)):
        yield [Band(p, 2 * s, 0.008, 0.02) for p, s in zip(forms, shares, strict=True)]


def genomic(rng: Generator) -> Iterator[CacheFiller]:
    """Overloaded DNA of high molecular weight, sheared to a smear in the poorer samples."""
    for sheared in rng.random(rng.integers(4, 10)):
        intact = Band(rng.normal(0.1, 0.004), 2.5 * (1 - sheared) + 0.2, 0.014, 0.03)
        yield [intact, Band(rng.uniform(0.35, 0.85), sheared, 0.07, rng.uniform(0.1, 0.3))]


def protein(rng: Generator) -> Iterator[CacheFiller]:
    """A purification: the crowd of the host's proteins fades, the product stays."""
    crowd = rng.uniform(0.08, 0.95, rng.integers(14, 26))
    amounts, product = rng.gamma(0.8, 0.5, crowd.size), rng.uniform(0.3, 0.75)
    for crude in np.sort(rng.random(rng.integers(5, 11)))[::-1] ** 2:
        haze, pure = Band(0.7, 0.2 * crude, 0.2), Band(product, rng.uniform(0.5, 3), 0.013, 0.02)
        bands = [Band(p, crude * a, 0.008, 0.02) for p, a in zip(crowd, amounts, strict=True)]
        yield [haze, pure, *bands]


class Slab:
    """A loaded gel cast to a size: knows where in the picture lanes, wells and bands lie."""

    def __init__(
        self, rng: Generator, samples: Iterator[CacheFiller], ladder: Ladder, size: Size
    ) -> None:
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


GELS: dict[str, Painter] = {
    "PCR": partial(render_gel, pcr, BP100),
    "restriction digest": partial(render_gel, digest, KB1),
    "plasmid": partial(render_gel, plasmid, KB1),
    "genomic DNA": partial(render_gel, genomic, KB1),
    "protein": partial(render_gel, protein, KDA),
}
