"""The evaluation run: every head put on its backbone again, tested, timed, and entered."""

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from json import dumps
from typing import Any

import numpy as np
import torch
from torch import nn

from cache.errors import DatasetError, WeightsError
from cache.progress import Progress, silent
from cache.store import Cache, contents, open_cache, read
from evaluate.measure import Answers, Measurement, measure, reload_backbone
from evaluate.metrics import METRICS, confusion_matrix
from evaluate.predictions import Predictions, predictions_path, write_predictions
from evaluate.results import COLUMNS, Row, add_result, matching, read_results
from evaluate.workspace import Workspace
from extract.backbones import BACKBONES
from extract.devices import DEVICES, require_device
from extract.engines import usable_engines
from extract.scan import ImageSet
from extract.target import Target, engines_folder, target_of
from heads.architectures import HEADS
from heads.configuration import NO_OPTIMIZER, fingerprint
from heads.files import HeadInfo, SavedHead, load_head
from heads.optimizers import OPTIMIZERS

# Fields of a configuration that are columns of the same name.
SETTINGS = (
    *("learning_rate", "momentum", "weight_decay", "schedule", "gamma", "warmup", "epochs"),
    *("patience", "batch_size", "balance", "views", "seed"),
)


# Of these, the ones that a fitted head has not.
NUMBERS = ("learning_rate", "momentum", "gamma", "warmup", "epochs", "patience", "batch_size")


def check_classes(classes: Collection[str], test: ImageSet) -> None:
    """Make sure that the test folder can be answered by a model of these classes.

    Raises:
        DatasetError: it has a class that training has not, or no image with one label.
    """
    if unknown := sorted({file.label for file in test.files} - set(classes)):
        raise DatasetError(
            f"{test.folder} has the class(es) {', '.join(unknown)}, which training has not "
            f"({', '.join(sorted(classes))}): rename or remove the folder, or give another --test"
        )
    if not test.unique:
        raise DatasetError(f"{test.folder}: every image there lies in two classes: keep it in one")


def in_reference_order(heads: Sequence[SavedHead]) -> list[SavedHead]:
    """Sort as the reference study numbers its models: device, backbone, head, optimizer."""

    def key(saved: SavedHead) -> tuple[Any, ...]:
        info = saved.info
        return (
            list(DEVICES).index(info.identity.device),
            list(BACKBONES).index(info.identity.backbone),
            info.identity.digest,
            list(HEADS).index(info.configuration.head),
            [*OPTIMIZERS, NO_OPTIMIZER].index(info.configuration.optimizer),
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
    remark: Callable[[str], None] = lambda text: None,
) -> list[int]:
    """Measure whole models on the test images and enter each in `results.csv`.

    Heads of one cache are measured behind the same run of their backbone, then entered. Returns the
    rows' model_ids, in the reference study's order. progress counts images. remark: is told of
    engines that gave way. A backbone whose weights can't be had costs its own models only; the
    error comes at the end.

    Raises:
        DatasetError: the test folder has a class that a head has not, or no readable image.
        DeviceError: a head's device or the engine can't be used here.
        WeightsError: a head's backbone can't be had again.
    """
    ids, refused = list[int](), list[str]()
    images, shelf = len(test.unique), engines_folder(workspace.cache)
    leaked = sum(file.sha256 in training_hashes for file in test.unique)
    groups = [list(them) for _, them in groupby(in_reference_order(heads), _cache_of)]
    for number, group in enumerate(groups):
        info = group[0].info
        for saved in group:
            check_classes(saved.info.classes, test)
        require_device(info.identity.device)
        try:
            backbone = reload_backbone(info.identity, info.weights, weights, shelf)
        except WeightsError as error:
            refused.append(str(error))
            continue
        engines = usable_engines(info.identity.device, engine, info.identity.precision)
        within = partial(_within, progress, number * images, len(groups) * images)
        target = target_of(info.identity, backbone, engines)
        for row in _measured(group, target, test, workspace, within, remark):
            row["n_leaked"] = leaked
            entry = {name: row[name] for name in list(COLUMNS)[1:]}
            ids.append(add_result(workspace.results, entry))
    if refused:
        reasons = "\n".join(refused)
        raise WeightsError(f"{len(heads) - len(ids)} of {len(heads)} models left out:\n{reasons}")
    return ids


def _cache_of(saved: SavedHead) -> str:
    return saved.info.identity.digest


