"""The models of one training and one test set, ranked, and what a reader must know of them."""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cache.errors import ResultsError
from evaluate.ranking import ranked
from evaluate.results import Row, read_results
from evaluate.statistics.comparison import (
    Interval,
    accuracy_interval,
    difference_in_words,
    difference_interval,
)
from evaluate.text import NOT_TRAINED, STUDYS_OWN
from heads.config import FROZEN

# What can tell two rows of one backbone, device, head and optimizer apart, and its short name.
SETTINGS = {
    "learning_rate": "lr",
    "weight_decay": "decay",
    "schedule": "schedule",
    "gamma": "gamma",
    "momentum": "momentum",
    "nesterov": "nesterov",
    "warmup": "warm-up",
    "patience": "patience",
    "balance": "balance",
    "views": "views",
    "augmentation": "augmented",
    "epochs": "epochs",
    "batch_size": "batch",
    "n_groups": "undivided groups",
    "n_validation": "validated on",
    "seed": "seed",
    "weights": "weights",
    "engine": "engine",
    "numeric_precision": "at",
    "fit": "fit",
    "normalization": "normalised by",
    "full_scale": "full scale",
}
KIND = ("pretrained_model", "hardware_type", "classifier_head", "opt_alg", "mode")
TOLD = 3  # confusions
MAX_DIFFERENCE = 0.01  # between a whole model and its head on cached embeddings


@dataclass(frozen=True)
class Leaderboard:
    """The models of one training and one test set, ranked: the best on validation first.

    Attributes:
        others: Rows of models with the same training set, measured on independent test sets.
    """

    rows: tuple[Row, ...]
    others: tuple[Row, ...] = ()

    @property
    def best(self) -> Row:
        """The row of the configuration chosen."""
        return self.rows[0]

    @property
    def title(self) -> str:
        """What was trained on and tested on."""
        best, images = self.best, self.best["n_training"] + self.best["n_validation"]
        return (
            f"trained on {best['dataset']} ({images:,} images), "
            f"tested on {best['test']} ({best['n_test']:,} images)"
        )

    def settings(self, row: Row) -> str:
        """Name the settings in which a row differs from others of its kind: `lr 0.01, seed 3`."""
        others = [other for other in self.rows if kind(other) == kind(row)]
        varying = [name for name in SETTINGS if len({_word(r[name]) for r in others}) > 1]
        return ", ".join(f"{SETTINGS[name]} {_word(row[name])}" for name in varying)


def kind(row: Row) -> tuple[str, ...]:
    """Return a row's backbone, device, head, optimizer and mode."""
    return tuple(row[name] for name in KIND)


def studies(results: Path) -> list[Leaderboard]:
    """Read `results.csv` and split it by data set, the one measured last first.

    Ranked by `evaluate.ranking`. Rows on independent test sets are no study of their own.

    Raises:
        ResultsError: there is no row yet, or the file is damaged.
    """
    own, others = dict[tuple[str, str], list[Row]](), dict[str, list[Row]]()
    for row in _rows(read_results(results).sort_values(["also", "model_id"])):
        training = row["dataset_fingerprint"]
        if row["also"] == STUDYS_OWN:
            own.setdefault((training, row["test_fingerprint"]), []).append(row)
        else:
            others.setdefault(training, []).append(row)
    if not own:
        raise ResultsError(f"{results} holds no results yet: run evaluate first")
    found = [
        Leaderboard(tuple(ranked(rows)), tuple(others.get(training, ())))
        for (training, _), rows in sorted(own.items())
    ]
    return sorted(
        found, key=lambda study: max(str(row["evaluated_at"]) for row in study.rows), reverse=True
    )


def first_of_each(rows: Sequence[Row], *names: str) -> list[Row]:
    """Return the first row of each value of these columns: of ranked rows, the best of each."""
    first: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        first.setdefault(tuple(row[name] for name in names), row)
    return list(first.values())


