"""Mean and standard deviation of a set of images, to normalise by instead of the weights' own."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import TYPE_CHECKING

from cache.errors import DatasetError

if TYPE_CHECKING:
    from extract.embedding_spec import Normalization
    from extract.imaging.image_stats import ImageStats

NORMALIZATIONS: dict[str, str] = {
    "weights": "by the mean and standard deviation that the weights were trained with",
    "dataset": "by those of the images to train on",
}
DIGITS = 3  # of full scale, to which both are rounded: a few more images shall change nothing


def fit_normalization(image_stats: Iterable[ImageStats]) -> Normalization:
    """Return mean and standard deviation of all pixels of gray images, for each of three channels.

    Every image counts alike, however large its file; full scale = 1.

    Raises:
        DatasetError: there is no image, or all are blank.
    """
    seen = list(image_stats)
    if not seen:
        raise DatasetError("--normalize dataset: none of the images can be read")
    mean = sum(stats.brightness for stats in seen) / len(seen)
    square = sum(stats.contrast**2 + stats.brightness**2 for stats in seen) / len(seen)
    std = round(sqrt(max(square - mean**2, 0.0)) / 255, DIGITS)
    if not std:
        raise DatasetError("--normalize dataset: all images are of one gray level")
    return (round(mean / 255, DIGITS),) * 3, (std,) * 3
