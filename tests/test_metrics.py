"""Metrics against their definitions, written out."""

import math

import numpy as np
import pytest

from evaluate.metrics import METRICS, confusion_matrix

# Six images, two classes; the fourth and the last are wrong.
LABELS = np.array([0, 0, 0, 0, 1, 1])
SCORES = np.array([0.1, 0.2, 0.3, 0.9, 0.8, 0.4])  # of class 1
PROBABILITIES = np.stack([1 - SCORES, SCORES], 1)


def test_by_hand() -> None:
    values = {name: metric.score(LABELS, PROBABILITIES) for name, metric in METRICS.items()}
    assert confusion_matrix(LABELS, PROBABILITIES) == [[3, 1], [1, 1]]
    assert values["accuracy"] == pytest.approx(4 / 6)
    assert values["precision"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert values["recall"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert values["f1"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    # Of 4 x 2 pairs, class 1 scores higher in 6.
    assert values["roc_auc"] == pytest.approx(6 / 8)


def test_auc_is_of_scores_and_not_of_labels() -> None:
    """A model that puts all into one class, but in the right order, has an AUC of 1."""
    scores = np.array([0.6, 0.7, 0.8, 0.9])
    labels = np.array([0, 0, 1, 1])
    probabilities = np.stack([1 - scores, scores], 1)
    assert METRICS["accuracy"].score(labels, probabilities) == 0.5
    assert METRICS["roc_auc"].score(labels, probabilities) == 1.0


def test_the_reference_studys_own_row() -> None:
    """Its model 1: conf_mat [[7, 4], [0, 11]], 81.82 %, 86.67 %, 81.82 %."""
    labels = np.repeat([0, 1], 11)
    predicted = np.array([0] * 7 + [1] * 4 + [1] * 11)
    probabilities = np.eye(2)[predicted]
    assert confusion_matrix(labels, probabilities) == [[7, 4], [0, 11]]
    assert METRICS["accuracy"].score(labels, probabilities) == pytest.approx(0.8182, abs=1e-4)
    assert METRICS["precision"].score(labels, probabilities) == pytest.approx(0.8667, abs=1e-4)
    assert METRICS["recall"].score(labels, probabilities) == pytest.approx(0.8182, abs=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("name", METRICS)
def test_perfect_and_bounded(name: str, classes: int) -> None:
    labels = np.arange(4 * classes) % classes
    assert METRICS[name].score(labels, np.eye(classes)[labels]) == 1.0
    random = np.random.default_rng(0).dirichlet(np.ones(classes), len(labels))
    assert 0 <= METRICS[name].score(labels, random) < 1


def test_a_class_never_predicted_counts_zero_without_a_warning() -> None:
    assert METRICS["precision"].score(np.array([0, 1]), np.eye(2)[[0, 0]]) == 0.25


def test_a_class_that_never_occurs_does_not_count() -> None:
    assert METRICS["f1"].score(np.array([0, 1]), np.eye(3)[[0, 1]]) == 1.0


def test_auc_of_a_test_set_without_a_class_is_not_a_number() -> None:
    assert math.isnan(METRICS["roc_auc"].score(np.array([0, 0]), np.eye(2)))
    assert math.isnan(METRICS["roc_auc"].score(np.array([0, 1]), np.eye(3)[:2]))
