"""Intervals and comparisons, against other libraries, by hand, and by how often they are right."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, multinomial
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from evaluate.statistics.comparison import (
    SIGNIFICANT,
    accuracy_interval,
    compare,
    compare_all,
    difference_in_words,
    difference_interval,
    holm,
    in_words,
)

Bools = NDArray[np.bool_]


def right_on(both: int, first: int, second: int, neither: int) -> tuple[Bools, Bools]:
    """Which images two models got right, by how many."""
    parts = [both, first, second, neither]
    return np.repeat([True, True, False, False], parts), np.repeat([1, 0, 1, 0], parts) > 0


# An accuracy


def test_wilson_interval_by_its_formula() -> None:
    z, n, p = 1.959964, 22, 21 / 22
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert accuracy_interval(21, 22) == pytest.approx((centre - half, centre + half), abs=1e-6)


@pytest.mark.parametrize("right", range(23))
def test_wilson_interval_is_statsmodels(right: int) -> None:
    theirs = proportion_confint(right, 22, method="wilson")
    assert accuracy_interval(right, 22) == pytest.approx(theirs, abs=1e-12)


def test_wilson_interval_of_all_and_of_one() -> None:
    assert accuracy_interval(22, 22) == pytest.approx((0.851, 1), abs=1e-3)
    assert accuracy_interval(0, 22)[0] == 0
    assert accuracy_interval(1, 1) == pytest.approx((0.207, 1), abs=1e-3)


@pytest.mark.parametrize(("images", "least"), [(22, 0.90), (300, 0.93)])
def test_wilson_interval_holds_the_truth(
    images: int, least: float, figure: Callable[[str], None]
) -> None:
    """Exactly: every number of right answers, by its chance."""
    intervals = np.array([accuracy_interval(right, images) for right in range(images + 1)])
    covered = []
    for truth in np.arange(0.6, 0.96, 0.01):
        chances = binom.pmf(np.arange(images + 1), images, truth)
        covered.append(chances[(intervals[:, 0] <= truth) & (truth <= intervals[:, 1])].sum())
    assert min(covered) > least
    assert 0.94 < np.mean(covered) < 0.96
    assert max(covered) < 0.98
    figure(f"Wilson, {images} images: {min(covered):.3f} to {max(covered):.3f}")


# An accuracy against one on other images


@pytest.mark.parametrize(("right", "other"), [(21, 15), (22, 0), (15, 15), (0, 40), (11, 40)])
def test_newcombes_interval_is_statsmodels(right: int, other: int) -> None:
    theirs = confint_proportions_2indep(right, 22, other, 40, method="newcomb")
    assert difference_interval(right, 22, other, 40) == pytest.approx(theirs, abs=1e-12)


def test_newcombes_interval_is_of_his_table() -> None:
    """Newcombe 1998, table II, method 10: 56/70 against 48/80."""
    assert difference_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_newcombes_interval_holds_the_truth(figure: Callable[[str], None]) -> None:
    """Exactly: every two numbers of right answers, by their chance."""
    first, second = range(23), range(61)
    ends = np.array([[difference_interval(i, 22, j, 60) for j in second] for i in first])
    covered = []
    for one, other in product((0.6, 0.8, 0.9, 0.95), repeat=2):
        chances = np.outer(binom.pmf(first, 22, one), binom.pmf(second, 60, other))
        held = (ends[..., 0] <= one - other) & (one - other <= ends[..., 1])
        covered.append(chances[held].sum())
    assert min(covered) > 0.93
    assert np.mean(covered) < 0.97
    figure(f"Newcombe, 22 against 60 images: {min(covered):.3f} to {max(covered):.3f}")


# Two models


@pytest.mark.parametrize("counts", [(10, 3, 1, 8), (5, 9, 1, 7), (0, 6, 0, 0), (20, 1, 0, 1)])
def test_p_value_is_statsmodels(counts: tuple[int, int, int, int]) -> None:
    both, one, other, neither = counts
    theirs = mcnemar([[both, one], [other, neither]], exact=True).pvalue
    assert compare(*right_on(*counts)).p_value == pytest.approx(theirs, abs=1e-12)


def test_comparison_by_hand() -> None:
    found = compare(*right_on(10, 3, 1, 8))
    # An image is added to each side: then the mean of 24 numbers that are 1, -1 or 0.
    values = np.repeat([1, -1, 0], [4, 2, 18])
    half = 1.959964 * values.std() / math.sqrt(24)
    assert (found.first_only, found.second_only, found.images) == (3, 1, 22)
    assert found.difference == pytest.approx(2 / 22)
    assert found.interval == pytest.approx((values.mean() - half, values.mean() + half), abs=1e-6)
    assert found.p_value == pytest.approx(10 / 16)


def test_models_that_answer_alike() -> None:
    found = compare(*right_on(21, 0, 0, 1))
    assert (found.difference, found.p_value, found.needed) == (0, 1, None)
    low, high = found.interval
    assert -low == high > 0.1


def test_one_image() -> None:
    found = compare(*right_on(0, 1, 0, 0))
    assert (found.difference, found.p_value) == (1, 1)
    assert found.interval[0] < 0
    assert found.interval[1] == 1
    assert found.needed == 4  # Connor (1987) with a share of 1; the exact test needs 6


@pytest.mark.parametrize("images", [22, 60])
def test_paired_interval_holds_the_truth(images: int, figure: Callable[[str], None]) -> None:
    """Exactly: every table of two models, by its chance."""
    tables = [(b, c) for b, c in product(range(images + 1), repeat=2) if b + c <= images]
    low, high = np.array([compare(*right_on(0, *t, images - sum(t))).interval for t in tables]).T
    cells = np.array([(b, c, images - b - c) for b, c in tables])
    covered = []
    for one, other in product(np.arange(0, 0.41, 0.05), repeat=2):
        chances = multinomial.pmf(cells, images, [one, other, 1 - one - other])
        truth = one - other
        covered.append(chances[(low <= truth + 1e-12) & (truth - 1e-12 <= high)].sum())
    assert min(covered) > 0.93
    assert np.mean(covered) < (0.97 if images == 60 else 0.98)
    figure(f"paired, {images} images: {min(covered):.3f}, mean {np.mean(covered):.3f}")


def test_needed_images_are_by_connors_formula() -> None:
    found = compare(*right_on(60, 15, 5, 20))
    root = 1.959964 * math.sqrt(0.2) + 0.841621 * math.sqrt(0.2 - 0.1**2)
    assert found.needed == math.ceil((root / 0.1) ** 2) == 155


@pytest.mark.parametrize(("one", "other", "images"), [(15, 5, 100), (5, 0, 22), (3, 1, 22)])
def test_needed_images_find_a_difference_four_times_of_five(
    one: int, other: int, images: int
) -> None:
    """Exactly, but for what hardly ever happens. The exact test is a little weaker."""
    needed = compare(*right_on(0, one, other, images - one - other)).needed
    assert needed is not None
    shares = [one / images, other / images, 1 - (one + other) / images]
    power = 0.0
    for b, c in product(range(needed // 2), repeat=2):
        chance = multinomial.pmf([b, c, needed - b - c], needed, shares)
        if chance > 1e-6:
            found = compare(*right_on(0, b, c, needed - b - c))
            power += chance * (found.p_value < SIGNIFICANT)
    assert 0.76 < power < 0.8


def test_more_images_are_needed_where_there_are_too_few() -> None:
    for one in range(1, 6):
        found = compare(*right_on(0, one, 0, 0))
        assert found.p_value > SIGNIFICANT
        assert found.needed is not None
        assert found.needed > one


# Many models


def test_every_two_models_are_compared() -> None:
    right = np.random.default_rng(0).random((24, 22)) < 0.9
    found = compare_all(right)
    assert [(i, j) for i, j, *_ in found] == [(i, j) for i in range(24) for j in range(i + 1, 24)]
    assert found[30][2] == compare(right[found[30][0]], right[found[30][1]])
    assert [p for *_, p in found] == holm(
        [comparison.p_value for *_, comparison, _ in found]
    ).tolist()


@pytest.mark.parametrize("count", [1, 2, 30])
def test_holm_is_statsmodels(count: int) -> None:
    p_values = np.random.default_rng(count).random(count) ** 3
    p_values[count // 2 :: 3] = p_values[0]  # ties
    theirs = multipletests(p_values, method="holm")[1]
    assert holm(p_values.tolist()) == pytest.approx(theirs, abs=1e-12)


def test_nothing_compared_is_nothing_adjusted() -> None:
    assert holm([]).shape == (0,)
    assert compare_all(np.ones((1, 22), np.bool_)) == []


# In words; a minus sign is not a hyphen


def said(counts: tuple[int, int, int, int], adjusted_p: float | None = None) -> str:
    found = compare(*right_on(*counts))
    words = in_words("A", "B", found, found.p_value if adjusted_p is None else adjusted_p)
    assert "-" not in words
    return words.replace("\N{MINUS SIGN}", "-")


def test_words_of_too_few_images() -> None:
    assert said((10, 3, 1, 8)) == (
        "A over B: +9.1 points, 95 % interval [-11, 28], not distinguishable with 22 images; "
        "about 180 would be needed"
    )


def test_words_of_enough_images() -> None:
    assert said((300, 90, 45, 65)) == (
        "A over B: +9.0 points, 95 % interval [4.5, 13.5]: distinguishable with 500 images"
    )
    assert said((300, 45, 90, 65)).startswith("A over B: -9.0 points, 95 % interval [-13.5, -4.5]:")


def test_words_of_what_is_significant_only_by_itself() -> None:
    assert said((300, 90, 45, 65), adjusted_p=0.2) == (
        "A over B: +9.0 points, 95 % interval [4.5, 13.5], "
        "not distinguishable with 500 images among so many comparisons"
    )


def test_words_of_no_difference() -> None:
    assert said((22, 0, 0, 0)) == (
        "A over B: no difference, 95 % interval [-12, 12] points, "
        "not distinguishable with 22 images"
    )


def test_words_of_a_small_difference() -> None:
    """As many decimals as it takes."""
    assert said((9000, 52, 50, 898)) == (
        "A over B: +0.02 points, 95 % interval [-0.18, 0.22], "
        "not distinguishable with 10,000 images; about 2,100,000 would be needed"
    )


def test_words_tell_on_which_side_of_0_an_interval_ends() -> None:
    assert "[-0.4, 20.0]" in difference_in_words(0.1, (-0.004, 0.2)).replace("\N{MINUS SIGN}", "-")
    assert "[0.0, 20.0]" in difference_in_words(0.1, (-1e-9, 0.2))
