"""One measured model → its row of `results.csv`."""

from collections.abc import Iterable
from datetime import UTC, datetime
from json import dumps
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cache.store import Cache, read, summarize
from evaluate.benchmark.timing import Timing, size_of
from evaluate.classifier import Answers, Measurement
from evaluate.metrics import METRICS, confusion_matrix, cross_entropy
from evaluate.predictions import Predictions
from evaluate.results import OWN
from evaluate.statistics.calibration import calibrated, ece
from evaluate.test_set import TestSet
from extract.embedding_spec import normalization_of, preprocessing_of
from extract.imaging.preprocessing import FULL_SCALE
from heads.architectures import HEADS
from heads.config import fingerprint
from heads.splits import NO_GROUPS, Groups
from heads.store import HeadInfo, TrainedHead

# Fields of a configuration that are columns of the same name.
SETTINGS = (
    *("learning_rate", "momentum", "weight_decay", "schedule", "gamma", "warmup", "epochs"),
    *("patience", "batch_size", "balance", "views", "seed"),
)
# Of these, the ones that a fitted head has not.
NUMBERS = ("learning_rate", "momentum", "gamma", "warmup", "epochs", "patience", "batch_size")


def distinct(hashes: Iterable[bytes], repeats: Groups) -> int:
    """Count images, near duplicates once.

    Args:
        repeats: The group of each image that has one.
    """
    return len({repeats.get(key, key) for key in hashes})


def scores(
    predictions: Predictions, temperature: float, repeats: Groups = NO_GROUPS
) -> dict[str, Any]:
    """Return the columns that say how good the answers are, leaked images left out.

    Args:
        repeats: Near duplicates among the test images.
    """
    clean = predictions.clean
    labels, probabilities = clean.labels, clean.probabilities
    found: dict[str, Any] = {
        name: round(metric.score(labels, probabilities), 6) for name, metric in METRICS.items()
    }
    with_leaked = METRICS["accuracy"].score(predictions.labels, predictions.probabilities)
    return found | {
        "loss": round(cross_entropy(labels, probabilities), 6),
        "conf_mat": dumps(confusion_matrix(labels, probabilities)),
        "accuracy_with_leaked": round(with_leaked, 6),
        "ece": round(ece(labels, probabilities), 6),
        "ece_calibrated": round(ece(labels, calibrated(probabilities, temperature)), 6),
        "n_test": len(clean.paths),
        "n_test_groups": distinct(clean.hashes, repeats),
        "accuracy_of_groups": round(_accuracy_of_groups(clean, repeats), 6),
        "n_leaked": int(predictions.leaked.sum()),
    }


def _accuracy_of_groups(predictions: Predictions, repeats: Groups) -> float:
    """Return the mean over groups of the share of images classified rightly."""
    right = predictions.probabilities.argmax(1) == predictions.labels
    groups: dict[int | bytes, list[bool]] = {}
    for key, correct in zip(predictions.hashes, right.tolist(), strict=True):
        groups.setdefault(repeats.get(key, key), []).append(correct)
    return float(np.mean([np.mean(answers) for answers in groups.values()]))


def origin(info: HeadInfo) -> dict[str, Any]:
    """Return the columns that say what a head is and where it comes from."""
    configuration, selection = info.configuration, info.selection
    return {
        "hardware_type": info.identity.device,
        "pretrained_model": info.identity.backbone,
        "classifier_head": configuration.head,
        "opt_alg": configuration.optimizer,
        "training_time_mins": round(info.training_seconds / 60, 6),
        "temperature": round(info.temperature, 6),
        "val_accuracy": round(info.curves["validation_accuracy"][info.epoch], 6),
        "val_loss": round(info.curves["validation_loss"][info.epoch], 6),
        "val_calibrated_loss": _rounded(info.calibrated_loss),
        "mode": info.mode,
        "selected_by": selection.rule,
        "cv_accuracy": selection.cv_accuracy,
        "cv_spread": selection.cv_spread,
        "cv_accuracy_ungrouped": selection.cv_ungrouped,
        "dataset": info.dataset,
        "dataset_fingerprint": info.dataset_fingerprint,
        "classes": dumps(info.classes),
        "n_training": info.n_training,
        "n_validation": info.n_validation,
        "n_groups": info.n_groups,
        "weights": info.network.start if info.network else info.weights,
        "numeric_precision": info.identity.precision,
        "fit": preprocessing_of(info.identity).fit,
        "normalization": normalization_of(info.identity),
        "full_scale": _full_scale(info),
        "augmentation": _augmentation(info),
        **{name: getattr(configuration, name) for name in SETTINGS},
        **dict.fromkeys(NUMBERS if HEADS[configuration.head].fitted else ()),
        "weight_decay": configuration.weight_decay,
        "nesterov": int(configuration.nesterov),
        "embedding_time_mins": round(info.embedding_seconds / 60, 6),
        "head_id": info.id,
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 6)


def _full_scale(info: HeadInfo) -> str:
    white = preprocessing_of(info.identity).full_scale
    return OWN if white == FULL_SCALE else str(white)


def _augmentation(info: HeadInfo) -> str:
    if info.network:
        return info.network.augmentation
    return preprocessing_of(info.identity).augmentation if info.configuration.views else "none"


def measured(test: TestSet, measurement: Measurement, answers: Answers) -> dict[str, Any]:
    """Return the columns that say what was measured, and how long it took."""
    return {
        "test": test.images.name,
        "test_fingerprint": fingerprint(test.images.labels),
        "also": test.name,
        "n_unreadable": len(measurement.failed) + len(test.images.unopened),
        "engine": measurement.engine,
        "inference_time_secs": round(measurement.seconds + answers.seconds, 6),
        "warmup_time_secs": round(measurement.warmup_seconds, 6),
        "evaluated_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def costs(timing: Timing, backbone: str, head: nn.Module) -> dict[str, Any]:
    """Return the columns that say what a whole model costs."""
    size, peak = size_of(backbone, head), timing.peak_memory_mib
    return {
        "latency_p50_ms": round(timing.p50_ms, 3),
        "latency_p90_ms": round(timing.p90_ms, 3),
        "latency_p99_ms": round(timing.p99_ms, 3),
        "stages_ms": dumps({name: round(ms, 3) for name, ms in timing.stages_ms.items()}),
        "throughput": dumps({str(n): round(rate, 2) for n, rate in timing.throughput.items()}),
        "threads": timing.threads,
        "peak_memory_mib": None if peak is None else round(peak),
        "size_mib": round(size.mib, 3),
        "parameters": size.parameters,
        "flops": size.flops,
    }


def cached_rows(measurement: Measurement, cache: Cache) -> NDArray[np.float32] | None:
    """Return the cached rows of what was measured, or None: the images were never extracted."""
    if not summarize(cache).stored.issuperset(measurement.hashes):
        return None
    return read(cache, measurement.hashes)


def difference(
    head: TrainedHead, answers: Answers, cached: NDArray[np.float32] | None
) -> float | None:
    """Largest difference to the head's logits on the cached rows, relative to the largest logit."""
    if cached is None:
        return None
    expected = head.logits(cached)
    return float(f"{np.abs(answers.logits - expected).max() / np.abs(expected).max():.3g}")
