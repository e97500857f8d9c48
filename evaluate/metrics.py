"""The table of metrics. Each takes labels, int [N], and probabilities, float [N, C] → a number.

scikit-learn is imported when something is scored: `predict` reads the names here and must start
fast.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]
Score = Callable[[Labels, Probabilities], float]


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        summary: What it says, in words.
        score: (labels, probabilities) → the number.
    """

    summary: str
    score: Score


def _accuracy(labels: Labels, probabilities: Probabilities) -> float:
    from sklearn import metrics as sk

    return float(sk.accuracy_score(labels, probabilities.argmax(1)))


def _macro(name: str) -> Score:
    """Average over the classes that occur, true or predicted; one never predicted counts 0."""

    def macro(labels: Labels, probabilities: Probabilities) -> float:
        from sklearn import metrics as sk

        score = getattr(sk, name)
        return float(score(labels, probabilities.argmax(1), average="macro", zero_division=0))

    return macro


def _roc_auc(labels: Labels, probabilities: Probabilities) -> float:
    """From scores, not labels; one-versus-rest above two classes; NaN where a class is absent."""
    from sklearn import metrics as sk

    classes = probabilities.shape[1]
    if len(np.unique(labels)) < classes:
        return float("nan")
    scores = log_odds(probabilities) if classes == 2 else probabilities
    return float(sk.roc_auc_score(labels, scores, multi_class="ovr", labels=range(classes)))


def log_odds(probabilities: Probabilities) -> NDArray[np.float64]:
    """Return the log odds [N] of the second of two classes, by which images are ranked.

    Far from the border, the larger probability is 1 for all alike.
    """
    odds = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return np.asarray(odds[:, 1] - odds[:, 0])


METRICS: dict[str, Metric] = {
    "accuracy": Metric("share of test images classified rightly", _accuracy),
    "precision": Metric("mean over classes", _macro("precision_score")),
    "recall": Metric("mean over classes", _macro("recall_score")),
    "roc_auc": Metric(
        "area under the ROC curve, from scores; mean one-versus-rest above two classes", _roc_auc
    ),
    "f1": Metric("harmonic mean of precision and recall, mean over classes", _macro("f1_score")),
}


def cross_entropy(labels: Labels, probabilities: Probabilities) -> float:
    """Mean negative logarithm of the probability that the true class was given."""
    from sklearn import metrics as sk

    return float(sk.log_loss(labels, probabilities, labels=range(probabilities.shape[1])))


def confusion_matrix(labels: Labels, probabilities: Probabilities) -> list[list[int]]:
    """Counts [C, C]: rows are the true classes, columns the predicted ones."""
    from sklearn import metrics as sk

    classes = range(probabilities.shape[1])
    matrix: list[list[int]] = sk.confusion_matrix(
        labels, probabilities.argmax(1), labels=classes
    ).tolist()
    return matrix
