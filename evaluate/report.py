"""`report/index.html`: one self-contained file, made from `results.csv`, `heads/` and images."""

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cache.atomic import replacing
from cache.errors import CacheError, ResultsError, UnreadableImageError
from cache.store import find_caches
from evaluate import charts
from evaluate.inventory import costs
from evaluate.metrics import METRICS, accuracy_interval
from evaluate.predictions import Predictions, predictions_path, read_predictions
from evaluate.printable import printable
from evaluate.results import Row, read_results
from evaluate.workspace import Workspace
from heads.configuration import NO_OPTIMIZER
from heads.files import HeadInfo, head_path, read_info

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
    "n_validation": "validated on",
    "seed": "seed",
    "engine": "engine",
    "numeric_precision": "at",
}
MAX_DIFFERENCE = 0.01  # between a whole model and its head on cached embeddings
SAMPLES = 24  # pictures of test images, the mistakes first


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
        """Name the settings in which a row differs from others of its device: `lr 0.01, seed 3`."""
        others = [r for r in self.rows if r["hardware_type"] == row["hardware_type"]]
        varying = {name for name in SETTINGS if len({r[name] for r in others}) > 1}
        if row["opt_alg"] == NO_OPTIMIZER:
            varying &= {"weight_decay", "n_validation", "seed", "engine", "numeric_precision"}
        return ", ".join(f"{SETTINGS[name]} {row[name]}" for name in SETTINGS if name in varying)


def studies(results: Path) -> list[Study]:
    """Read `results.csv` and split it by data set, the one measured last first.

    Ranked by validation accuracy, then validation loss: choosing by the test score would make the
    test score a boast. Untrained backbones are stand-ins and come last, whatever they score.

    Raises:
        ResultsError: there is no row yet, or the file is damaged.
    """
    table = read_results(results)
    if table.empty:
        raise ResultsError(f"{results} holds no results yet: run evaluate first")
    table["random"] = table["weights"].str.startswith("random")
    order = ["random", "val_accuracy", "val_loss", "model_id"]
    ranked = table.sort_values(order, ascending=[True, False, True, True])
    groups = [rows for _, rows in ranked.groupby(["dataset_fingerprint", "test_fingerprint"])]
    groups.sort(key=lambda rows: str(rows["evaluated_at"].max()), reverse=True)
    return [Study(tuple(_row(record) for record in rows.to_dict("records"))) for rows in groups]


def describe_best(study: Study) -> str:
    """Say in one sentence which configuration is best and how far the number can be trusted."""
    best = study.best
    return (
        f"Model {best['model_id']}, {configuration_name(best)}: {_right(best)} of {best['n_test']} "
        f"test images right ({best['accuracy']:.1%}, 95% interval {_interval(best)})"
    )


def configuration_name(row: Row) -> str:
    """Name a row's configuration for people."""
    return "{pretrained_model} on {hardware_type}, {classifier_head} head, {opt_alg}".format(**row)


def cautions(study: Study) -> list[str]:
    """What a reader must know before believing the numbers, a sentence each."""
    best, n_test = study.best, study.best["n_test"]
    random = {r["pretrained_model"] for r in study.rows if r["weights"].startswith("random")}
    lines = []
    if random:
        lines.append(
            f"{', '.join(sorted(random))}: RANDOM weights. Timings are real; accuracies are "
            "those of an untrained network."
        )
    if best["n_leaked"]:
        lines.append(
            f"{best['n_leaked']} of {n_test} test images lie in the training folder too, byte for "
            "byte: the test scores are too good by up to that many images."
        )
    if best["n_unreadable"]:
        lines.append(
            f"{best['n_unreadable']} test images could not be read: they are in no figure."
        )
    if absent := [c for c, counts in zip(*_matrix(best), strict=True) if not sum(counts)]:
        lines.append(f"There is no test image of {', '.join(absent)}: nothing is known about it.")
    if len({(r["n_validation"], r["seed"]) for r in study.rows}) > 1:
        lines.append(
            "Not all models were validated on the same images (other seed or validation share): "
            "their ranks compare different questions."
        )
    if off := [str(r["model_id"]) for r in study.rows if r["cached_difference"] > MAX_DIFFERENCE]:
        lines.append(
            f"Model {', '.join(off)} answers otherwise than on its cached embeddings, by more than "
            f"{MAX_DIFFERENCE:.0%}: it was measured by another engine than extracted the images."
        )
    if n_test < 1000:
        lines.append(
            f"With {n_test} test images, one image is {1 / n_test:.1%}: scores within "
            f"{_interval(best)} are no evidence that one model is better than another."
        )
    return lines


