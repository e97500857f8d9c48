"""A workspace with everything that a report can show, made of the committed caches in a second.

Heads are trained on real embeddings and asked about real images; only times are made up.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from cache.store import Cache, read
from evaluate import result_row
from evaluate.audit.audit import audit
from evaluate.explanation.gradcam import Maps, maps_path, write_maps
from evaluate.leaderboard import studies
from evaluate.predictions import Predictions, predictions_path, write_predictions
from evaluate.report.context import read_answers
from evaluate.results import COLUMNS, TEXT, VALUES, WHOLE, add_result
from evaluate.uncertainty.scores import Uncertainty, doubt_path, write_doubt
from evaluate.workspace.layout import Workspace
from extract.dataset import ImageSet, scan
from heads.config import HeadConfig, fingerprint
from heads.search.space import SearchPlan
from heads.store import TrainedHead
from heads.training import train_heads
from tests.conftest import ROOT

SWEEP = SearchPlan(
    (
        HeadConfig("single", "adam"),
        HeadConfig("single", "sgd"),
        HeadConfig("multi", "adam"),
        HeadConfig("knn", "none"),
    ),
    seeds=2,
)
NOT_TIMED = 7  # head of each cache
MISTAKE, LEAKED = 3, 5  # test images: one with the wrong label, one that is no longer to be counted
ELSEWHERE = "old scanner"
EVIL = "<script>alert(1)</script>"


def row(head: str, **values: Any) -> dict[str, Any]:
    """Return a row as `add_result` takes it: 21 of 22 right, and no file beside it."""
    numbers: dict[str, Any] = {name: 1 if name in WHOLE else 0.5 for name in VALUES[1:]}
    return (
        numbers
        | dict.fromkeys(TEXT, "x")
        | {
            "hardware_type": "cpu",
            "pretrained_model": "resnet18",
            "classifier_head": "single",
            "opt_alg": "adam",
            "accuracy": 21 / 22,
            "accuracy_with_leaked": 21 / 22,
            "conf_mat": "[[10, 1], [0, 11]]",
            "classes": json.dumps(["gel", EVIL]),
            "stages_ms": "{}",
            "throughput": "{}",
            "dataset": "gel/dataset",
            "test": "gel/test_images",
            "dataset_fingerprint": "d1",
            "test_fingerprint": "t1",
            "n_training": 74,
            "n_validation": 18,
            "n_test": 22,
            "n_test_groups": values.get("n_test", 22),
            "cached_difference": 1e-6,
            "n_leaked": 0,
            "n_unreadable": 0,
            "weights": "imagenet",
            "engine": "torch",
            "numeric_precision": "fp32",
            "selected_by": "the only candidate",
            "mode": "frozen",
            "also": "-",
            "seed": 0,
            "evaluated_at": "2026-01-01T00:00:00+00:00",
            "head_id": head,
            **values,
        }
    )


def reported(root: Path, caches: Iterable[Cache], sweep: SearchPlan = SWEEP) -> Workspace:
    """Fill a workspace with heads on these caches, their answers, an audit, maps and doubt."""
    place = Workspace(root)
    training, testing = scan(ROOT / "dataset"), scan(ROOT / "test_images")
    for cache in caches:
        shutil.copytree(cache.folder, place.cache / cache.folder.name)
        heads = train_heads(cache, training.labels, training.name, sweep, place.heads).heads
        for number, saved in enumerate(heads):
            answers = _answers(saved, cache, testing)
            _enter(place, saved, answers, testing, number)
            _enter_elsewhere(place, saved, answers, testing)
            write_maps(maps_path(place.heads, saved.info.id), _maps(answers))
            _write_doubt(place, saved)
    audit(training, testing, place)
    return place


def _answers(saved: TrainedHead, cache: Cache, testing: ImageSet) -> Predictions:
    files = testing.unique
    hashes = tuple(file.sha256 for file in files)
    with torch.inference_mode():
        logits = saved.module()(torch.tensor(read(cache, hashes))).numpy()
    labels = np.array([saved.info.classes.index(file.label) for file in files], np.int64)
    labels[MISTAKE] = 1 - labels[MISTAKE]
    leaked = np.arange(len(files)) == LEAKED
    chances = softmax(logits.astype(np.float64), axis=1)
    return Predictions(tuple(file.path for file in files), hashes, labels, chances, leaked)


def _enter(
    place: Workspace, saved: TrainedHead, answers: Predictions, testing: ImageSet, number: int
) -> None:
    info, engine = saved.info, "openvino" if saved.info.identity.device == "cpu" else "xla"
    known = fingerprint(testing.labels)
    path = predictions_path(place.heads, info.id, known, engine)
    write_predictions(path, answers, info.classes)
    slow = 1.0 if engine == "openvino" else 9.0
    stages = {"read": 0.1, "decode": 0.9, "backbone": slow * 6, "head": 0.1 + number / 10}
    total = sum(stages.values())
    times = {
        "latency_p50_ms": None if number == NOT_TIMED else total,
        "latency_p90_ms": total * 1.3,
        "latency_p99_ms": total * 2,
        "stages_ms": json.dumps(stages),
        "throughput": json.dumps({"1": 150 / slow, "4": 190 / slow}),
        "threads": 2,
        "peak_memory_mib": 900,
        "size_mib": 13 + number,
        "parameters": 4_000_000,
        "flops": 780_000_000,
        "inference_time_secs": total / 40,
        "warmup_time_secs": 0.4,
        "cached_difference": 1e-6,
        "engine": engine,
        "evaluated_at": "2026-01-01T00:00:00+00:00",
    }
    tested = {"test": testing.name, "test_fingerprint": known, "also": "-", "n_unreadable": 0}
    columns = (
        result_row.origin(info) | result_row.scores(answers, info.temperature) | tested | times
    )
    add_result(place.results, {name: columns.get(name) for name in list(COLUMNS)[1:]})


def _enter_elsewhere(
    place: Workspace, saved: TrainedHead, answers: Predictions, testing: ImageSet
) -> None:
    """Enter the same model on an independent set: of the same images, half under other labels."""
    info, engine = saved.info, "openvino" if saved.info.identity.device == "cpu" else "xla"
    labels = np.where(np.arange(len(answers.labels)) % 2, answers.labels, 1 - answers.labels)
    scored = result_row.scores(replace(answers, labels=labels), info.temperature)
    other = {"test": "scans", "test_fingerprint": "0" * 16, "also": ELSEWHERE, "engine": engine}
    columns = result_row.origin(info) | scored | other | {"n_unreadable": 0}
    columns |= {"stages_ms": "{}", "throughput": "{}", "evaluated_at": "2026-01-02T00:00:00+00:00"}
    add_result(place.results, {name: columns.get(name) for name in list(COLUMNS)[1:]})


def enter_whole(place: Workspace) -> None:
    """Enter models trained as a whole beside the best frozen one, which they beat or don't."""
    best = studies(place.results)[0].best
    answers = read_answers(best, place)
    assert answers is not None
    flipped = replace(answers, probabilities=answers.probabilities[:, ::-1])
    for mode, said, minutes in (("finetune", answers, 31.0), ("scratch", flipped, 45.0)):
        head = f"{best['head_id']}-{mode}"
        key = (head, best["test_fingerprint"], best["engine"])
        write_predictions(predictions_path(place.heads, *key), said, json.loads(best["classes"]))
        columns = best | result_row.scores(said, 1.0) | {"head_id": head, "mode": mode}
        columns |= {"training_time_mins": minutes, "embedding_time_mins": 0.0, "val_accuracy": 0.5}
        if mode == "scratch":
            columns["weights"] = "random:0"
        add_result(place.results, {name: columns[name] for name in list(COLUMNS)[1:]})


def _maps(answers: Predictions) -> Maps:
    spots = np.random.default_rng(0).integers(0, 255, (len(answers.hashes), 7, 7), np.uint8)
    return Maps(answers.hashes, spots)


def _write_doubt(place: Workspace, saved: TrainedHead) -> None:
    doubt = Uncertainty(
        chosen="neighbour",
        power={"margin": 0.71, "confidence": 0.7, "mahalanobis": 0.8, "neighbour": 0.93},
        material={"clean": 18, "blurred": 18},
        errors=7,
        threshold=0.3,
        flagged_right=0.05,
        flagged_errors=0.8,
    )
    write_doubt(doubt_path(place.heads, saved.info.id), doubt, {})
