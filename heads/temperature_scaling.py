"""Temperature scaling (Guo et al. 2017): one number that makes a head's confidence honest."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

COLDEST, HOTTEST = 1e-4, 1e4
HALVINGS = 40  # of the interval of log T: it is known to 2e-11 then


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """Return the temperature by which to divide logits [N, C]. See `fit_temperatures`."""
    return float(fit_temperatures(logits[None], labels)[0])


def fit_temperatures(logits: Floats, labels: Labels) -> Floats:
    """Return the temperatures [K] by which to divide the logits [K, N, C] of K heads.

    T minimises the mean cross entropy of softmax(logits / T) with smoothed targets: the true class
    has (N + 1) / (N + 2) and the others share the rest, as in Platt (1999), but with the number of
    all images, because one parameter is fitted to all of them. With targets of 1 and 0, perfectly
    separated images would ask for T = 0, a certainty that N images do not support; with these, T is
    positive and finite. It is between 1e-4 and 1e4.

    logits must be those of images that the head was not trained on. labels: int [N].
    """
    images, classes = logits.shape[1:]
    hit = (images + 1) / (images + 2)
    targets = np.full((images, classes), (1 - hit) / (classes - 1))
    targets[np.arange(images), labels] = hit
    wanted = (targets * logits).sum((1, 2))
    low, high = (np.full(len(logits), np.log(end)) for end in (COLDEST, HOTTEST))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        # The loss is convex in 1 / T; its derivative is the mean of Σ (softmax - target) z.
        scaled = logits / np.exp(middle)[:, None, None]
        too_cold = (softmax(scaled, 2) * logits).sum((1, 2)) > wanted
        low, high = np.where(too_cold, middle, low), np.where(too_cold, high, middle)
    return np.asarray(np.exp((low + high) / 2))


def cross_entropies(logits: Floats, labels: Labels, temperatures: Floats) -> Floats:
    """Return the mean cross entropy [K] of the logits [K, N, C] of K heads, after division by the
    temperatures [K]. labels: int [N].
    """
    chances = log_softmax(logits / temperatures[:, None, None], 2)
    return np.asarray(-chances[:, np.arange(len(labels)), labels].mean(1))


def calibrated_losses(logits: Floats, labels: Labels) -> Floats:
    """Return the cross entropies [K] of logits [K, N, C] after their own best temperatures.

    A head gains nothing by being surer than it is right: multiplied logits have the same loss.
    """
    return cross_entropies(logits, labels, fit_temperatures(logits, labels))