def _within(progress: Progress, before: int, all_of_them: int, done: int, total: int) -> None:
    """Tell the progress of one backbone as a part of all progress."""
    progress(before + done, all_of_them)


def unmeasured(
    heads: Sequence[SavedHead], test: ImageSet, workspace: Workspace, engine: str | None
) -> list[SavedHead]:
    """Return the heads not yet measured on these images, by this engine, in this very workspace."""
    results, known = read_results(workspace.results), fingerprint(test.labels)

    def measured(saved: SavedHead) -> bool:
        key = (saved.info.id, known, _first_engine(saved, engine))
        rows = results[matching(results, *key)]
        same_choice = rows["selected_by"] == saved.info.selection.rule
        same_folds = rows["cv_accuracy"].fillna(-1) == (saved.info.selection.cv_accuracy or -1)
        row_is_there = bool((same_choice & same_folds).any())
        return row_is_there and predictions_path(workspace.heads, *key).exists()

    return [saved for saved in heads if not measured(saved)]


def _first_engine(saved: SavedHead, engine: str | None) -> str:
    identity = saved.info.identity
    return usable_engines(identity.device, engine, identity.precision)[0]


def _measured(
    heads: Sequence[SavedHead],
    target: Target,
    test: ImageSet,
    workspace: Workspace,
    progress: Progress,
    remark: Callable[[str], None],
) -> list[Row]:
    """Measure the heads of one cache, keep their predictions, return their rows but `n_leaked`."""
    modules = [load_head(saved) for saved in heads]
    paths = [file.path for file in test.unique]
    measured = measure(target, modules, paths, progress, engines_folder(workspace.cache))
    for trouble in measured.trouble:
        remark(f"{trouble}; {measured.engine} was measured instead")
    cached = _cached(measured, open_cache(workspace.cache, target.identity))
    rows = []
    for saved, module, answers in zip(heads, modules, measured.answers, strict=True):
        info = saved.info
        predictions = _predictions(info, test, measured, answers)
        row = _row(info, test, measured) | _scores(predictions)
        path = predictions_path(workspace.heads, info.id, row["test_fingerprint"], measured.engine)
        write_predictions(path, predictions, info.classes)
        rows.append(
            row
            | {
                "engine": measured.engine,
                "inference_time_secs": round(measured.seconds + answers.seconds, 6),
                "cached_difference": _difference(module, answers, cached),
            }
        )
    return rows


def _predictions(
    info: HeadInfo, test: ImageSet, measured: Measurement, answers: Answers
) -> Predictions:
    label_of = {file.path: file.label for file in test.unique}
    labels = [info.classes.index(label_of[path]) for path in measured.paths]
    return Predictions(
        measured.paths, measured.hashes, np.array(labels, np.int64), answers.probabilities
    )


def _scores(predictions: Predictions) -> dict[str, Any]:
    labels, probabilities = predictions.labels, predictions.probabilities
    scores: dict[str, Any] = {
        name: round(metric.score(labels, probabilities), 6) for name, metric in METRICS.items()
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
        "val_accuracy": round(info.curves["validation_accuracy"][info.epoch], 6),
        "val_loss": round(info.curves["validation_loss"][info.epoch], 6),
        "selected_by": info.selection.rule,
        "cv_accuracy": info.selection.cv_accuracy,
        "cv_spread": info.selection.cv_spread,
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
        **{name: getattr(configuration, name) for name in SETTINGS},
        **dict.fromkeys(NUMBERS if HEADS[configuration.head].fitted else ()),
        "weight_decay": configuration.weight_decay,
        "nesterov": int(configuration.nesterov),
        "embedding_time_mins": round(info.embedding_seconds / 60, 6),
        "warmup_time_secs": round(measured.warmup_seconds, 6),
        "head_id": info.id,
        "evaluated_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cached(measured: Measurement, cache: Cache) -> torch.Tensor | None:
    """Return the cached rows of what was measured, or None: the images were never extracted."""
    if not contents(cache).stored.issuperset(measured.hashes):
        return None
    return torch.tensor(read(cache, measured.hashes))


def _difference(head: nn.Module, answers: Answers, cached: torch.Tensor | None) -> float | None:
    """Largest difference to the head's logits on the cached rows, relative to the largest logit."""
    if cached is None:
        return None
    with torch.inference_mode():
        expected = head(cached).numpy()
    return float(f"{np.abs(answers.logits - expected).max() / np.abs(expected).max():.3g}")