def _row(record: Mapping[Hashable, Any]) -> Row:
    return {str(column): value for column, value in record.items()}


def _right(row: Row) -> int:
    """How many test images the model got right, exactly."""
    return sum(counts[i] for i, counts in enumerate(_matrix(row)[1]))


def _matrix(row: Row) -> tuple[list[str], list[list[int]]]:
    """The classes and the confusion matrix: test images by true and predicted class."""
    return json.loads(row["classes"]), json.loads(row["conf_mat"])


def _interval(row: Row) -> str:
    low, high = accuracy_interval(_right(row), row["n_test"])
    return f"{low:.0%} to {high:.0%}"


def write_report(workspace: Workspace) -> Path:
    """Write the report and return its path.

    Raises:
        ResultsError: there are no results, or a file that the report is made from is damaged.
        HeadError: a head's file is damaged.
    """
    sections = [_section(study, workspace) for study in studies(workspace.results)]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html.jinja").render(
        sections=sections, extractions=list(_extractions(workspace))
    )
    with replacing(workspace.report) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")
    return workspace.report


def _extractions(workspace: Workspace) -> Iterator[str]:
    """Say of each cache what filling it cost; a damaged one costs no report."""
    try:
        for cache in find_caches(workspace.cache):
            yield costs(cache)
    except CacheError as error:
        yield str(error)


def _section(study: Study, workspace: Workspace) -> dict[str, Any]:
    best = study.best
    classes, matrix = _matrix(best)
    predictions = _predictions(best, classes, workspace)
    classes = [printable(name) for name in classes]  # pictures take Unicode only
    return {
        "title": study.title,
        "best": describe_best(study),
        "cautions": cautions(study),
        "rows": [{**row, "settings": study.settings(row)} for row in study.rows],
        "metrics": list(METRICS),
        "confusion": charts.confusion(matrix, classes),
        "roc": charts.roc(predictions, classes) if predictions else None,
        "curves": list(_curves(study.rows, workspace)),
        "heat_map": charts.heat_map(study.rows),
        "samples": list(_samples(predictions, classes)) if predictions else [],
        "n_samples": SAMPLES,
        "max_rows": charts.MAX_ROWS,
    }


def _predictions(row: Row, classes: list[str], workspace: Workspace) -> Predictions | None:
    """Read a row's predictions; None where only `results.csv` was handed on."""
    key = (row["head_id"], row["test_fingerprint"], row["engine"])
    path = predictions_path(workspace.heads, *key)
    if not path.exists():
        return None
    predictions = read_predictions(path, classes)
    if len(predictions.paths) != row["n_test"]:
        raise ResultsError(f"{path} is cut short: run evaluate again")
    return predictions


def _curves(rows: Sequence[Row], workspace: Workspace) -> Iterator[tuple[str, str]]:
    """Yield a picture for each backbone and device: (name, data URI)."""
    infos: dict[str, list[HeadInfo]] = {}
    for row in sorted(rows, key=lambda row: int(row["model_id"])):
        path = head_path(workspace.heads, row["head_id"])
        if path.exists():
            name = "{pretrained_model} on {hardware_type}".format(**row)
            infos.setdefault(name, []).append(read_info(path))
    for name, heads in infos.items():
        yield name, charts.curves(heads)


def _samples(predictions: Predictions, classes: list[str]) -> Iterator[dict[str, Any]]:
    """Yield test images with what the model said: mistakes first, then the least certain."""
    predicted = predictions.probabilities.argmax(1)
    confidence = predictions.probabilities.max(1)
    right = predicted == predictions.labels
    order = sorted(range(len(right)), key=lambda i: (right[i], confidence[i], i))
    for i in order[:SAMPLES]:
        path = predictions.paths[i]
        try:
            data = path.read_bytes()
            same = sha256(data).digest() == predictions.hashes[i]
            picture = charts.thumbnail(data) if same else None
        except (OSError, UnreadableImageError):
            picture = None  # moved or changed since: the words remain
        yield {
            "picture": picture,
            "name": path.name,
            "label": classes[predictions.labels[i]],
            "predicted": classes[predicted[i]],
            "confidence": confidence[i],
            "right": bool(right[i]),
        }
