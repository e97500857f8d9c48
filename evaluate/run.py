"""The evaluation run: every head put on its backbone again, tested, timed, and entered."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from json import dumps
from typing import Any

import numpy as np
import torch

from cache.errors import DatasetError
from cache.progress import Progress, silent
from cache.store import Cache, open_cache, read, stored
from evaluate.measure import Measurement, assemble, measure, reload_backbone
from evaluate.metrics import METRICS, confusion_matrix
from evaluate.predictions import Predictions, predictions_path, write_predictions
from evaluate.results import COLUMNS, add_result
from evaluate.workspace import Workspace
from extract.backbones import BACKBONES
from extract.devices import DEVICES, require_device
from extract.engines import choose_engine
from extract.load import LoadedBackbone
from extract.scan import ImageSet
from heads.architectures import HEADS
from heads.configuration import fingerprint
from heads.files import HeadInfo, SavedHead, load_head
from heads.optimizers import OPTIMIZERS


def check_classes(classes: Sequence[str], test: ImageSet) -> None:
    """Make sure that the test folder can be answered by a model of these classes.

    Raises:
        DatasetError: it has a class that training has not.
    """
    if unknown := sorted({file.label for file in test.files} - set(classes)):
        raise DatasetError(
            f"{test.folder} has the class(es) {', '.join(unknown)}, which training has not "
            f"({', '.join(classes)}): rename or remove the folder, or give another --test"
        )


def in_reference_order(heads: Sequence[SavedHead]) -> list[SavedHead]:
    """Sort as the reference study numbers its models: device, backbone, head, optimizer."""

    def key(saved: SavedHead) -> tuple[Any, ...]:
        info = saved.info
        return (
            list(DEVICES).index(info.identity.device),
            list(BACKBONES).index(info.identity.backbone),
            list(HEADS).index(info.configuration.head),
            list(OPTIMIZERS).index(info.configuration.optimizer),
            info.configuration.seed,
            info.id,
        )

    return sorted(heads, key=key)


def evaluate(
    heads: Sequence[SavedHead],
    test: ImageSet,
    training_hashes: Collection[bytes],
    workspace: Workspace,
    engine: str | None = None,
    weights: str = "auto",
    progress: Progress = silent,
) -> list[int]:
    """Measure whole models on the test images and enter each in `results.csv` as it is done.

    Returns the rows' model_ids, in the reference study's order.

    Raises:
        DatasetError: the test folder has a class that a head has not, or no readable image.
        DeviceError: a head's device or the engine can't be used here.
        WeightsError: a head's backbone can't be had again.
    """
    ids = []
    backbone: LoadedBackbone | None = None
    for done, saved in enumerate(in_reference_order(heads), start=1):
        info = saved.info
        check_classes(info.classes, test)
        require_device(info.identity.device)
        chosen = choose_engine(info.identity.device, engine)
        if backbone is None or backbone.weights_sha256 != info.identity.weights_sha256:
            backbone = reload_backbone(info.identity, info.weights, weights)
        measured = measure(
            assemble(backbone, load_head(saved)),
            [file.path for file in test.unique],
            info.identity.device,
            chosen,
            info.identity.precision,
        )
        difference = _cached_difference(saved, measured, open_cache(workspace.cache, info.identity))
        leaked = sum(file.sha256 in training_hashes for file in test.unique)
        row = {**_row(info, test, measured), "engine": chosen, "n_leaked": leaked}
        row["cached_difference"] = difference
        predictions = _predictions(info, test, measured)
        path = predictions_path(workspace.heads, info.id, row["test_fingerprint"])
        write_predictions(path, predictions, info.classes)
        row |= _scores(predictions)
        ids.append(add_result(workspace.results, {name: row[name] for name in list(COLUMNS)[1:]}))
        progress(done, len(heads))
    return ids


def _predictions(info: HeadInfo, test: ImageSet, measured: Measurement) -> Predictions:
    label_of = {file.path: file.label for file in test.unique}
    labels = [info.classes.index(label_of[path]) for path in measured.paths]
    return Predictions(
        measured.paths, measured.hashes, np.array(labels, np.int64), measured.probabilities
    )


def _scores(predictions: Predictions) -> dict[str, Any]:
    labels, probabilities = predictions.labels, predictions.probabilities
    scores: dict[str, Any] = {
        name: round(metric(labels, probabilities), 6) for name, metric in METRICS.items()
    }
    return scores | {"conf_mat": dumps(confusion_matrix(labels, probabilities))}


def _row(info: HeadInfo, test: ImageSet, measured: Measurement) -> dict[str, Any]:
    configuration = info.configuration
    return {
        "hardware_type": info.identity.device,
        "pretrained_model": info.identity.backbone,
        "classifier_head": configuration.head,
        "opt_alg": configuration.optimizer,
        "training_time_mins": round(info.training_seconds / 60, 6),
        "inference_time_secs": round(measured.seconds, 6),
        "val_accuracy": round(info.curves["validation_accuracy"][-1], 6),
        "val_loss": round(info.curves["validation_loss"][-1], 6),
        "dataset": info.dataset,
        "dataset_fingerprint": info.dataset_fingerprint,
        "test": test.name,
        "test_fingerprint": fingerprint(test.labels),
        "classes": dumps(info.classes),
        "n_training": info.n_training,
        "n_validation": info.n_validation,
        "n_test": len(measured.paths),
        "n_unreadable": len(measured.failed) + len(test.unopened),
        "weights": info.weights,
        "numeric_precision": info.identity.precision,
        "learning_rate": configuration.learning_rate,
        "momentum": configuration.momentum,
        "epochs": configuration.epochs,
        "batch_size": configuration.batch_size,
        "seed": configuration.seed,
        "embedding_time_mins": round(info.embedding_seconds / 60, 6),
        "warmup_time_secs": round(measured.warmup_seconds, 6),
        "head_id": info.id,
        "evaluated_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cached_difference(saved: SavedHead, measured: Measurement, cache: Cache) -> float | None:
    """Largest difference to the head's logits on the cached rows, relative to the largest logit.

    None where the test images were never extracted.
    """
    if not stored(cache).issuperset(measured.hashes):
        return None
    cached = load_head(saved)(torch.from_numpy(read(cache, measured.hashes))).numpy()
    return float(f"{np.abs(measured.logits - cached).max() / np.abs(cached).max():.3g}")
