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


def check_trainable(labels: Mapping[bytes, str], folds: int = 0) -> None:
    """Make sure that a classifier can be trained and validated on these images.

    Raises:
        HeadError: there is only one class, or a class has too few images.
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
    if scarce := sorted(f"{label} ({n})" for label, n in counts.items() if n < folds):
        raise HeadError(
            f"--cv {folds}: fewer images than folds in class {', '.join(scarce)}: each fold needs "
            "one of each class; choose fewer folds or add images"
        )


def split(labels: Mapping[bytes, str], val_fraction: float, seed: int, fold: str = "") -> Split:
    """Divide images into training and validation, stratified by class and seeded.

    fold: "" or, say, `2/5`: validation is the second fifth. Each class has at least one image on
    both sides. The result depends on the images' content only, not on where they lie or in which
    order; the same image in two places is one, so it is never on both sides.

    Raises:
        HeadError: the images can't be divided so; see `check_trainable`.
    """
    number, _, of = fold.partition("/")
    check_trainable(labels, int(of or 0))
    held_out = set[bytes]()
    # Class by class: scikit-learn's own stratification lets a rare class miss a side.
    for place, label in enumerate(sorted(set(labels.values()))):
        hashes = sorted(key for key in labels if labels[key] == label)
        if fold:
            held_out |= _fold(hashes, seed, (int(number) - 1 + place) % int(of), int(of))
        else:
            held_out |= _held_out(hashes, seed, val_fraction)
    ordered = sorted(labels, key=lambda key: (labels[key], key))
    return Split(
        tuple(key for key in ordered if key not in held_out),
        tuple(key for key in ordered if key in held_out),
    )


def _held_out(hashes: list[bytes], seed: int, fraction: float) -> set[bytes]:
    from sklearn.model_selection import train_test_split

    count = min(max(round(len(hashes) * fraction), 1), len(hashes) - 1)
    return set(train_test_split(hashes, test_size=count, random_state=seed)[1])


def _fold(hashes: list[bytes], seed: int, number: int, of: int) -> set[bytes]:
    """Return one of the parts of a class. The first are larger by one: each class begins at
    another fold, so that folds are of one size.
    """
    from sklearn.model_selection import KFold

    parts = list(KFold(of, shuffle=True, random_state=seed).split(hashes))
    return {hashes[i] for i in parts[number][1]}
