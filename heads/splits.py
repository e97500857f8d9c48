"""Dividing labelled images into training and validation."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

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

    Each class has at least one image on both sides. The result depends on the images' content
    only, not on where they lie or in which order.

    Raises:
        HeadError: the images can't be divided so; see `check_trainable`.
    """
    from sklearn.model_selection import train_test_split

    check_trainable(labels)
    training: list[bytes] = []
    validation: list[bytes] = []
    # Class by class: scikit-learn's own stratification lets a rare class miss a side.
    for label in sorted(set(labels.values())):
        hashes = sorted(key for key in labels if labels[key] == label)
        count = min(max(round(len(hashes) * val_fraction), 1), len(hashes) - 1)
        kept, held_out = train_test_split(hashes, test_size=count, random_state=seed)
        training += kept
        validation += held_out
    return Split(tuple(training), tuple(validation))
