"""The best model within limits: validation chooses, of those that were measured and fit."""

from typing import Any

import numpy as np
import pytest

from evaluate.constraints import (
    NO_LIMITS,
    Limits,
    choose,
    describe_choice,
    fits,
    limits_in_words,
    nearest,
    size_mb,
)
from evaluate.leaderboard import Leaderboard
from evaluate.results import Row
from evaluate.statistics.comparison import compare
from tests.reported import row

NAN = float("nan")


def model(name: str, number: int, ms: float, mib: float, **values: Any) -> Row:
    costs = {"model_id": number, "latency_p50_ms": ms, "size_mib": mib}
    return row(name) | costs | values


LARGE = model("large", 1, 40.0, 80.0)
FAST = model("fast", 2, 5.0, 20.0, accuracy=20 / 22, conf_mat="[[9, 2], [0, 11]]")
SMALL = model("small", 3, 9.0, 10.0, accuracy=18 / 22, conf_mat="[[7, 4], [0, 11]]")
UNTIMED = model("untimed", 4, NAN, NAN)
STUDY = Leaderboard((LARGE, UNTIMED, FAST, SMALL))


def test_a_megabyte_is_a_million_bytes() -> None:
    assert size_mb(SMALL) == 10.48576
    assert fits(SMALL, Limits(max_size_mb=10.49))
    assert not fits(SMALL, Limits(max_size_mb=10.48))


@pytest.mark.parametrize(
    ("limits", "chosen"),
    [
        (NO_LIMITS, LARGE),
        (Limits(max_latency_ms=40), LARGE),
        (Limits(max_latency_ms=39), FAST),
        (Limits(max_size_mb=15), SMALL),
        (Limits(39, 15), SMALL),
        (Limits(6, 15), None),
    ],
)
def test_the_first_in_the_ranking_that_fits(limits: Limits, chosen: Row | None) -> None:
    assert choose(STUDY.rows, limits) is chosen


def test_what_was_not_measured_keeps_no_limit() -> None:
    assert not fits(UNTIMED, Limits(max_latency_ms=1e9))
    assert not fits(UNTIMED, Limits(max_size_mb=1e9))
    assert fits(UNTIMED, NO_LIMITS)


def test_the_nearest_to_each_limit_given() -> None:
    assert nearest(STUDY.rows, Limits(1, 1)) == {"fastest": FAST, "smallest": SMALL}
    assert nearest(STUDY.rows, Limits(max_size_mb=1)) == {"smallest": SMALL}
    assert nearest([UNTIMED], Limits(1, 1)) == {}


def test_words_of_a_choice_and_what_it_gives_up() -> None:
    right = np.arange(22) < 21
    words = describe_choice(STUDY, Limits(10, 25), compare(np.arange(22) < 20, right))
    assert words.replace("\N{MINUS SIGN}", "-") == (
        "Within 10 ms and 25 MB: model 2, resnet18 on cpu, single head, adam (5.00 ms, 20.97 MB), "
        "20 of 22 test images right (90.9%). The best of all, model 1, resnet18 on cpu, single "
        "head, adam (40.00 ms, 83.89 MB), has 95.5%: -4.5 points, 95 % interval [-18, 10], "
        "not distinguishable with 22 images"
    )
    alone = describe_choice(STUDY, Limits(10, 25), None)
    assert alone.endswith("(40.00 ms, 83.89 MB), has 95.5%")


def test_words_where_nothing_is_given_up() -> None:
    words = describe_choice(STUDY, Limits(max_latency_ms=50), None)
    assert words.startswith("Within 50 ms: model 1,")
    assert words.endswith("It is the best of all")


def test_words_where_nothing_fits() -> None:
    assert describe_choice(STUDY, Limits(1, 1), None) == (
        "No model fits within 1 ms and 1 MB; the fastest is model 2, resnet18 on cpu, single head, "
        "adam (5.00 ms, 20.97 MB); the smallest is model 3, resnet18 on cpu, single head, adam "
        "(9.00 ms, 10.49 MB)"
    )
    assert describe_choice(Leaderboard((UNTIMED,)), Limits(1), None) == (
        "No model fits within 1 ms; none was timed and weighed"
    )


def test_an_untrained_backbone_is_called_one() -> None:
    stand_in = FAST | {"weights": "random:0"}
    assert "RANDOM weights" in describe_choice(Leaderboard((LARGE, stand_in)), Limits(6), None)


def test_limits_in_words() -> None:
    assert Limits(20, 25).given
    assert not NO_LIMITS.given
    assert limits_in_words(Limits(0.5, 1500)) == "0.5 ms and 1,500 MB"
    assert limits_in_words(Limits(max_size_mb=25)) == "25 MB"