def describe_best(study: Leaderboard) -> str:
    """Say in one sentence which configuration is best and how far the number can be trusted."""
    best, images = study.best, images_in_words(study.best)
    return (
        f"Model {best['model_id']}, {configuration_name(best)}: {right_answers(best)} of "
        f"{best['n_test']} test images right ({best['accuracy']:.1%}, 95% interval "
        f"{_in_words(interval_of(best))}{f'; {images}' if images else ''})"
    )


def configuration_name(row: Row) -> str:
    """Name a row's configuration for people."""
    name = "{pretrained_model} on {hardware_type}, {classifier_head} head, {opt_alg}".format(**row)
    return name if row["mode"] == FROZEN else f"{name}, {row['mode']}"


def cautions(study: Leaderboard) -> list[str]:
    """What a reader must know before believing the numbers, a sentence each."""
    best, n_test = study.best, study.best["n_test"]
    lines = _random_weights(study)
    if best["n_leaked"]:
        lines.append(
            f"Left out of every score, being copies or near duplicates of training images: "
            f"{best['n_leaked']} of {n_test + best['n_leaked']} test images{_with_leaked(best)}."
        )
    if best["n_unreadable"]:
        lines.append(
            f"{best['n_unreadable']} test images could not be read: they are in no figure."
        )
    if absent := [c for c, counts in zip(*confusion(best), strict=True) if not sum(counts)]:
        lines.append(f"There is no test image of {', '.join(absent)}: nothing is known about it.")
    if len({(r["n_test"], r["n_leaked"]) for r in study.rows}) > 1:
        lines.append(
            "Not all models were scored on the same test images (others were left out as leaked or "
            "unreadable): measure them again with `evaluate`."
        )
    if len({(r["n_validation"], r["n_groups"], r["seed"]) for r in study.rows}) > 1:
        lines.append(
            "Not all models were validated on the same images (other seed, groups or validation "
            "share): their ranks compare different questions."
        )
    if old := [str(r["model_id"]) for r in study.rows if _is_nan(r["val_calibrated_loss"])]:
        lines.append(
            f"Model {', '.join(old)}: an earlier version measured it, without a calibrated loss; "
            "among equal validation accuracies it ranks last. Run train-heads and evaluate again."
        )
    if off := [str(r["model_id"]) for r in study.rows if r["cached_difference"] > MAX_DIFFERENCE]:
        lines.append(
            f"Model {', '.join(off)} answers otherwise than on its cached embeddings, by more than "
            f"{MAX_DIFFERENCE:.0%}: it was measured by another engine than extracted the images."
        )
    if images := images_in_words(best):
        lines.append(
            f"The test set has near duplicates: {images}. The interval of the accuracy counts each "
            "group once. All other scores, intervals and comparisons count every image."
        )
    if n_test < 1000:
        lines.append(
            f"With {n_test} test images, one image is {1 / n_test:.1%}: scores within "
            f"{_in_words(interval_of(best))} are no evidence that one model is better than another."
        )
    return lines


def right_answers(row: Row) -> int:
    """How many test images the model got right, exactly."""
    return sum(counts[i] for i, counts in enumerate(json.loads(row["conf_mat"])))


def confusion(row: Row) -> tuple[list[str], list[list[int]]]:
    """Return the classes and the confusion matrix: test images by true and predicted class."""
    return json.loads(row["classes"]), json.loads(row["conf_mat"])


def confusions(row: Row) -> list[tuple[str, str, int, int]]:
    """Return a row's mistakes by kind, the most frequent first: true class, predicted class, how
    many images, and how many the true class has.
    """
    classes, matrix = confusion(row)
    found = [
        (classes[i], classes[j], count, sum(counts))
        for i, counts in enumerate(matrix)
        for j, count in enumerate(counts)
        if count and i != j
    ]
    return sorted(found, key=lambda each: -each[2])


