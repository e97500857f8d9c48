"""Intervals by bootstrap: the metrics of resamples, and how often the intervals are right."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from evaluate.metrics import METRICS
from evaluate.statistics.bootstrap import SCORES, scores_of
from evaluate.statistics.comparison import paired_bootstrap, score_intervals

pytestmark = pytest.mark.slow

Floats = NDArray[np.float64]


def answers(labels: NDArray[np.int64], classes: int, shift: float, seed: int) -> Floats:
    """Probabilities of a model that knows something: shift 0 guesses, 5 is nearly always right."""
    logits = np.random.default_rng(seed).normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += shift
    powers = np.exp(logits)
    return np.asarray(powers / powers.sum(1, keepdims=True))


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("ties", [False, True])
def test_resampled_scores_are_the_metrics_of_the_resamples(classes: int, ties: bool) -> None:
    """Also where a resample has answers of another class, or never predicts one."""
    generator = np.random.default_rng(classes)
    labels = np.sort(np.append(np.arange(classes), generator.integers(classes, size=20)))
    probabilities = answers(labels, classes, 1.5, seed=1)
    if ties:  # each answer is given to three images
        probabilities = probabilities[np.arange(len(labels)) // 3 * 3]
    drawn = generator.integers(len(labels), size=(30, len(labels)))
    drawn[0] = np.arange(len(labels))  # as it was
    drawn[1] = 3  # one answer throughout
    found = scores_of(labels, probabilities, drawn)
    assert tuple(found) == SCORES
    for name, values in found.items():
        theirs = [METRICS[name].score(labels, probabilities[images]) for images in drawn]
        assert values == pytest.approx(theirs, abs=1e-12), name


def test_resampled_auc_is_sklearns_with_weights() -> None:
    labels = np.repeat([0, 1], [9, 13])
    probabilities = np.round(answers(labels, 2, 1, seed=2), 1)
    generator = np.random.default_rng(0)
    within = np.sort(generator.permutation(9)[generator.integers(9, size=9)])
    drawn = np.append(within, 9 + generator.integers(13, size=13))[None]
    weights = np.bincount(drawn[0], minlength=22)
    theirs = roc_auc_score(labels, probabilities[:, 1], sample_weight=weights)
    assert scores_of(labels, probabilities, drawn)["roc_auc"] == pytest.approx(theirs, abs=1e-12)


def test_score_intervals_are_seeded_and_hold_the_score() -> None:
    labels = np.arange(60) % 3
    probabilities = answers(labels, 3, 2, seed=0)
    found = score_intervals(labels, probabilities)
    assert found == score_intervals(labels, probabilities)
    assert found != score_intervals(labels, probabilities, seed=1)
    for name, (low, high) in found.items():
        assert 0 < low < METRICS[name].score(labels, probabilities) < high <= 1


def test_each_class_keeps_its_images() -> None:
    """Two images of one class among 400 of the other, all right: none is ever missing."""
    labels = np.repeat([0, 1], [400, 2])
    low, high = score_intervals(labels, np.eye(2)[labels])["recall"]
    assert (low, high) == pytest.approx((1, 1), abs=0.01)


def test_all_right_is_not_certain() -> None:
    """About what Wilson's interval says of 22 of 22: from 85 %."""
    labels = np.arange(22) % 2
    found = score_intervals(labels, answers(labels, 2, 50, seed=0))
    for name in SCORES:
        low, high = found[name]
        assert 0.8 < low < 0.9
        assert high == 1


def test_two_models_that_answer_alike_may_differ() -> None:
    labels = np.arange(22) % 2
    probabilities = answers(labels, 2, 3, seed=0)
    for low, high in paired_bootstrap(labels, probabilities, probabilities).values():
        assert -0.25 < low < -0.03
        assert 0.03 < high < 0.25


def test_paired_bootstrap_is_narrower_than_two_intervals() -> None:
    """The same images for both: what is hard for one is hard for the other."""
    labels = np.arange(300) % 2
    first = answers(labels, 2, 1, seed=0)
    second = first**1.1 / (first**1.1).sum(1, keepdims=True)
    second[:5] = second[:5, ::-1]
    for name, (low, high) in paired_bootstrap(labels, first, second).items():
        difference = METRICS[name].score(labels, first) - METRICS[name].score(labels, second)
        alone = score_intervals(labels, first)[name]
        assert low <= difference <= high
        assert high - low < (alone[1] - alone[0]) / 2


def test_a_class_without_images() -> None:
    labels = np.arange(20) % 2
    found = score_intervals(labels, answers(labels, 3, 1, seed=0))
    assert np.isnan(found["roc_auc"]).all()
    assert 0 < found["f1"][0] < found["f1"][1] < 1


@pytest.mark.parametrize("images", [1, 22])
def test_of_one_class_only_nothing_is_known(images: int) -> None:
    labels, probabilities = np.zeros(images, np.int64), np.eye(2)[np.zeros(images, np.int64)]
    assert np.isnan(list(score_intervals(labels, probabilities).values())).all()
    assert np.isnan(list(paired_bootstrap(labels, probabilities, probabilities).values())).all()


@pytest.mark.parametrize(("images", "shift", "most"), [(22, 2.0, 1.0), (300, 1.5, 0.97)])
def test_intervals_hold_the_truth(
    images: int, shift: float, most: float, figure: Callable[[str], None]
) -> None:
    """On many test sets, for a model and for the difference of two that differ by noise only."""
    labels = np.arange(images) % 2
    # The log odds of a class are normal, with mean ±shift and variance 2.
    truth = dict.fromkeys(SCORES, norm.cdf(shift / np.sqrt(2))) | {"roc_auc": norm.cdf(shift)}
    alone: dict[str, list[bool]] = {name: [] for name in SCORES}
    paired: dict[str, list[bool]] = {name: [] for name in SCORES}
    for seed in range(1, 401):
        first, second = answers(labels, 2, shift, seed), answers(labels, 2, shift, seed + 10_000)
        for name, (low, high) in score_intervals(labels, first, 400, seed).items():
            alone[name].append(low <= truth[name] <= high)
        for name, (low, high) in paired_bootstrap(labels, first, second, 400, seed).items():
            paired[name].append(low <= 0 <= high)
    for name in SCORES:
        one, two = float(np.mean(alone[name])), float(np.mean(paired[name]))
        figure(f"{name}, {images} images: {one:.3f}; a difference: {two:.3f}")
        assert 0.93 <= one <= most
        assert 0.93 <= two <= most
