"""`results.csv`: one row per data set and configuration, replaced when measured again."""

from collections.abc import Mapping
from json import loads
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from pandas.api.types import is_numeric_dtype

from cache.atomic import replacing
from cache.errors import ResultsError
from evaluate.metrics import METRICS
from evaluate.words import STUDYS_OWN

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

# Columns that earlier versions did not write.
LATER = ("val_calibrated_loss", "n_test_groups", "accuracy_of_groups")

LOCK_TIMEOUT_S = 60

# With pyarrow installed, pandas would keep text as UTF-8 and refuse names that are none.
ANY_NAME = pd.option_context("mode.string_storage", "python")

Row = dict[str, Any]  # one row of results.csv, by column


@ANY_NAME
def read_results(path: Path) -> pd.DataFrame:
    """Read `results.csv`, empty where there is none.

    Raises:
        ResultsError: the file is damaged, or not ours.
    """
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        # An empty cell is a number that there is none of.
        numbers = {name: [""] for name in COLUMNS if name not in TEXT}
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(TEXT, str),
            keep_default_na=False,
            na_values=numbers,
            encoding_errors="surrogateescape",
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} can't be read ({error}): move it away or mend it") from None
    for name in LATER:
        if name not in table.columns:
            table[name] = float("nan")
    for name, value in ADDED.items():
        if name not in table.columns:
            table[name] = value
    if missing := [column for column in COLUMNS if column not in table.columns]:
        raise ResultsError(
            f"{path} is not a results file of this version of Frostline, it lacks "
            f"{', '.join(missing[:5])}: move it away, or choose another --workspace"
        )
    if fault := _fault(table):
        raise ResultsError(f"{path}: {fault}: mend it, or move it away and run evaluate again")
    return table


@ANY_NAME
def add_result(path: Path, row: Mapping[str, Any]) -> int:
    """Add a row without its `model_id`, or replace that of the same head, test set and engine.

    Written whole or not at all, one process at a time. Returns the row's `model_id`.

    Raises:
        ResultsError: the file is damaged or not ours, or another process holds it for a minute.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT_S):
            table = read_results(path)
            key = (row["head_id"], row["test_fingerprint"], row["engine"], row["also"])
            same = matching(table, *key)
            if same.any():
                model_id = int(table.loc[same, "model_id"].iloc[0])
            else:
                model_id = int(table["model_id"].max()) + 1 if len(table) else 1
            rows = [*table[~same].to_dict("records"), {"model_id": model_id, **row}]
            # Columns that a user added stay where they are.
            merged = pd.DataFrame(rows, columns=list(table.columns)).sort_values("model_id")
            with replacing(path) as temporary:
                merged.to_csv(temporary, index=False, lineterminator="\n", errors="surrogateescape")
    except Timeout:
        raise ResultsError(
            f"{path} is being written by another process: wait for it and try again"
        ) from None
    return model_id


def matching(
    table: pd.DataFrame, head_id: str, test_fingerprint: str, engine: str, also: str = STUDYS_OWN
) -> "pd.Series[bool]":
    """Mark the row of a head on a test set, run by an engine. also: the test set's name, if it is
    an independent one.
    """
    same_test = (table["test_fingerprint"] == test_fingerprint) & (table["also"] == also)
    return (table["head_id"] == head_id) & same_test & (table["engine"] == engine)


def _fault(table: pd.DataFrame) -> str | None:
    """Say what is wrong with a table that was edited or cut short, or None."""
    for name in COLUMNS:
        if name not in TEXT and not is_numeric_dtype(table[name]):
            return f"column {name} holds something else than numbers"
        if name in TEXT and (table[name] == "").any():
            return f"column {name} is empty in a row"
    try:
        for name in ("conf_mat", "classes", "stages_ms", "throughput"):
            table[name].map(loads)
    except ValueError:
        return f"column {name} holds no JSON in a row"
    return None
