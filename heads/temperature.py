"""How much to believe a head: a temperature for its logits, from the images it is validated on."""

from math import exp, log

import numpy as np
from numpy.typing import NDArray

COLDEST, HOTTEST = 0.01, 100.0


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the temperature by which to divide logits [N, C] of validation images.

    The least cross entropy (Guo et al. 2017), between 0.01 and 100. The true class counts for
    (n + 1) / (n + 2), the other classes share the rest, where n validation images are of the true
    class: the targets of Platt (1999), for C classes. Against 1 and 0, the best temperature of
    images that are all right is 0, which is to be certain after 18 images.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    images, classes = logits.shape
    counts = np.bincount(labels, minlength=classes)[labels]
    targets = np.repeat(1 / ((counts + 2) * (classes - 1)), classes).reshape(images, classes)
    targets[np.arange(images), labels] = (counts + 1) / (counts + 2)

    def loss(log_temperature: float) -> float:
        chances = log_softmax(logits / exp(log_temperature), axis=1)
        return float(-(targets * chances).sum(1).mean())

    return exp(minimize_scalar(loss, bounds=(log(COLDEST), log(HOTTEST)), method="bounded").x)
