"""`results.csv`: one row per data set and configuration, replaced when measured again.

One reader for all commands, without pandas: `predict` must start fast.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from sys import float_info
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from cache.errors import ResultsError
from cache.records import RecordError, parse_json
from cache.tables import (
    CHANGED,
    CHECKSUM,
    TableError,
    as_cell,
    as_number,
    as_whole_number,
    checksum,
    neutral,
    read_table,
    restored,
    rewrite_table,
)
from evaluate.metrics import METRICS
from evaluate.text import STUDYS_OWN

if TYPE_CHECKING:
    import pandas as pd

REFERENCE_METRICS = ("accuracy", "precision", "recall", "roc_auc")

# The reference study's twelve, by its names and in its order; then ours.
COLUMNS: dict[str, str] = {
    "model_id": "number of the model in this file; kept when the row is replaced",
    "hardware_type": "device of the backbone: cpu, cuda, tpu, xla-cpu",
    "pretrained_model": "backbone, from the table in README.md",
    "classifier_head": "head, from the table in README.md",
    "opt_alg": "optimizer, from the table in README.md",
    "training_time_mins": "minutes to train: the head on cached embeddings, or the whole network",
    "inference_time_secs": "seconds for the whole test set, file to label, after warm-up",
    "accuracy": METRICS["accuracy"].summary,
    "precision": METRICS["precision"].summary,
    "recall": METRICS["recall"].summary,
    "conf_mat": "confusion matrix as JSON: rows true, columns predicted, in the order of `classes`",
    "roc_auc": METRICS["roc_auc"].summary,
    **{name: metric.summary for name, metric in METRICS.items() if name not in REFERENCE_METRICS},
    "loss": "cross entropy on the test images",
    "accuracy_with_leaked": "accuracy with the test images that are left out as leaked",
    "temperature": "by which logits are divided to give calibrated probabilities; from held-out "
    "training images",
    "ece": "expected calibration error of the probabilities, on the test images",
    "ece_calibrated": "the same, after division by the temperature",
    "val_accuracy": "share of validation images classified rightly",
    "val_loss": "cross entropy on the validation images",
    "val_calibrated_loss": "cross entropy of the held-out training images that the temperature was "
    "fitted to, after division by it; decides between equals; empty in earlier versions",
    "mode": "how it was trained: frozen (the head alone), scratch, finetune, transfer",
    "selected_by": "why this head was kept; never by its test score",
    "cv_accuracy": "mean validation accuracy over folds, where some judged the configuration",
    "cv_spread": "its standard deviation",
    "cv_accuracy_ungrouped": "the same over folds that divide near duplicates: too good",
    "dataset": "folder trained on",
    "dataset_fingerprint": "hash of its images and their class names; file names don't count",
    "test": "folder tested on",
    "test_fingerprint": "hash of its images and their class names; file names don't count",
    "also": "name of an independent test set (`evaluate --also`); -: the study's own",
    "classes": "class names as JSON",
    "n_training": "images trained on",
    "n_validation": "images validated on",
    "n_groups": "groups of near duplicates that no split divides; 0: none, or --no-group",
    "n_test": "images tested on, without the leaked ones",
    "n_test_groups": "of these, groups of near duplicates, each counted once, and single images; "
    "the accuracy's interval is of so many; empty in earlier versions",
    "accuracy_of_groups": "accuracy, each group counted once: mean over groups of the share right",
    "n_leaked": "test images left out, being copies or near duplicates of training images",
    "n_unreadable": "test images that could not be read, left out of every figure",
    "weights": "of the backbone, before training: imagenet, random:SEED, file:NAME",
    "engine": "what ran the whole model",
    "numeric_precision": "fp32, bf16 or int8",
    "fit": "how an image of any shape becomes a square: stretch, pad",
    "normalization": "whose mean and deviation images are normalised by: weights, dataset",
    "full_scale": "stored value that is white in images of 9 to 16 bits; own: each file's full "
    "scale",
    "learning_rate": "of the optimizer; like the others of training empty for a fitted head",
    "momentum": "0 where the optimizer has none",
    "nesterov": "1: Nesterov's momentum",
    "weight_decay": "of the optimizer; the strength of fitted heads",
    "schedule": "of the learning rate: constant, exponential, step, cosine",
    "gamma": "of an exponential or step schedule",
    "warmup": "epochs in which the learning rate rose",
    "patience": "epochs without a lower validation loss after which training stopped; 0: never",
    "balance": "what was done for rare classes: none, weights, sampling, augment",
    "views": "augmented views that training drew from",
    "augmentation": "policy of the augmented images that training drew from; none: there were none",
    "epochs": "passes over the training images",
    "batch_size": "of training",
    "seed": "of split, initial weights and batches",
    "embedding_time_mins": "minutes to extract the training embeddings, once for all heads",
    "latency_p50_ms": "median milliseconds for a single image, file to label, after warm-up",
    "latency_p90_ms": "the 90th percentile",
    "latency_p99_ms": "the 99th percentile",
    "stages_ms": "where a single image's median time goes, as JSON by stage",
    "throughput": "images per second of the backbone and head, as JSON by batch size",
    "threads": "threads that computed",
    "peak_memory_mib": "largest memory of the process (on a GPU: of torch) while measuring",
    "size_mib": "backbone and head, as fp32 on disk and in memory",
    "parameters": "of backbone and head",
    "flops": "floating-point operations for one image",
    "warmup_time_secs": "seconds to build the engine and run the first batch, compilation included",
    "cached_difference": "largest relative difference between the whole model's logits and the "
    "head's on cached embeddings",
    "head_id": "name of the head's file in heads/",
    "evaluated_at": "when, in UTC",
    "checksum": "of the row's other columns here; emptied by you: the row is not checked",
}

# Columns of words; a fingerprint of digits only must not be read as a number.
TEXT = (
    *("hardware_type", "pretrained_model", "classifier_head", "opt_alg", "conf_mat", "dataset"),
    *("dataset_fingerprint", "test", "test_fingerprint", "classes", "weights", "engine"),
    *("numeric_precision", "head_id", "evaluated_at", "selected_by", "schedule", "balance"),
    *("stages_ms", "throughput", "mode", "also", "fit", "normalization", "augmentation"),
    "full_scale",
)
OWN = "own"  # of `full_scale`
ADDED = {"full_scale": OWN}  # columns that files of earlier versions lack, and what held then

VALUES = tuple(name for name in COLUMNS if name != CHECKSUM)
# Columns that earlier versions did not write.
LATER = ("val_calibrated_loss", "n_test_groups", "accuracy_of_groups", *ADDED, CHECKSUM)
NEEDED = tuple(name for name in COLUMNS if name not in LATER)
WHOLE = (
    *("model_id", "n_training", "n_validation", "n_groups", "n_test", "n_leaked", "n_unreadable"),
    *("nesterov", "warmup", "patience", "views", "epochs", "batch_size", "seed", "threads"),
    *("n_test_groups", "peak_memory_mib", "parameters", "flops"),
)
# Numbers that no row lacks: models are ranked and described by them.
NEVER_EMPTY = (
    *("model_id", "accuracy", "temperature", "val_accuracy", "val_loss", "n_training"),
    *("n_validation", "n_groups", "n_test", "n_leaked", "n_unreadable"),
)
SHARES = (
    *("accuracy", "precision", "recall", "roc_auc", "f1", "accuracy_with_leaked", "ece"),
    *("ece_calibrated", "val_accuracy", "cv_accuracy", "cv_accuracy_ungrouped"),
    *("accuracy_of_groups",),
)
ABOVE_ZERO = ("model_id", "temperature", "latency_p50_ms", "latency_p90_ms", "latency_p99_ms")
Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0, le=float_info.max)]
BatchSize = Annotated[str, Meta(pattern="^[1-9][0-9]{0,8}$")]
JSON: dict[str, Any] = {
    "classes": list[str],
    "conf_mat": list[list[Count]],
    "stages_ms": dict[str, Amount],
    "throughput": dict[BatchSize, Amount],
}
WHEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", re.ASCII)
REMEDY = (
    "Was it edited, or saved by a spreadsheet program? Restore it, or move it away and run "
    "evaluate again."
)

Row = dict[str, Any]  # one row of results.csv, by column


def read_rows(path: Path) -> list[Row]:
    """Read `results.csv`: numbers as int and float, None for an empty cell, all else as text.

    Empty where there is no file.

    Raises:
        ResultsError: the file is damaged, was changed, or is not ours.
    """
    return _read(path)[1]


def read_results(path: Path) -> pd.DataFrame:
    """Read `results.csv` as `read_rows` does, as a table; an empty number is NaN there."""
    import pandas as pd

    columns, rows = _read(path)
    return pd.DataFrame(
        {name: pd.Series([row[name] for row in rows], dtype=_dtype(name, rows)) for name in columns}
    )


def add_result(path: Path, row: Mapping[str, Any]) -> int:
    """Add a row without its `model_id`, or replace that of the same head, test set and engine.

    Written whole or not at all, one process at a time. Returns the row's `model_id`.

    Raises:
        ResultsError: the file is damaged or not ours, or another process holds it for a minute.
    """
    model_id = 0

    def merged() -> tuple[list[str], list[list[str]]]:
        nonlocal model_id
        columns, rows = _read(path)
        key = _key(row)
        same = [other["model_id"] for other in rows if _key(other) == key]
        rest = [other for other in rows if _key(other) != key]
        last = max((other["model_id"] for other in rows), default=0)
        model_id = same[0] if same else last + 1
        # Columns that a user added stay where they are.
        new = dict.fromkeys(columns, "") | dict(row) | {"model_id": model_id}
        ordered = sorted([*rest, new], key=lambda each: int(each["model_id"]))
        cells = [_cells(each) for each in ordered]
        return columns, [[each[name] for name in columns] for each in cells]

    try:
        rewrite_table(path, merged)
    except TableError as error:
        raise ResultsError(str(error)) from None
    return model_id


def matching(
    table: pd.DataFrame, head_id: str, test_fingerprint: str, engine: str, also: str = STUDYS_OWN
) -> pd.Series[bool]:
    """Mark the row of a head on a test set, run by an engine.

    Args:
        also: The test set's name, if it is an independent one.
    """
    same_test = (table["test_fingerprint"] == test_fingerprint) & (table["also"] == also)
    return (table["head_id"] == head_id) & same_test & (table["engine"] == engine)


def _read(path: Path) -> tuple[list[str], list[Row]]:
    """Return the columns in their order, and the rows."""
    try:
        table = read_table(path, NEEDED)
    except FileNotFoundError:
        return list(COLUMNS), []
    except TableError as error:
        raise ResultsError(
            f"{path} is not a results file of this version of Frostline: {error}. Move it away, or "
            "choose another --workspace."
        ) from None
    rows = list[Row]()
    for line, cells in zip(table.lines, table.rows, strict=True):
        try:
            rows.append(_row(cells))
        except ValueError as error:
            raise ResultsError(f"{path}, line {line}: {error}. {REMEDY}") from None
    counts = Counter(row["model_id"] for row in rows)
    if twice := [model_id for model_id, count in counts.items() if count > 1]:
        raise ResultsError(f"{path}: two rows have model_id {twice[0]}. {REMEDY}")
    return [*table.columns, *(name for name in LATER if name not in table.columns)], rows


def _row(cells: Mapping[str, str]) -> Row:
    """Return a row of typed values. Raises ValueError: a cell is not what its column holds."""
    row: Row = {name: _value(name, cell) for name, cell in cells.items()}
    row = dict.fromkeys(VALUES) | ADDED | {CHECKSUM: ""} | row
    parts = {name: _json(name, row[name]) for name in JSON}
    classes, matrix = parts["classes"], parts["conf_mat"]
    sides = {len(classes), len(matrix), *map(len, matrix)}
    if len(sides) > 1 or len({*classes}) < len(classes):
        raise ValueError("conf_mat has not one row and column for each of different classes")
    if row["n_test"] < 1 or sum(map(sum, matrix)) != row["n_test"]:
        raise ValueError("conf_mat does not add up to n_test")
    if (groups := row["n_test_groups"]) is not None and not 1 <= groups <= row["n_test"]:
        raise ValueError("n_test_groups is not between 1 and n_test")
    if (groups is None) != (row["accuracy_of_groups"] is None):
        raise ValueError("n_test_groups and accuracy_of_groups are not both there")
    if not WHEN.fullmatch(row["evaluated_at"]):
        raise ValueError("evaluated_at is not a time such as 2026-01-31T12:00:00+00:00")
    if row[CHECKSUM] and row[CHECKSUM] != _checksum(row):
        raise ValueError(f"{CHANGED} (if that was on purpose, empty its {CHECKSUM})")
    return row


def _json(name: str, cell: str) -> Any:
    try:
        return parse_json(cell, JSON[name])
    except RecordError as error:
        raise ValueError(f"{name}: {error}") from None


def _value(name: str, cell: str) -> str | float | None:
    if name not in COLUMNS:
        return cell
    if name in TEXT and not cell:
        raise ValueError(f"{name} is empty")
    if name in TEXT or name == CHECKSUM:
        return restored(cell)
    if not cell and name not in NEVER_EMPTY:
        return None
    try:
        number = as_whole_number(cell) if name in WHOLE else as_number(cell)
    except ValueError as error:
        raise ValueError(f"{name}: {error}" if cell else f"{name} is empty") from None
    if name in SHARES and not 0 <= number <= 1:
        raise ValueError(f"{name} = {cell} is not between 0 and 1")
    if number < 0 or (name in ABOVE_ZERO and number == 0):
        raise ValueError(f"{name} = {cell} is too small")
    return number


def _cells(row: Row) -> dict[str, str]:
    """Return a row as text, with its checksum. Raises ResultsError: nothing could read it again."""
    cells = {name: as_cell(value) for name, value in row.items()}
    cells |= {name: neutral(cells[name]) for name in TEXT} | {CHECKSUM: ""}
    try:
        return cells | {CHECKSUM: _checksum(_row(cells))}
    except ValueError as error:
        raise ResultsError(f"A measured row can't be entered: {error}") from None


def _checksum(row: Row) -> str:
    """Leave out what a row need not say: a row without a later column keeps its checksum."""
    return checksum({name: row[name] for name in VALUES if row[name] != ADDED.get(name)})


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("head_id", "test_fingerprint", "engine", "also"))


def _dtype(name: str, rows: Sequence[Row]) -> str:
    if name in WHOLE and all(row[name] is not None for row in rows):
        return "int64"
    return "object" if name in TEXT or name not in VALUES else "float64"
