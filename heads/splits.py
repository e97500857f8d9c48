"""Dividing labelled images into training and validation."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from cache.errors import HeadError

# By image: near duplicates bear the same number; an image that is not here is like no other.
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
    """Make sure that a classifier can be trained and validated on these images.

    Raises:
        HeadError: there is only one class, or a class has too few images that differ.
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
    """Return into how many folds the images can be divided: each class has one in every fold."""
    return min(Counter(label for _, label in _units(labels, groups)).values())


def split(
    labels: Mapping[bytes, str],
    val_fraction: float,
    seed: int,
    fold: str = "",
    groups: Groups = NO_GROUPS,
) -> Split:
    """Divide images into training and validation, stratified by class and seeded.

    fold: "" or, say, `2/5`: validation is the second fifth. groups: each stays on one side, and
    counts as one. Each class has at least one image on both sides. The result depends on the
    images' content only, not on where they lie or in which order; the same image in two places is
    one, so it is never on both sides.

    Raises:
        HeadError: the images can't be divided so; see `check_trainable`.
    """
    number, _, of = fold.partition("/")
    check_trainable(labels, int(of or 0), groups)
    units, held_out = _units(labels, groups), set[bytes]()
    # Class by class: scikit-learn's own stratification lets a rare class miss a side.
    for place, label in enumerate(sorted(set(labels.values()))):
        firsts = sorted(first for first, of_unit in units if of_unit == label)
        if fold:
            chosen = _fold(firsts, seed, (int(number) - 1 + place) % int(of), int(of))
        else:
            chosen = _held_out(firsts, seed, val_fraction)
        held_out |= {key for first in chosen for key in units[first, label]}
    ordered = sorted(labels, key=lambda key: (labels[key], key))
    return Split(
        tuple(key for key in ordered if key not in held_out),
        tuple(key for key in ordered if key in held_out),
    )


def _units(labels: Mapping[bytes, str], groups: Groups) -> dict[tuple[bytes, str], list[bytes]]:
    """Return what may not be divided, by its first image and its class: single images and groups.

    A group in several classes is of the one that most of its images are of.
    """
    members: dict[int | bytes, list[bytes]] = {}
    for key in sorted(labels):
        members.setdefault(groups.get(key, key), []).append(key)
    units = {}
    for keys in members.values():
        of_keys = sorted(labels[key] for key in keys)
        units[keys[0], max(of_keys, key=of_keys.count)] = keys
    return units


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
