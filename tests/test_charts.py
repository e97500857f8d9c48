"""The geometry of charts: round ticks, values where they belong, fronts that nothing beats."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Line,
    front,
    linear,
    logarithmic,
    shade,
    shares,
    thinned,
    ticks,
)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (0, 0.7, (0, 0.2, 0.4, 0.6)),
        (3, 52, (10, 20, 30, 40, 50)),
        (-1, 1, (-1, -0.5, 0, 0.5, 1)),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: tuple[float, ...]) -> None:
    assert ticks(low, high) == expected


def test_an_axis_holds_its_values_and_leaves_out_what_is_no_number() -> None:
    axis = linear("loss", [float("nan"), 0.3, float("inf"), 2.0], low=0)
    assert axis.low == 0
    assert 2.0 < axis.high < 2.2
    assert axis.share(axis.high) == 1


@pytest.mark.parametrize("values", [[], [float("nan")], [7.0]])
def test_an_axis_of_next_to_nothing_has_a_length(values: list[float]) -> None:
    for axis in (linear("x", values), logarithmic("x", values, "ms")):
        assert axis.high > axis.low
        assert axis.ticks


def test_shares_start_at_a_round_ten_below_the_lowest() -> None:
    assert shares("accuracy", [0.57, 0.99]).ticks[0] == (0.5, "50%")
    assert shares("accuracy", [0.0]).ticks[-1] == (1.0, "100%")
    assert 0 < 1 - shares("accuracy", [0.93]).share(1.0) < 0.1  # room for a mark at 100 %


def test_powers_of_ten_are_equally_far_apart() -> None:
    axis = logarithmic("latency", [5, 300], "ms")
    places = [axis.share(value) for value in (5, 50, 300)]
    assert places[1] - places[0] == pytest.approx(axis.share(100) - axis.share(10))
    assert ("10 ms" in [text for _, text in axis.ticks]) and 0 < places[0] < places[2] < 1


def test_a_chart_draws_from_the_lower_left() -> None:
    chart = Chart("title", linear("x", [0, 1], 0, 1), linear("y", [0, 1], 0, 1))
    assert (chart.across(0), chart.down(0)) == (LEFT, HEIGHT - BOTTOM)
    assert (chart.across(1), chart.down(1)) == (WIDTH - RIGHT, TOP)
    path = chart.path(Line(((0, 0), (0.5, 1), (1, 0)), 0, "name"))
    assert re.fullmatch(r"M48,258L217,12L386,258", path)


def test_a_long_line_is_thinned_and_keeps_its_ends() -> None:
    points = [(float(x), 0.0) for x in range(1000)]
    kept = thinned(points, 50)
    assert len(kept) == 50
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert thinned(points[:50], 50) == tuple(points[:50])


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1))
def test_nothing_beats_the_front_and_the_front_beats_the_rest(
    points: list[tuple[int, int]],
) -> None:
    kept = front([(float(x), float(y)) for x, y in points])

    def beats(i: int, j: int) -> bool:
        (x, y), (a, b) = points[i], points[j]
        return x <= a and y >= b and points[i] != points[j]

    assert kept
    for i in range(len(points)):
        beaten = any(beats(j, i) for j in range(len(points)))
        assert beaten or any(points[j] == points[i] for j in kept)
        assert not (i in kept and beaten)


def test_shades_darken_from_white() -> None:
    def light(share: float) -> int:
        return sum(bytes.fromhex(shade(share)[1:]))

    lights = [light(share) for share in np.linspace(0, 1, 20)]
    assert lights == sorted(lights, reverse=True)
    assert shade(-1) == shade(0) != shade(1) == shade(2)
