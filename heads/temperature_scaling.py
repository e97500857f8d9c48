"""Temperature scaling (Guo et al. 2017) of many heads at once."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

LOWEST, HIGHEST = 1e-4, 1e4
HALVINGS = 40  # of the interval of log T, to 2e-11


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """Return the temperature by which to divide logits [N, C]. See `fit_temperatures`."""
    return float(fit_temperatures(logits[None], labels)[0])


def fit_temperatures(logits: Floats, labels: Labels) -> Floats:
    """Return the temperatures [K] by which to divide the logits [K, N, C] of K heads.

    T minimises the mean cross entropy of softmax(logits / T) with smoothed targets: the true class
    has (N + 1) / (N + 2) and the others share the rest, as in Platt (1999), but with the number of
    all images, because one parameter is fitted to all of them. With targets of 1 and 0, perfectly
    separated images give T = 0, a certainty that N images do not support. T is between 1e-4 and
    1e4.

    Args:
        logits: Of images that the head was not trained on.
        labels: int64 [N].
    """
    images, classes = logits.shape[1:]
    hit = (images + 1) / (images + 2)
    targets = np.full((images, classes), (1 - hit) / (classes - 1))
    targets[np.arange(images), labels] = hit
    target = (targets * logits).sum((1, 2))
    low, high = (np.full(len(logits), np.log(end)) for end in (LOWEST, HIGHEST))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        # The loss is convex in 1 / T; its derivative is the mean of Σ (softmax - target) z.
        scaled = logits / np.exp(middle)[:, None, None]
        too_low = (softmax(scaled, 2) * logits).sum((1, 2)) > target
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    return np.asarray(np.exp((low + high) / 2))


def cross_entropies(logits: Floats, labels: Labels, temperatures: Floats) -> Floats:
    """Return the mean cross entropy [K] of logits [K, N, C] divided by temperatures [K]."""
    log_p = log_softmax(logits / temperatures[:, None, None], 2)
    return np.asarray(-log_p[:, np.arange(len(labels)), labels].mean(1))


def calibrated_losses(logits: Floats, labels: Labels) -> Floats:
    """Return the cross entropies [K] of logits [K, N, C] after their own best temperatures.

    Overconfidence gains nothing: multiplied logits have the same loss.
    """
    return cross_entropies(logits, labels, fit_temperatures(logits, labels))
