"""Whether a model's confidence can be taken at its word."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluate.metrics import Labels, Probabilities

# One definition for the error, the diagram and its table: the number of Guo et al. (2017).
BINS = 15


@dataclass(frozen=True)
class Bin:
    """Images of about the same confidence: their mean confidence, and how many were right."""

    confidence: float
    accuracy: float
    count: int


def reliability(labels: Labels, probabilities: Probabilities, bins: int = BINS) -> list[Bin]:
    """Return the non-empty bins, of `bins` equally wide bins of confidence from 0 to 1.

    The confidence is the probability of the predicted class. A border belongs to the lower bin.
    """
    return list(_bins(labels, probabilities, bins))


def _bins(labels: Labels, probabilities: Probabilities, bins: int) -> Iterator[Bin]:
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bin_of = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    for number in np.unique(bin_of):
        here = bin_of == number
        yield Bin(float(confidence[here].mean()), float(right[here].mean()), int(here.sum()))


def ece(labels: Labels, probabilities: Probabilities, bins: int = BINS) -> float:
    """Return the expected calibration error (Naeini et al. 2015; Guo et al. 2017).

    Σ (images of bin / N) |accuracy - confidence|, over the bins of `reliability`. Chance alone
    makes it larger than 0: of a perfectly calibrated model, 70 to 100 % confident, it is about 0.13
    with 22 images, 0.06 with 100, 0.02 with 1,000.
    """
    found = reliability(labels, probabilities, bins)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in found) / len(labels)


def calibrated(probabilities: Probabilities, temperature: float) -> NDArray[np.float64]:
    """Return softmax(log p / temperature) [N, C]: the probabilities of divided logits."""
    powers = (probabilities / probabilities.max(1, keepdims=True)) ** (1 / temperature)
    return np.asarray(powers / powers.sum(1, keepdims=True))
