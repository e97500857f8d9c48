"""Images that are not like the others of their folder: by size, storage and light.

What a rule finds in many images is no outlier but a property of the data set: see `find_outliers`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extract.imaging.image_stats import FLAT, ImageStats

# (looks of all images) → the place of each odd one, and what is odd about it
Rule = Callable[[Sequence[ImageStats]], Iterator[tuple[int, str]]]
FEW = 10  # images, below which nothing is usual
MANY, AT_LEAST = 0.25, 3  # share and number of images, from which a rule has found no outliers
SMALL_PX = 32
SIZES, SHAPES = 10.0, 3.0  # times the median, beyond which an area or an aspect ratio is odd
RARE = 0.05  # share of the images, below which a mode is odd
FAR = 5.0  # standard deviations, estimated robustly
MAD_TO_DEVIATION = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class OutlierRule:
    """A rule that finds outliers.

    Attributes:
        summary: What is unusual, in words.
        find: See `Rule`.
        of_many: What many images are or have, of which the rule has found nothing odd, but a
            property of the data set.
    """

    summary: str
    find: Rule
    of_many: str


@dataclass(frozen=True)
class Common:
    """A rule that finds many images, by their places."""

    what: str
    images: tuple[int, ...]


def _blank(image_stats: Sequence[ImageStats]) -> Iterator[tuple[int, str]]:
    for index, stats in enumerate(image_stats):
        if stats.contrast < FLAT:
            yield index, f"gray levels differ by {stats.contrast:.1f} only"


def _small(image_stats: Sequence[ImageStats]) -> Iterator[tuple[int, str]]:
    usual = np.median([min(stats.width, stats.height) for stats in image_stats])
    for index, stats in enumerate(image_stats):
        if min(stats.width, stats.height) < min(SMALL_PX, usual):
            yield index, f"{stats.width} x {stats.height} pixels"


def _size(image_stats: Sequence[ImageStats]) -> Iterator[tuple[int, str]]:
    areas = np.array([stats.width * stats.height for stats in image_stats], np.float64)
    usual, odd = _beyond(areas, SIZES)
    for index in odd:
        stats = image_stats[index]
        note = f"{stats.width} x {stats.height} pixels, {areas[index] / usual:.3g} times the median"
        yield index, note


def _shape(image_stats: Sequence[ImageStats]) -> Iterator[tuple[int, str]]:
    shapes = np.array([stats.width / stats.height for stats in image_stats])
    usual, odd = _beyond(shapes, SHAPES)
    for index in odd:
        stats = image_stats[index]
        note = f"{stats.width} x {stats.height} pixels; usual is {usual:.2f} times as wide as high"
        yield index, note


def _beyond(values: NDArray[np.float64], times: float) -> tuple[float, list[int]]:
    """Return the median, and the places of values so many times above or below it."""
    usual = float(np.median(values))
    far = (values > times * usual) | (values < usual / times)
    return usual, np.flatnonzero(far).tolist()


def _mode(image_stats: Sequence[ImageStats]) -> Iterator[tuple[int, str]]:
    counts = Counter(stats.mode for stats in image_stats)
    for index, stats in enumerate(image_stats):
        if counts[stats.mode] < RARE * len(image_stats):
            yield index, f"stored as {stats.mode}, like {counts[stats.mode]} of {len(image_stats)}"


def _brightness(image_stats: Sequence[ImageStats]) -> Iterator[tuple[int, str]]:
    levels = np.array([stats.brightness for stats in image_stats])
    usual = float(np.median(levels))
    deviation = MAD_TO_DEVIATION * float(np.median(np.abs(levels - usual)))
    for index in np.flatnonzero(np.abs(levels - usual) > FAR * max(deviation, 1.0)).tolist():
        yield index, f"mean gray level {levels[index]:.0f}, the median is {usual:.0f}"


ODD: dict[str, OutlierRule] = {
    "blank": OutlierRule(
        "next to no contrast",
        _blank,
        f"have next to no contrast: the standard deviation of their gray levels is below {FLAT:g}",
    ),
    "small": OutlierRule(
        "fewer than 32 pixels in a direction, where that is unusual",
        _small,
        "have fewer than 32 pixels in a direction, the others have more",
    ),
    "size": OutlierRule(
        "ten times larger or smaller than the median",
        _size,
        "have an area ten times larger or smaller than the median",
    ),
    "shape": OutlierRule(
        "three times wider or higher than the median's shape",
        _shape,
        "are three times wider or higher than the median's shape",
    ),
    "mode": OutlierRule(
        "stored otherwise than 95 % of the images", _mode, "are each stored in a rare mode"
    ),
    "brightness": OutlierRule(
        "much lighter or darker than the others",
        _brightness,
        "are much lighter or darker than the others",
    ),
}


def find_outliers(
    image_stats: Sequence[ImageStats],
) -> tuple[list[tuple[int, str, str]], list[Common]]:
    """Return place, rule and note of every odd image; of few images, none but the blank is odd.

    A rule that finds more than a quarter of the images (and at least three) is returned once, with
    all that it found.
    """
    rules = ODD if len(image_stats) >= FEW else {"blank": ODD["blank"]}
    odd, common = list[tuple[int, str, str]](), list[Common]()
    for name, rule in rules.items():
        found = list(rule.find(image_stats))
        if len(found) >= AT_LEAST and len(found) > MANY * len(image_stats):
            common.append(Common(name, tuple(index for index, _ in found)))
        else:
            odd += [(index, name, note) for index, note in found]
    return odd, common
