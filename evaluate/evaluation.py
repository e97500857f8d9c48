"""The evaluation run: every head put on its backbone again, tested, timed, and entered."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from cache.errors import DatasetError, WeightsError
from cache.progress import Progress, silent
from cache.store import open_cache
from evaluate import result_row
from evaluate.backbone_loader import ModelLoader
from evaluate.benchmark.timing import time_models
from evaluate.classifier import Answers, Measurement, measure
from evaluate.explanation.gradcam import Maps, activation_maps, maps_path, write_maps
from evaluate.predictions import Predictions, are_whole, predictions_path, write_predictions
from evaluate.ranking import ranked
from evaluate.results import VALUES, Row, add_result, matching, read_results
from evaluate.test_set import TestSet, check_classes
from evaluate.workspace.layout import Workspace
from extract.backbones import BACKBONES
from extract.backends.backend import usable_engines
from extract.devices import DEVICES, usable_cores
from extract.embedding_spec import EmbeddingSpec, engine_artifacts
from extract.loader import CHANGED, decode_files, make_batch
from heads.architectures import HEADS
from heads.config import NO_OPTIMIZER, fingerprint
from heads.optimizers import OPTIMIZERS
from heads.store import TrainedHead

TIMING_S = 0.5  # for single images, and for each batch size
MAPPED = 8  # test images, the mistakes first, of which the best model's activation is mapped


def in_reference_order(heads: Sequence[TrainedHead]) -> list[TrainedHead]:
    """Sort as the reference study numbers its models: device, backbone, head, optimizer."""

    def key(saved: TrainedHead) -> tuple[Any, ...]:
        info = saved.info
        return (
            list(DEVICES).index(info.identity.device),
            _place(info.identity.backbone),
            info.identity.digest,
            list(HEADS).index(info.configuration.head),
            [*OPTIMIZERS, NO_OPTIMIZER].index(info.configuration.optimizer),
            info.configuration.seed,
            info.id,
        )

    return sorted(heads, key=key)


def _place(backbone: str) -> tuple[int, str]:
    """Return where a backbone comes: as in the table, then those of families by name."""
    names = list(BACKBONES)
    return (names.index(backbone) if backbone in names else len(names)), backbone


def evaluate(
    heads: Sequence[TrainedHead],
    test: TestSet,
    loader: ModelLoader,
    progress: Progress = silent,
    remark: Callable[[str], None] = lambda text: None,
) -> list[int]:
    """Measure whole models on the test images and enter each in `results.csv`.

    Heads of one cache are measured behind the same run of their backbone, then entered; of the best
    of them, activation is mapped. A backbone whose weights are missing costs its own models only:
    the error comes at the end.

    Args:
        progress: Counts images.
        remark: Receives a line about each engine that could not be used.

    Returns:
        The rows' model_ids, in the reference study's order.

    Raises:
        DatasetError: the test set has a class that a head does not know, or no image to test on.
        DeviceError: a head's device or the engine cannot be used here.
        WeightsError: a head's backbone cannot be loaded again.
    """
    ids, refused = list[int](), list[str]()
    test.check()
    images, results = len(test.images.unique), loader.workspace.results
    groups = [list(them) for _, them in groupby(in_reference_order(heads), _cache_of)]
    for number, group in enumerate(groups):
        info = group[0].info
        for saved in group:
            check_classes(saved.info.classes, test.images)
        try:
            spec = loader.spec(info)
        except WeightsError as error:
            refused += error.lines
            continue
        within = partial(_within, progress, number * images, len(groups) * images)
        for row in _measured(group, spec, test, loader.workspace, within, remark):
            ids.append(add_result(results, {name: row[name] for name in VALUES[1:]}))
    if refused:
        left_out = len(heads) - len(ids)
        raise WeightsError(f"{left_out} of {len(heads)} models left out:", *refused)
    return ids


def _cache_of(saved: TrainedHead) -> str:
    return saved.info.identity.digest


def _within(progress: Progress, before: int, all_of_them: int, done: int, total: int) -> None:
    """Tell the progress of one backbone as a part of all progress."""
    progress(before + done, all_of_them)


def unmeasured(
    heads: Sequence[TrainedHead], test: TestSet, loader: ModelLoader
) -> list[TrainedHead]:
    """Return the heads not yet measured on these images, by this engine, in this very workspace,
    with as many images left out as leaked, or counted as repeats.
    """
    workspace, labels = loader.workspace, test.images.labels
    results, known = read_results(workspace.results), fingerprint(labels)
    counted_twice = len(test.counted) - result_row.distinct(test.counted, test.repeats)

    def measured(saved: TrainedHead) -> bool:
        key = (saved.info.id, known, _first_engine(saved, loader.engine))
        found = results[matching(results, *key, test.name)]
        same_choice = found["selected_by"] == saved.info.selection.rule
        same_folds = found["cv_accuracy"].fillna(-1) == (saved.info.selection.cv_accuracy or -1)
        same_images = found["n_leaked"] == len(labels) - len(test.counted)
        same_head = (found["temperature"] - saved.info.temperature).abs() < 1e-5
        if saved.info.calibrated_loss is not None:  # earlier versions did not enter it
            same_head &= found["val_calibrated_loss"].notna()
        same_images &= found["n_test"] - found["n_test_groups"] == counted_twice
        row_is_there = bool((same_choice & same_folds & same_images & same_head).any())
        return row_is_there and are_whole(predictions_path(workspace.heads, *key))

    return [saved for saved in heads if not measured(saved)]


def _first_engine(saved: TrainedHead, engine: str | None) -> str:
    key = saved.info.identity
    return usable_engines(key.device, engine, key.precision)[0]


def _measured(
    heads: Sequence[TrainedHead],
    spec: EmbeddingSpec,
    test: TestSet,
    workspace: Workspace,
    progress: Progress,
    remark: Callable[[str], None],
) -> list[Row]:
    """Measure the heads of one cache, keep their predictions, return their rows."""
    loaded, artifacts = [head.load() for head in heads], engine_artifacts(workspace.cache)
    hashes = {file.path: file.sha256 for file in test.images.unique}
    measured = measure(spec, loaded, list(hashes), progress, artifacts, hashes)
    for failure in measured.failed:
        if failure.reason == CHANGED:
            remark(f"{failure.path} is left out: {failure.reason}")
    if all(key in test.leaked for key in measured.hashes):
        raise DatasetError(f"{test.images.folder}: all that can be read there is in training too")
    for trouble in measured.trouble:
        remark(f"{trouble}; {measured.engine} was measured instead")
    as_measured = replace(spec, engines=(measured.engine,))
    modules = [head.module() for head in loaded]
    timings = time_models(as_measured, modules, measured.paths, artifacts, TIMING_S)
    cached = result_row.cached_rows(measured, open_cache(workspace.cache, spec.key))
    done, said = list[Row](), list[Predictions]()
    for head, module, answers, timing in zip(
        loaded, modules, measured.answers, timings, strict=True
    ):
        info = head.info
        predictions = _predictions(info.classes, test, measured, answers)
        row = result_row.origin(info) | result_row.measured(test, measured, answers)
        path = predictions_path(workspace.heads, info.id, row["test_fingerprint"], measured.engine)
        write_predictions(path, predictions, info.classes)
        row |= result_row.scores(predictions, info.temperature, test.repeats)
        row |= result_row.costs(timing, info.identity.backbone, module)
        row["cached_difference"] = result_row.difference(head, answers, cached)
        done.append(row)
        said.append(predictions)
    first = ranked(done)[0]
    best = next(number for number, row in enumerate(done) if row is first)
    if test.is_own:  # a model has maps of one set, which the report shows
        _map_activation(spec, heads[best], said[best], workspace)
    return done


def _predictions(
    classes: Sequence[str], test: TestSet, measured: Measurement, answers: Answers
) -> Predictions:
    label_of = {file.path: file.label for file in test.images.unique}
    labels = [classes.index(label_of[path]) for path in measured.paths]
    in_training = [key in test.leaked for key in measured.hashes]
    return Predictions(
        tuple(path.absolute() for path in measured.paths),  # to be found from any folder
        measured.hashes,
        np.array(labels, np.int64),
        answers.probabilities,
        np.array(in_training, np.bool_),
    )


def _map_activation(
    spec: EmbeddingSpec, saved: TrainedHead, predictions: Predictions, workspace: Workspace
) -> None:
    """Map what a model looked at in some test images, the mistakes first; keep the maps."""
    probabilities = predictions.probabilities
    right = probabilities.argmax(1) == predictions.labels
    order = np.lexsort((probabilities.max(1), right))[:MAPPED]
    some = make_batch(
        decode_files(
            [predictions.paths[i] for i in order], usable_cores(), MAPPED, spec.preprocessing
        )
    )
    maps = activation_maps(spec.backbone, saved.module(), some.pixels)
    write_maps(maps_path(workspace.heads, saved.info.id), Maps(some.hashes, maps))