def describe_confusions(row: Row) -> str:
    """Name a row's most frequent mistakes: `Most confused: 41 of 200 cat taken for dog; ...`.

    Nothing is said where there is no mistake.
    """
    told = [f"{n:,} of {of:,} {a} taken for {b}" for a, b, n, of in confusions(row)[:TOLD]]
    return f"Most confused: {'; '.join(told)}" if told else ""


def other_sets(study: Leaderboard) -> list[list[tuple[Row, Row]]]:
    """Return, of each independent test set, the models measured there, in the study's order: their
    row of the study, and the one of that set.
    """
    sets: dict[tuple[str, str], dict[tuple[str, str], Row]] = {}
    for row in study.others:
        measured = sets.setdefault((row["also"], row["test_fingerprint"]), {})
        measured[row["head_id"], row["engine"]] = row
    found = [
        [(r, there[key]) for r in study.rows if (key := (r["head_id"], r["engine"])) in there]
        for there in sets.values()
    ]
    return [pairs for pairs in found if pairs]


def change_of(row: Row, other: Row) -> tuple[float, Interval]:
    """Return a model's accuracy on an independent test set minus that on the study's own, and its
    95 % interval.
    """
    interval = difference_interval(*_counted(other), *_counted(row))
    return other["accuracy"] - row["accuracy"], interval


def describe_change(row: Row, other: Row) -> str:
    """Say how well a model does on an independent test set, against the study's own images."""
    change, interval = change_of(row, other)
    against = f" against {row['test']} ({row['accuracy']:.1%})"
    sure = not interval[0] <= 0 <= interval[1]
    return (
        f"On {other['also']} ({other['n_test']:,} images), model {row['model_id']} gets "
        f"{other['accuracy']:.1%} right: {difference_in_words(change, interval, against)}"
        f"{': more than chance' if sure else ', which chance alone can do'}"
    )


def describe_others(study: Leaderboard) -> list[str]:
    """Say of each independent test set how the best model measured there does, a line each."""
    return [describe_change(*pairs[0]) for pairs in other_sets(study)]


def interval_of(row: Row) -> Interval:
    """Return the 95 % interval of a row's accuracy, as two fractions.

    Near duplicates among the test images count as one: what they say is not independent.
    """
    return accuracy_interval(*_counted(row))


def _counted(row: Row) -> tuple[float, int]:
    """Return how many were right of how many test images, near duplicates counted once."""
    groups = row["n_test_groups"]
    if groups == row["n_test"] or _is_nan(groups):
        return right_answers(row), row["n_test"]
    return row["accuracy_of_groups"] * groups, int(groups)


def images_in_words(row: Row) -> str:
    """Say how many groups the test images are, where some are near duplicates; else nothing."""
    groups = row["n_test_groups"]
    if groups == row["n_test"] or _is_nan(groups):
        return ""
    return f"{row['n_test']:,} images in {groups:,.0f} groups of near duplicates"


def is_random(row: Row) -> bool:
    """Tell whether a row's backbone has random weights, and was never trained."""
    return str(row["weights"]).startswith("random") and row["mode"] in NOT_TRAINED


def _random_weights(study: Leaderboard) -> list[str]:
    random = sorted({r["pretrained_model"] for r in study.rows if is_random(r)})
    note = "RANDOM weights. Timings are real; accuracies are those of an untrained network."
    return [f"{', '.join(random)}: {note}"] if random else []


def _with_leaked(best: Row) -> str:
    whole = best["accuracy_with_leaked"]
    return "" if whole != whole else f" (with them, accuracy would be {whole:.1%})"


def _rows(table: pd.DataFrame) -> tuple[Row, ...]:
    return tuple(_row(record) for record in table.to_dict("records"))


def _row(record: Mapping[Hashable, Any]) -> Row:
    return {str(column): value for column, value in record.items()}


def _in_words(interval: Interval) -> str:
    return f"{interval[0]:.0%} to {interval[1]:.0%}"


def _is_nan(value: float) -> bool:
    return value != value


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
