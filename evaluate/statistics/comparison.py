"""What the test images support: intervals of scores, and models compared on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, hypot, log10, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from evaluate.metrics import Labels, Probabilities
from evaluate.statistics.bootstrap import resampled_scores

Interval = tuple[float, float]

SIGNIFICANT = 0.05  # two-sided
EDGES = (SIGNIFICANT / 2, 1 - SIGNIFICANT / 2)
POWER = 0.8  # of finding a difference that is there


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        difference: Of their accuracies, the first's minus the second's, a fraction.
        interval: Its 95 % interval.
        p_value: That one-sided differences are due to chance.
        first_only, second_only: Images that one of them alone got right.
        needed: Images with which a difference like this would be found, None where there is none.
    """

    difference: float
    interval: Interval
    p_value: float
    first_only: int
    second_only: int
    images: int
    needed: int | None


def accuracy_interval(right: float, total: int) -> Interval:
    """Return the 95 % interval of an accuracy (Wilson 1927), as two fractions.

    Args:
        right: A whole number, or of groups of images the sum of their shares of right answers.
    """
    z, share = norm.ppf(EDGES[1]), right / total
    centre = share + z**2 / (2 * total)
    half = z * sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    whole = 1 + z**2 / total
    return float(max((centre - half) / whole, 0)), float(min((centre + half) / whole, 1))


def difference_interval(right: float, total: int, other_right: float, other_total: int) -> Interval:
    """Return the 95 % interval of an accuracy minus another one, on other images.

    Newcombe's (1998) hybrid score interval, his method 10: from the two Wilson intervals.
    """
    one, other = right / total, other_right / other_total
    low, high = accuracy_interval(right, total)
    other_low, other_high = accuracy_interval(other_right, other_total)
    difference = one - other
    return (
        difference - hypot(one - low, other_high - other),
        difference + hypot(high - one, other - other_low),
    )


def score_intervals(
    labels: Labels, probabilities: Probabilities, resamples: int = 2000, seed: int = 0
) -> dict[str, Interval]:
    """Return 95 % intervals of precision, recall, F1 and ROC AUC, by these names.

    Percentiles of a stratified bootstrap, see `resampled_scores`. NaN where the images say nothing:
    all of one class, and for ROC AUC any class without an image. In simulations they hold the truth
    in 93 to 98 % of test sets of 300 images; of 22 in 95 to 100 % (without the mistakes that are
    added, 16 to 93 %). Recall alone falls to 89 % where a class has 30 images.
    """
    (values,) = resampled_scores(labels, [probabilities], resamples, seed)
    return {name: _percentiles(value) for name, value in values.items()}


def paired_bootstrap(
    labels: Labels,
    first: Probabilities,
    second: Probabilities,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return 95 % intervals of the first model's scores minus the second's on the same resamples.

    As `score_intervals` otherwise.
    """
    one, other = resampled_scores(labels, [first, second], resamples, seed)
    return {name: _percentiles(one[name] - other[name]) for name in one}


def _percentiles(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, EDGES)
    return float(low), float(high)


def compare(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Comparison:
    """Compare which images two models got right: bool [N] of each, the same images.

    The p-value is McNemar's (1947), exact: images on which both are right, or both wrong, say
    nothing. The interval is that of Bonett and Price (2012), which adds an image to each side: it
    is no point where no answer differs. It holds the truth in 93.6 % or more of test sets of 22 to
    200 images, whatever the two models' true shares (exact; 96 % on average at 22, up to 100 %
    where models hardly differ).
    """
    images = len(first)
    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    difference = (one - other) / images
    p_value = float(binomtest(one, one + other).pvalue) if one + other else 1.0
    return Comparison(
        difference=difference,
        interval=_paired_interval(one, other, images),
        p_value=p_value,
        first_only=one,
        second_only=other,
        images=images,
        needed=_needed(difference, (one + other) / images, images, p_value),
    )


def _paired_interval(one: int, other: int, images: int) -> Interval:
    shares = np.array([one + 1, other + 1]) / (images + 2)
    difference = shares[0] - shares[1]
    half = norm.ppf(EDGES[1]) * sqrt((shares.sum() - difference**2) / (images + 2))
    return float(max(difference - half, -1)), float(min(difference + half, 1))


def _needed(difference: float, discordant: float, images: int, p_value: float) -> int | None:
    """Return the images with which this difference has a p-value below 5 % four times of five.

    Connor (1987), from the share of images that one model alone gets right; the exact test finds it
    about 77 % of the time (76 to 79). More than there are, where they were not enough.
    """
    if not difference:
        return None
    chance = norm.ppf(EDGES[1]) * sqrt(discordant)
    spread = norm.ppf(POWER) * sqrt(discordant - difference**2)
    needed: int = ceil(((chance + spread) / difference) ** 2)
    return needed if p_value < SIGNIFICANT else max(needed, images + 1)


def compare_all(right: NDArray[np.bool_]) -> list[tuple[int, int, Comparison, float]]:
    """Compare every two of M models by which images they got right: bool [M, N].

    Returns (i, j, comparison, p-value adjusted for the number of comparisons) for all i < j.
    """
    pairs = [(i, j, compare(right[i], right[j])) for i, j in combinations(range(len(right)), 2)]
    adjusted = holm([comparison.p_value for *_, comparison in pairs])
    return [(*pair, float(p)) for pair, p in zip(pairs, adjusted, strict=True)]


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Adjust p-values for their number, so that one false alarm in all is rare (Holm 1979)."""
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values)
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def in_words(first: str, second: str, comparison: Comparison, adjusted_p: float) -> str:
    """Say what a comparison of two named models supports.

    Args:
        adjusted_p: The p-value adjusted for all comparisons made; it decides. Of a single
            comparison, its own.
    """
    words = (
        f"{first} over {second}: {difference_in_words(comparison.difference, comparison.interval)}"
        f"{verdict(comparison.p_value, adjusted_p, comparison.images)}"
    )
    enough = min(comparison.p_value, adjusted_p) < SIGNIFICANT
    return words if enough else f"{words}{_about(comparison.needed)}"


def difference_in_words(difference: float, interval: Interval, over: str = "") -> str:
    """Say a difference of accuracies and its interval in percentage points."""
    width = 100 * (interval[1] - interval[0])
    digits = 0 if width >= 10 else 1 if width >= 1 else 2
    if 0 in [round(100 * end, digits) for end in interval]:
        digits += 1  # to tell on which side of 0 it ends
    ends = ", ".join(_signed(100 * end, digits) for end in interval)
    if not difference:
        return f"no difference{over}, 95 % interval [{ends}] points"
    points = _signed(100 * difference, max(digits, 1), plus="+")
    return f"{points} points{over}, 95 % interval [{ends}]"


def verdict(p_value: float, adjusted_p: float, images: int) -> str:
    """Say whether the images tell two apart; the adjusted p-value decides."""
    if adjusted_p < SIGNIFICANT:
        return f": distinguishable with {images:,} images"
    words = f", not distinguishable with {images:,} images"
    return f"{words} among so many comparisons" if p_value < SIGNIFICANT else words


def _signed(number: float, digits: int, plus: str = "") -> str:
    text = f"{abs(number):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{plus}{text}" if number > 0 else f"\N{MINUS SIGN}{text}"


def _about(needed: int | None) -> str:
    """Say how many images are needed, rounded up to two figures."""
    if needed is None:
        return ""
    unit = 10 ** max(int(log10(needed)) - 1, 0)
    return f"; about {ceil(needed / unit) * unit:,} would be needed"
