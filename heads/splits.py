"""Dividing labelled images into training and validation."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from cache.errors import HeadError


@dataclass(frozen=True)
class Split:
    """Two disjoint tuples of image hashes."""

    training: tuple[bytes, ...]
    validation: tuple[bytes, ...]


def check_trainable(labels: Mapping[bytes, str]) -> None:
    """Make sure that a classifier can be trained and validated on these images.

    Raises:
        HeadError: there is only one class, or a class has a single image.
    """
    counts = Counter(labels.values())
    if len(counts) < 2:
        raise HeadError(
            f"one class only ({', '.join(counts) or 'none'}): a classifier needs at least two; "
            "add a folder of other images to --dataset"
        )
    if scarce := sorted(label for label, count in counts.items() if count < 2):
        raise HeadError(
            f"class {', '.join(scarce)} has a single image: each class needs one to train and one "
            "to validate; add images or remove the class"
        )


def split(labels: Mapping[bytes, str], val_fraction: float, seed: int) -> Split:
    """Divide images into training and validation, stratified by class and seeded.

    The result depends on the images' content only, not on where they lie or in which order.

    Raises:
        HeadError: the images can't be divided so; see `check_trainable`.
    """
    from sklearn.model_selection import train_test_split

    check_trainable(labels)
    hashes = sorted(labels)
    classes = len(set(labels.values()))
    # Stratifying needs room for one image of each class on both sides.
    validation_size = min(max(ceil(len(hashes) * val_fraction), classes), len(hashes) - classes)
    training, validation = train_test_split(
        hashes,
        test_size=validation_size,
        stratify=[labels[h] for h in hashes],
        random_state=seed,
    )
    return Split(tuple(training), tuple(validation))
