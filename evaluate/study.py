"""The models of one training and one test set, ranked, and what a reader must know of them."""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.errors import ResultsError
from evaluate.results import Row, read_results
from evaluate.statistics import Interval, accuracy_interval

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
    "epochs": "epochs",
    "batch_size": "batch",
    "n_groups": "undivided groups",
    "n_validation": "validated on",
    "seed": "seed",
    "weights": "weights",
    "engine": "engine",
    "numeric_precision": "at",
}
KIND = ("pretrained_model", "hardware_type", "classifier_head", "opt_alg")
MAX_DIFFERENCE = 0.01  # between a whole model and its head on cached embeddings


@dataclass(frozen=True)
class Study:
    """The models of one training and one test set, ranked: the best on validation first."""

    rows: tuple[Row, ...]

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
    """Return a row's backbone, device, head and optimizer."""
    return tuple(row[name] for name in KIND)


def studies(results: Path) -> list[Study]:
    """Read `results.csv` and split it by data set, the one measured last first.

    Ranked by validation accuracy, then validation loss: choosing by the test score would make the
    test score a boast. Untrained backbones are stand-ins and come last, whatever they score; before
    them come heads whose split divided near duplicates, which makes validation too easy.

    Raises:
        ResultsError: there is no row yet, or the file is damaged.
    """
    table = read_results(results)
    if table.empty:
        raise ResultsError(f"{results} holds no results yet: run evaluate first")
    of_study = table.groupby(["dataset_fingerprint", "test_fingerprint"])
    table["random"] = table["weights"].str.startswith("random")
    table["divided"] = table["n_groups"] < of_study["n_groups"].transform("max")
    order = ["random", "divided", "val_accuracy", "val_loss", "model_id"]
    ranked = table.sort_values(order, ascending=[True, True, False, True, True])
    groups = [rows for _, rows in ranked.groupby(["dataset_fingerprint", "test_fingerprint"])]
    groups.sort(key=lambda rows: str(rows["evaluated_at"].max()), reverse=True)
    return [Study(tuple(_row(record) for record in rows.to_dict("records"))) for rows in groups]


def first_of_each(rows: Sequence[Row], *names: str) -> list[Row]:
    """Return the first row of each value of these columns: of ranked rows, the best of each."""
    first: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        first.setdefault(tuple(row[name] for name in names), row)
    return list(first.values())


def describe_best(study: Study) -> str:
    """Say in one sentence which configuration is best and how far the number can be trusted."""
    best = study.best
    return (
        f"Model {best['model_id']}, {configuration_name(best)}: {right_answers(best)} of "
        f"{best['n_test']} test images right ({best['accuracy']:.1%}, 95% interval "
        f"{_in_words(interval_of(best))})"
    )


def configuration_name(row: Row) -> str:
    """Name a row's configuration for people."""
    return "{pretrained_model} on {hardware_type}, {classifier_head} head, {opt_alg}".format(**row)


def cautions(study: Study) -> list[str]:
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
    if off := [str(r["model_id"]) for r in study.rows if r["cached_difference"] > MAX_DIFFERENCE]:
        lines.append(
            f"Model {', '.join(off)} answers otherwise than on its cached embeddings, by more than "
            f"{MAX_DIFFERENCE:.0%}: it was measured by another engine than extracted the images."
        )
    if n_test < 1000:
        lines.append(
            f"With {n_test} test images, one image is {1 / n_test:.1%}: scores within "
            f"{_in_words(interval_of(best))} are no evidence that one model is better than another."
        )
    return lines


def right_answers(row: Row) -> int:
    """How many test images the model got right, exactly."""
    return sum(counts[i] for i, counts in enumerate(confusion(row)[1]))


def confusion(row: Row) -> tuple[list[str], list[list[int]]]:
    """Return the classes and the confusion matrix: test images by true and predicted class."""
    return json.loads(row["classes"]), json.loads(row["conf_mat"])


def interval_of(row: Row) -> Interval:
    """Return the 95 % interval of a row's accuracy, as two fractions."""
    return accuracy_interval(right_answers(row), row["n_test"])


def is_random(row: Row) -> bool:
    """Tell whether a row's backbone has random weights."""
    return str(row["weights"]).startswith("random")


def _random_weights(study: Study) -> list[str]:
    random = sorted({r["pretrained_model"] for r in study.rows if is_random(r)})
    note = "RANDOM weights. Timings are real; accuracies are those of an untrained network."
    return [f"{', '.join(random)}: {note}"] if random else []


def _with_leaked(best: Row) -> str:
    whole = best["accuracy_with_leaked"]
    return "" if whole != whole else f" (with them, accuracy would be {whole:.1%})"


def _row(record: Mapping[Hashable, Any]) -> Row:
    return {str(column): value for column, value in record.items()}


def _in_words(interval: Interval) -> str:
    return f"{interval[0]:.0%} to {interval[1]:.0%}"


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
