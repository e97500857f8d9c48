"""Scores of a test set that is drawn again and again: how far chance alone would move them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from evaluate.metrics import Labels, Probabilities, log_odds

Values = NDArray[np.float64]
Indices = NDArray[np.int64]

SCORES = ("precision", "recall", "f1", "roc_auc")
AT_ONCE = 2_000_000  # images drawn at a time, which keeps memory below 200 MB


def resampled_scores(
    labels: Labels, models: Sequence[Probabilities], resamples: int, seed: int
) -> list[dict[str, Values]]:
    """Return the scores of each model on resampled images, the same images for all: [resamples].

    Each class keeps its number of images (stratified bootstrap; Efron and Tibshirani 1993). Each
    answer is replaced, with a chance of 1 / (N + 1) and in each model by itself, by that to an
    image of another class: about one wrong answer that was not observed, as Bonett and Price (2012)
    add to a paired difference. Without it, a model that got every image right would seem sure to
    get all others right. Where the test images are of one class only, every score is NaN.
    """
    if len(np.unique(labels)) < 2:
        nothing = np.full(resamples, np.nan)
        return [dict.fromkeys(SCORES, nothing) for _ in models]
    order = np.argsort(labels, kind="stable")
    labels, models = labels[order], [model[order] for model in models]
    generator = np.random.default_rng(seed)
    found: list[dict[str, list[Values]]] = [{name: [] for name in SCORES} for _ in models]
    step = max(1, AT_ONCE // len(labels))
    for start in range(0, resamples, step):
        drawn = _draw(labels, min(step, resamples - start), generator)
        for model, lists in zip(models, found, strict=True):
            answered = _with_mistakes(labels, drawn, generator)
            for name, values in scores_of(labels, model, answered).items():
                lists[name].append(values)
    return [{name: np.concatenate(lists[name]) for name in SCORES} for lists in found]


def scores_of(labels: Labels, probabilities: Probabilities, drawn: Indices) -> dict[str, Values]:
    """Return the SCORES of R resamples as `metrics.METRICS` defines them: name → [R].

    Args:
        drawn: int [R, N], whose answer stands for the image of labels[n] in a resample. labels are
            the same in all. ROC AUC is NaN where a class has no image.
    """
    (resamples, _), classes = drawn.shape, probabilities.shape[1]
    cells = labels * classes + probabilities.argmax(1)[drawn]
    cells += np.arange(resamples)[:, None] * classes**2
    counts = np.bincount(cells.ravel(), minlength=resamples * classes**2)
    matrix = counts.reshape(resamples, classes, classes)
    right = np.diagonal(matrix, axis1=1, axis2=2)
    predicted, true = matrix.sum(1), matrix.sum(2)
    occurring = (predicted + true > 0).sum(1)

    def macro(part: Indices, whole: Indices) -> Values:
        return np.asarray((part / np.maximum(whole, 1)).sum(1) / occurring)

    return {
        "precision": macro(right, predicted),
        "recall": macro(right, true),
        "f1": macro(2 * right, predicted + true),
        "roc_auc": _roc_auc(labels, probabilities, drawn),
    }


def _roc_auc(labels: Labels, probabilities: Probabilities, drawn: Indices) -> Values:
    """Return the area under the ROC curve [R]; one-versus-rest above two classes."""
    (resamples, images), classes = drawn.shape, probabilities.shape[1]
    if len(np.unique(labels)) < classes:
        return np.full(resamples, np.nan)
    cells = drawn + np.arange(resamples)[:, None] * images
    counts = np.bincount(cells.ravel(), minlength=resamples * images).reshape(resamples, images)
    if classes == 2:
        return _rank_auc(labels == 1, log_odds(probabilities), drawn, counts)
    each = [_rank_auc(labels == c, probabilities[:, c], drawn, counts) for c in range(classes)]
    return np.asarray(np.mean(each, axis=0))


def _rank_auc(
    positive: NDArray[np.bool_], scores: Values, drawn: Indices, counts: Indices
) -> Values:
    """Return the share of pairs of a positive and a negative image in the right order [R].

    By the sum of the positives' ranks, the middle rank for ties (Mann and Whitney 1947).

    Args:
        counts: int [R, N], how often each image was drawn.
    """
    below = np.pad(np.cumsum(counts[:, np.argsort(scores)], axis=1), ((0, 0), (1, 0)))
    low, high = rankdata(scores, "min").astype(np.int64) - 1, rankdata(scores, "max")
    rows, mine = np.arange(len(drawn))[:, None], drawn[:, positive]
    ranks = (below[rows, low[mine]] + below[rows, high.astype(np.int64)[mine]]).sum(1) / 2
    n = int(positive.sum())
    return np.asarray((ranks - n * n / 2) / (n * (len(scores) - n)))


def _draw(labels: Labels, resamples: int, generator: np.random.Generator) -> Indices:
    """Draw images [resamples, N], each from the class of its place; labels are sorted."""
    first, size = _classes(labels)
    return first + generator.integers(size, size=(resamples, len(labels)))


def _with_mistakes(labels: Labels, drawn: Indices, generator: np.random.Generator) -> Indices:
    """Replace each image, with a chance of 1 / (N + 1), by one of another class."""
    first, size = _classes(labels)
    images = len(labels)
    rows, places = np.nonzero(generator.random(drawn.shape) < 1 / (images + 1))
    others = generator.integers(images - size[places])
    others += size[places] * (others >= first[places])  # over the own class
    answered = drawn.copy()
    answered[rows, places] = others
    return answered


def _classes(labels: Labels) -> tuple[Indices, Indices]:
    """Return where each image's class begins, and how many images it has: two of [N]."""
    _, first, inverse, size = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    return first[inverse], size[inverse]
