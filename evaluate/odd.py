"""Images that are not like the others of their folder: by size, storage and light."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extract.look import FLAT, Look

# (looks of all images) → the place of each odd one, and what is odd about it
Rule = Callable[[Sequence[Look]], Iterator[tuple[int, str]]]
FEW = 10  # images, below which nothing is usual
SMALL_PX = 32
SIZES, SHAPES = 10.0, 3.0  # times the median, beyond which an area or an aspect ratio is odd
RARE = 0.05  # share of the images, below which a mode is odd
FAR = 5.0  # standard deviations, estimated robustly
MAD_TO_DEVIATION = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class OddRule:
    """summary: what is odd, in words. find: see `Rule`."""

    summary: str
    find: Rule


def _blank(looks: Sequence[Look]) -> Iterator[tuple[int, str]]:
    for place, look in enumerate(looks):
        if look.contrast < FLAT:
            yield place, f"gray levels differ by {look.contrast:.1f} only"


def _small(looks: Sequence[Look]) -> Iterator[tuple[int, str]]:
    usual = np.median([min(look.width, look.height) for look in looks])
    for place, look in enumerate(looks):
        if min(look.width, look.height) < min(SMALL_PX, usual):
            yield place, f"{look.width} x {look.height} pixels"


def _size(looks: Sequence[Look]) -> Iterator[tuple[int, str]]:
    areas = np.array([look.width * look.height for look in looks], np.float64)
    usual, odd = _beyond(areas, SIZES)
    for place in odd:
        look = looks[place]
        note = f"{look.width} x {look.height} pixels, {areas[place] / usual:.3g} times the median"
        yield place, note


def _shape(looks: Sequence[Look]) -> Iterator[tuple[int, str]]:
    shapes = np.array([look.width / look.height for look in looks])
    usual, odd = _beyond(shapes, SHAPES)
    for place in odd:
        look = looks[place]
        note = f"{look.width} x {look.height} pixels; usual is {usual:.2f} times as wide as high"
        yield place, note


def _beyond(values: NDArray[np.float64], times: float) -> tuple[float, list[int]]:
    """Return the median, and the places of values so many times above or below it."""
    usual = float(np.median(values))
    far = (values > times * usual) | (values < usual / times)
    return usual, np.flatnonzero(far).tolist()


def _mode(looks: Sequence[Look]) -> Iterator[tuple[int, str]]:
    counts = Counter(look.mode for look in looks)
    for place, look in enumerate(looks):
        if counts[look.mode] < RARE * len(looks):
            yield place, f"stored as {look.mode}, like {counts[look.mode]} of {len(looks)}"


def _brightness(looks: Sequence[Look]) -> Iterator[tuple[int, str]]:
    levels = np.array([look.brightness for look in looks])
    usual = float(np.median(levels))
    deviation = MAD_TO_DEVIATION * float(np.median(np.abs(levels - usual)))
    for place in np.flatnonzero(np.abs(levels - usual) > FAR * max(deviation, 1.0)).tolist():
        yield place, f"mean gray level {levels[place]:.0f}, the median is {usual:.0f}"


ODD: dict[str, OddRule] = {
    "blank": OddRule("next to no contrast", _blank),
    "small": OddRule("fewer than 32 pixels in a direction, where that is unusual", _small),
    "size": OddRule("ten times larger or smaller than the median", _size),
    "shape": OddRule("three times wider or higher than the median's shape", _shape),
    "mode": OddRule("stored otherwise than 95 % of the images", _mode),
    "brightness": OddRule("much lighter or darker than the others", _brightness),
}


def odd_ones(looks: Sequence[Look]) -> list[tuple[int, str, str]]:
    """Return place, rule and note of every odd image; of few images, none but the blank is odd."""
    rules = ODD if len(looks) >= FEW else {"blank": ODD["blank"]}
    return [(place, name, note) for name, rule in rules.items() for place, note in rule.find(looks)]
