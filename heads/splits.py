"""Splits of labelled images into training and validation, and folds.

- Stratified by class, and deterministic by content and seed.
- Groups of near duplicates stay on one side.
- Each class has an image on both sides.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from cache.errors import HeadError

# Number of its group by image hash; an image that is not here is a group of its own.
Groups = Mapping[bytes, int]
NO_GROUPS: Groups = {}


@dataclass(frozen=True)
class Split:
    """Two disjoint tuples of image hashes."""

    training: tuple[bytes, ...]
    validation: tuple[bytes, ...]


def check_trainable(
    labels: Mapping[bytes, str], folds: int = 0, groups: Groups = NO_GROUPS
) -> None:
    """Check that a classifier can be trained and validated on these images.

    Raises:
        HeadError: There is only one class, or a class has too few different images.
    """
    counts = Counter(dict.fromkeys(labels.values(), 0))
    counts.update(label for _, label in _units(labels, groups))
    alike = ", near duplicates counted once (--no-group counts them all)" if groups else ""
    if len(counts) < 2:
        raise HeadError(
            f"one class only ({', '.join(counts) or 'none'}): a classifier needs at least two; "
            "add a folder of other images to --dataset"
        )
    if scarce := sorted(label for label, count in counts.items() if count < 2):
        raise HeadError(
            f"class {', '.join(scarce)} has a single image{alike}: each class needs one to train "
            "and one to validate; add images or remove the class"
        )
    if scarce := sorted(f"{label} ({n})" for label, n in counts.items() if n < folds):
        raise HeadError(
            f"--cv {folds}: fewer images than folds in class {', '.join(scarce)}{alike}: each fold "
            "needs one of each class; choose fewer folds or add images"
        )


def most_folds(labels: Mapping[bytes, str], groups: Groups = NO_GROUPS) -> int:
    """Return the largest number of folds with an image of each class in every fold."""
    return min(Counter(label for _, label in _units(labels, groups)).values())


def split(
    labels: Mapping[bytes, str],
    val_fraction: float,
    seed: int,
    fold: str = "",
    groups: Groups = NO_GROUPS,
) -> Split:
    """Split images into training and validation.

    Args:
        labels: Class by image hash.
        val_fraction: Share of each class to validate on, without a fold.
        seed: Of the draw.
        fold: Empty, or the fold to validate on, as `2/5`.
        groups: Near duplicates; a group counts as one image.

    Raises:
        HeadError: see `check_trainable`.
    """
    number, _, count = fold.partition("/")
    check_trainable(labels, int(count or 0), groups)
    units, held_out = _units(labels, groups), set[bytes]()
    # Class by class: scikit-learn's stratification can leave a rare class out of a side.
    for offset, label in enumerate(sorted(set(labels.values()))):
        firsts = sorted(first for first, of_unit in units if of_unit == label)
        if fold:
            # The first folds are larger by one: each class starts at another one.
            chosen = _fold(firsts, seed, (int(number) - 1 + offset) % int(count), int(count))
        else:
            chosen = _held_out(firsts, seed, val_fraction)
        held_out |= {key for first in chosen for key in units[first, label]}
    ordered = sorted(labels, key=lambda key: (labels[key], key))
    return Split(
        tuple(key for key in ordered if key not in held_out),
        tuple(key for key in ordered if key in held_out),
    )


def _units(labels: Mapping[bytes, str], groups: Groups) -> dict[tuple[bytes, str], list[bytes]]:
    """Return single images and groups, by their first image and their class.

    The class of a group is that of most of its images.
    """
    members: dict[int | bytes, list[bytes]] = {}
    for key in sorted(labels):
        members.setdefault(groups.get(key, key), []).append(key)
    units = {}
    for keys in members.values():
        classes = sorted(labels[key] for key in keys)
        units[keys[0], max(classes, key=classes.count)] = keys
    return units


def _held_out(hashes: list[bytes], seed: int, fraction: float) -> set[bytes]:
    from sklearn.model_selection import train_test_split

    count = min(max(round(len(hashes) * fraction), 1), len(hashes) - 1)
    return set(train_test_split(hashes, test_size=count, random_state=seed)[1])


def _fold(hashes: list[bytes], seed: int, number: int, count: int) -> set[bytes]:
    from sklearn.model_selection import KFold

    folds = list(KFold(count, shuffle=True, random_state=seed).split(hashes))
    return {hashes[i] for i in folds[number][1]}
