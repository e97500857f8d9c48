"""Draw pictures that a careless eye, or classifier, takes for gels."""

import numpy as np
from canvas import Canvas, Painter, Size, Sketch, axes, bump, clouds, tilt
from numpy.random import Generator


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
                longest = min(8, int((stop - x) / (0.6 * letter)))
                word = "".join(rng.choice(list("aeioubdlmnrst"), rng.integers(2, longest + 1)))
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


def weave(rng: Generator, across: Canvas, along: Canvas) -> Canvas:
    """Return one set of parallel threads, each of its own shade and as round as light shows it."""
    stripes = rng.choice(rng.uniform(0.3, 1, 3), int(rng.integers(1, 5)))
    dyed = np.repeat(stripes, rng.integers(3, 12, stripes.size))
    number = np.floor(across).astype(int)
    shades = dyed[number % dyed.size] + rng.normal(0, 0.03, 200)[number % 200]
    middle = 2 * (across % 1) - 1
    twist = 0.9 + 0.1 * np.sin(2 * np.pi * (2 * along + across + rng.random(200)[number % 200]))
    cloth: Canvas = shades * twist * np.sqrt(1 - 0.75 * middle**2)
    return cloth


def fabric(rng: Generator, size: Size) -> Canvas:
    """Cloth close up, in plain weave, twill or satin, striped or checked, a little creased."""
    y, x = np.indices(size, dtype=np.float64)
    pitch, crease = rng.uniform(5, 10), clouds(rng, size, 4, 3)
    u = x / pitch + 2 * clouds(rng, size, 3, 3) + 0.2 * clouds(rng, size, 25, 25)
    v = y / (pitch * rng.uniform(0.8, 1.3)) + 1.5 * crease + 0.2 * clouds(rng, size, 25, 25)
    repeat, step, over = rng.choice([(2, 1, 1), (2, 1, 1), (3, 1, 2), (4, 1, 2), (5, 2, 4)])
    above = (np.floor(u) + step * np.floor(v)) % repeat < over
    warp = weave(rng, u, v) * (0.7 + 0.3 * np.abs(np.sin(np.pi * v)))  # dives at its crossings
    weft = weave(rng, v, u) * (0.7 + 0.3 * np.abs(np.sin(np.pi * u)))
    cloth = np.where(above, warp, weft) * (0.7 + 0.45 * crease)
    return tilt(cloth + 0.08 * clouds(rng, size, size[0] // 2, size[1] // 2), rng.uniform(-12, 12))


def trace(rng: Generator, times: Canvas) -> Canvas:
    """Return what a detector sees over times of 0 to 1: solvent, tailing peaks, drift."""
    signal: Canvas = rng.uniform(0, 0.15) * times**2 + rng.normal(0, 0.002, times.size)
    signal += 0.12 * bump(times - 0.07, 0.004) - 0.06 * bump(times - 0.08, 0.003)
    broad, tailing = rng.uniform(0.003, 0.008), rng.uniform(1, 2.5)
    for at in rng.uniform(0.1, 0.96, rng.integers(4, 15)):
        width = broad * (1 + 2 * at) * np.where(times > at, tailing, 1)
        signal += rng.lognormal(-1.2, 0.9) * bump(times - at, width)
    signal /= signal.max()
    return signal


def plot(rng: Generator, sketch: Sketch, frame: tuple[float, float, float, float]) -> None:
    """Draw one trace between left, top, right and bottom, with ticks and units as printed."""
    left, top, right, bottom = frame
    times = np.linspace(0, 1, 700)
    minutes, tallest = int(rng.choice([10, 20, 30, 60])), 20 * 2 ** int(rng.integers(0, 7))
    sketch.box(left - 0.5, top, left + 0.5, bottom, 0)
    sketch.box(left, bottom - 0.5, right, bottom + 0.5, 0)
    for tick in np.linspace(0, 1, 6):
        x = left + tick * (right - left)
        sketch.box(x - 0.5, bottom, x + 0.5, bottom + 4, 0)
        sketch.text(x, bottom + 6, f"{tick * minutes:g}", 9, 0, "mt")
    for tick in np.linspace(0, 1, 5):
        y = bottom - (0.04 + 0.8 * tick) * (bottom - top)
        sketch.box(left - 4, y - 0.5, left, y + 0.5, 0)
        sketch.text(left - 6, y, f"{tick * tallest:g}", 9, 0, "rm")
    sketch.text(left + 5, top, "mAU", 9, 0, "lt")
    ys = bottom - (0.04 + 0.8 * trace(rng, times)) * (bottom - top)
    sketch.line(left + times * (right - left), ys, rng.uniform(0.7, 1.6), rng.uniform(0, 0.35))


def chromatogram(rng: Generator, size: Size) -> Canvas:
    """One to three traces of a liquid chromatograph, each above its axis of minutes."""
    (height, width), traces = size, int(rng.integers(1, 4))
    sketch = Sketch(size, rng.uniform(0.93, 1))
    tall = (height - 18) / traces
    for number in range(traces):
        top = 6 + tall * number
        plot(rng, sketch, (38, top, width - 14, top + tall - 24))
    sketch.text(width / 2, height - 10, "Retention time (min)", 10, 0, "mm")
    return sketch.canvas()


NOT_GELS: dict[str, Painter] = {
    "barcode": barcode,
    "spectrogram": spectrogram,
    "text page": text_page,
    "wood grain": wood_grain,
    "radiograph": radiograph,
    "heat map": heat_map,
    "piano keys": piano_keys,
    "cells": cells,
    "fabric": fabric,
    "chromatogram": chromatogram,
}
