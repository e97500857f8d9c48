"""The geometry of the report's charts: axes, ticks, lines and marks, in an SVG's units.

The template draws them as inline SVG: text stays text, every mark says its numbers when pointed
at, and a chart takes some kilobytes. Whatever is a row of a table is drawn in the table.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

WIDTH, HEIGHT = 400, 300  # of a chart, about pixels on a phone
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 12, 42  # margins
COLOURS = 8  # told apart by the style sheet
STEPS = (1, 2, 5, 10)  # of ticks, times a power of ten
ROOM = 0.04  # beyond the outermost values, as a share of the axis

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with ticks as (value, text).

    Attributes:
        log: Of powers of ten.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Return where on the axis a value lies, 0 to 1 from its low end."""
        if self.log:
            return log10(value / self.low) / log10(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Line:
    """A line through points.

    Attributes:
        style: Full, dashed or dotted.
    """

    points: tuple[Point, ...]
    colour: int
    name: str
    style: str = "full"


@dataclass(frozen=True)
class Mark:
    """A disc.

    Attributes:
        size: Its area, 1 for the ordinary one.
        interval: Of y.
        hollow: Only its rim.
    """

    x: float
    y: float
    colour: int
    name: str
    size: float = 1.0
    interval: Point | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: What it shows, for those who can't see it.
        legend: (colour, style, text).
    """

    title: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()
    legend: tuple[tuple[int, str, str], ...] = ()

    def across(self, x: float) -> float:
        """Return an x value's place, in units from the left."""
        return round(LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT), 1)

    def down(self, y: float) -> float:
        """Return a y value's place, in units from the top."""
        return round(HEIGHT - BOTTOM - self.y.share(y) * (HEIGHT - TOP - BOTTOM), 1)

    def path(self, line: Line) -> str:
        """Return a line as an SVG path."""
        return "M" + "L".join(f"{self.across(x):g},{self.down(y):g}" for x, y in line.points)


def linear(
    label: str, values: Iterable[float], low: float | None = None, high: float | None = None
) -> Axis:
    """Make an axis that holds some values; `low` and `high` are its ends where they are given."""
    finite = [value for value in values if isfinite(value)] or [0.0]
    first = min(finite) if low is None else low
    last = max(finite) if high is None else high
    if last <= first:
        last = first + 1
    room = (last - first) * ROOM
    first, last = first - (room if low is None else 0), last + (room if high is None else 0)
    return Axis(label, first, last, tuple((v, f"{v:g}") for v in ticks(first, last)))


def shares(label: str, values: Iterable[float] = (0.0,)) -> Axis:
    """Make an axis of shares up to 100 %, from 0 or from the nearest ten below the values."""
    low = max(0.0, floor(min(v for v in values if isfinite(v)) * 10 - 1e-9) / 10)
    marks = [low + (1 - low) * i / 5 for i in range(6)] if low in (0, 0.5) else ticks(low, 1)
    return Axis(label, low, 1 + (1 - low) * 0.03, tuple((v, f"{v:.0%}") for v in marks))


def logarithmic(label: str, values: Iterable[float], unit: str) -> Axis:
    """Make an axis of powers of ten that holds some values above 0."""
    above = [value for value in values if isfinite(value) and value > 0] or [1.0]
    low, high = min(above) / 1.25, max(above) * 1.25
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    found = [step * 10.0**power for power in powers for step in STEPS[:3]]
    inside = [value for value in found if low <= value <= high]
    if len(inside) < 3:
        inside = list(ticks(low, high))
    return Axis(label, low, high, tuple((v, f"{v:g} {unit}") for v in inside), log=True)


def ticks(low: float, high: float, about: int = 5) -> tuple[float, ...]:
    """Return about so many round numbers from `low` to `high`."""
    raw = (high - low) / about
    power = 10.0 ** floor(log10(raw))
    step = next(step * power for step in STEPS if step * power >= raw * 0.999)
    first = ceil(low / step - 1e-9)
    return tuple(round(i * step, 12) for i in range(first, floor(high / step + 1e-9) + 1))


def thinned(points: Sequence[Point], most: int = 120) -> tuple[Point, ...]:
    """Leave out points of a long line, evenly; its ends stay."""
    if len(points) <= most:
        return tuple(points)
    kept = sorted({round(i * (len(points) - 1) / (most - 1)) for i in range(most)})
    return tuple(points[i] for i in kept)


def front(points: Sequence[Point]) -> list[int]:
    """Return the points that none beats: none has a smaller x with at least its y, or its x with
    a larger y; by x. Of equal points, the first.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    kept: list[int] = []
    for i in order:
        if not kept or points[i][1] > points[kept[-1]][1]:
            kept.append(i)
    return kept


def shade(share: float) -> str:
    """Return a colour from white (0) over blue to dark blue (1), as CSS; None of NaN."""
    stops = ((247, 250, 252), (190, 216, 234), (74, 144, 190), (15, 62, 108))
    position = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    i = min(int(position), len(stops) - 2)
    mixed = (
        round(a + (b - a) * (position - i)) for a, b in zip(stops[i], stops[i + 1], strict=True)
    )
    return "#" + "".join(f"{part:02x}" for part in mixed)
