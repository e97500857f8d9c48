"""Confidence against what was right: by hand, and against scikit-learn and SciPy."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve

from evaluate.statistics.calibration import Bin, calibrated, ece, reliability
from heads.temperature_scaling import fit_temperature

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def world(images: int, classes: int, shift: float, seed: int) -> tuple[Labels, Floats]:
    """Labels and the logits of a perfectly calibrated model: normal, with mean `shift` of its own
    class, of which the log odds are `shift` times.
    """
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=images)
    logits = generator.normal(size=(images, classes))
    logits[np.arange(images), labels] += shift
    return labels, logits * shift


# Reliability


@pytest.mark.parametrize("bins", [5, 10, 15])
@pytest.mark.parametrize("classes", [2, 4])
def test_reliability_is_scikit_learns(classes: int, bins: int) -> None:
    labels, logits = world(500, classes, 1, seed=0)
    probabilities = softmax(logits, 1)
    found = reliability(labels, probabilities, bins)
    right = probabilities.argmax(1) == labels
    accuracy, confidence = calibration_curve(right, probabilities.max(1), n_bins=bins)
    assert [b.accuracy for b in found] == pytest.approx(accuracy)
    assert [b.confidence for b in found] == pytest.approx(confidence)
    assert sum(b.count for b in found) == 500


def test_reliability_and_error_by_hand() -> None:
    confidence = np.array([0.55, 0.65, 0.7, 0.95, 1.0])
    labels = np.array([0, 1, 0, 0, 0])  # the second is wrong
    probabilities = np.stack([confidence, 1 - confidence], 1)
    found = reliability(labels, probabilities, bins=10)
    assert [(b.accuracy, b.count) for b in found] == [(1, 1), (0.5, 2), (1, 2)]
    assert [b.confidence for b in found] == pytest.approx([0.55, 0.675, 0.975])
    assert ece(labels, probabilities, bins=10) == pytest.approx((0.45 + 2 * 0.175 + 2 * 0.025) / 5)


def test_error_of_what_is_calibrated_and_of_what_is_too_sure() -> None:
    labels, logits = world(100_000, 3, 1.5, seed=1)
    assert ece(labels, softmax(logits, 1)) < 0.01
    right = (logits.argmax(1) == labels).mean()
    assert ece(labels, softmax(100 * logits, 1)) == pytest.approx(1 - right, abs=0.01)


def reference_ece(labels: Labels, probabilities: Floats) -> float:
    """Guo et al. (2017), eq. 3, after the authors' own code: 15 bins, open below."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    error, edges = 0.0, np.linspace(0, 1, 16)
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += abs(confidence[inside].mean() - right[inside].mean()) * inside.mean()
    return float(error)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("images", [22, 1000])
def test_error_is_that_of_the_reference_and_of_the_diagram(images: int, classes: int) -> None:
    labels, logits = world(images, classes, 1.5, seed=7)
    probabilities = softmax(2 * logits, 1)
    expected = reference_ece(labels, probabilities)
    assert ece(labels, probabilities) == pytest.approx(expected, abs=1e-12)
    bins = reliability(labels, probabilities)  # as the report draws and lists them
    from_bins = sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / images
    assert from_bins == pytest.approx(expected, abs=1e-12)


def test_one_image() -> None:
    assert reliability(np.array([0]), np.array([[0.8, 0.2]])) == [Bin(0.8, 1.0, 1)]
    assert ece(np.array([1]), np.array([[0.8, 0.2]])) == pytest.approx(0.8)


# Temperature


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_temperature_of_many_images_is_found(classes: int, temperature: float) -> None:
    labels, logits = world(20_000, classes, 2, seed=2)
    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.05)


def test_eighteen_images_that_are_all_right_are_not_certain() -> None:
    labels = np.arange(18) % 2
    for scale in (0.1, 1, 10):
        logits = scale * (1 + np.arange(18)[:, None] % 3) * np.eye(2)[labels]
        confidence = softmax(logits / fit_temperature(logits, labels), 1).max(1)
        assert 0.85 < confidence.mean() < 0.97


def test_a_model_that_knows_nothing_comes_to_say_so() -> None:
    """The logits mean nothing: the hotter, the better."""
    labels, logits = world(200, 2, 3, seed=3)
    generator = np.random.default_rng(0)
    temperature = fit_temperature(logits, generator.permutation(labels))
    assert softmax(logits / temperature, 1).max(1).mean() < 0.6


def test_few_images_lower_the_loss_of_a_model_that_is_too_sure() -> None:
    """Nine times as sure as it should be, and 100 images to see it by."""
    labels, logits = world(20_000, 2, 2, seed=4)
    few = slice(0, 100)
    temperature = fit_temperature(9 * logits[few], labels[few])
    chances = [log_softmax(9 * logits / by, axis=1) for by in (1, temperature)]
    before, after = (-found[np.arange(20_000), labels].mean() for found in chances)
    assert after < before / 2


@pytest.mark.parametrize("classes", [2, 10])
def test_many_classes_make_a_model_no_less_sure(classes: int) -> None:
    """A hundred images: however they are spread over classes, the temperature is nearly found."""
    found = []
    for seed in range(20):
        labels, logits = world(100, classes, 2, seed)
        found.append(fit_temperature(logits, labels))
    assert 0.9 < np.median(found) < 1.25


def test_calibrated_probabilities_are_of_divided_logits() -> None:
    _, logits = world(50, 3, 2, seed=5)
    for temperature in (0.3, 1, 4):
        found = calibrated(softmax(logits, 1), temperature)
        assert found == pytest.approx(softmax(logits / temperature, 1), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
def test_calibrated_probabilities_of_what_was_certain(temperature: float) -> None:
    probabilities = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1e-300, 1 - 1e-16, 1e-200]])
    found = calibrated(probabilities, temperature)
    assert found.sum(1) == pytest.approx([1, 1, 1])
    assert found[0].tolist() == [1, 0, 0]
    assert found[1].tolist() == [0.5, 0.5, 0]
    assert found.argmax(1).tolist() == probabilities.argmax(1).tolist()
