"""How much to believe a head: a temperature for its logits, from the images it is validated on."""

from math import exp, log

import numpy as np
from numpy.typing import NDArray

COLDEST, HOTTEST = 0.01, 100.0


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the temperature by which to divide logits [N, C] of validation images.

    The least cross entropy (Guo et al. 2017), between 0.01 and 100. The true class counts for
    (N + 1) / (N + 2) and the others share the rest, as in Platt (1999), but with all images instead
    of those of a class: there is one number to fit, from all of them. Against targets of 1 and 0,
    the best temperature of images that are all right is 0, which is to be certain after 18 images.
    Of few images it is rather high: an easy task's confidence falls to what N images support.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    images, classes = logits.shape
    hit = (images + 1) / (images + 2)
    targets = np.full(logits.shape, (1 - hit) / (classes - 1))
    targets[np.arange(images), labels] = hit

    def loss(log_temperature: float) -> float:
        chances = log_softmax(logits / exp(log_temperature), axis=1)
        return float(-(targets * chances).sum(1).mean())

    return exp(minimize_scalar(loss, bounds=(log(COLDEST), log(HOTTEST)), method="bounded").x)
