"""What TensorBoard reads is what the saved heads say of themselves."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from cache.errors import DeviceError
from cache.store import Cache
from evaluate.export import tensorboard
from evaluate.export.tensorboard import write_tensorboard
from extract.dataset import scan
from heads.search.space import SearchPlan, combinations
from heads.store import Selection, TrainedHead
from heads.training import train_heads
from tests.conftest import ROOT

CURVES = {
    "loss/training": "training_loss",
    "loss/validation": "validation_loss",
    "accuracy/training": "training_accuracy",
    "accuracy/validation": "validation_accuracy",
}


@pytest.fixture(scope="module")
def heads(caches: dict[str, Cache], tmp_path_factory: pytest.TempPathFactory) -> list[TrainedHead]:
    """Two heads trained for 12 epochs at most, or until they get no better, and one fitted."""
    asked: dict[str, list[Any]] = {
        "head": ["single", "ridge"],
        "optimizer": ["adam", "sgd"],
        "epochs": [12],
        "patience": [2],
        "learning_rate": [0.03],
        "weight_decay": [0.1],
    }
    sweep = SearchPlan(tuple(combinations(asked)))
    root, labels = tmp_path_factory.mktemp("heads"), scan(ROOT / "dataset").labels
    return list(train_heads(caches["cpu"], labels, "dataset", sweep, root).heads)


def read(run: Path) -> EventAccumulator:
    """Load everything in a run's folder, as TensorBoard does."""
    return EventAccumulator(str(run)).Reload()


def scalars(run: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(run).Scalars(tag)]


def hyperparameters(run: Path) -> dict[str, Any]:
    content = read(run).PluginTagToContent("hparams")["_hparams_/session_start_info"]
    values = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}


def test_curves_are_there_by_epoch(heads: list[TrainedHead], tmp_path: Path) -> None:
    runs = write_tensorboard(heads, tmp_path)
    assert [run.name for run in runs] == [saved.info.id for saved in heads]
    assert set(tmp_path.iterdir()) == set(runs)
    for saved, run in zip(heads, runs, strict=True):
        for tag, name in CURVES.items():
            steps, values = zip(*scalars(run, tag), strict=True)
            assert steps == tuple(range(1, len(steps) + 1))
            assert list(values) == pytest.approx(saved.info.curves[name], rel=1e-6)


def test_settings_are_there_but_for_those_that_mean_nothing(
    heads: list[TrainedHead], tmp_path: Path
) -> None:
    by_kind = {
        (s.info.configuration.head, s.info.configuration.optimizer): hyperparameters(run)
        for s, run in zip(heads, write_tensorboard(heads, tmp_path), strict=True)
    }
    adam, sgd = by_kind["single", "adam"], by_kind["single", "sgd"]
    assert adam["backbone"] == "efficientnet_lite0"
    assert (adam["weights"], adam["device"], adam["precision"]) == ("imagenet", "cpu", "fp32")
    assert adam["learning_rate"] == pytest.approx(0.03)
    assert "momentum" not in adam
    assert sgd["momentum"] == pytest.approx(0.9)
    ridge = by_kind["ridge", "none"]
    assert ridge["weight_decay"] == pytest.approx(0.1)
    assert not {"learning_rate", "epochs", "batch_size", "momentum"} & set(ridge)


def test_final_figures_are_of_the_epoch_whose_weights_were_kept(
    heads: list[TrainedHead], tmp_path: Path
) -> None:
    runs = write_tensorboard(heads, tmp_path)
    assert any(s.info.epoch + 1 < len(s.info.curves["validation_loss"]) for s in heads)
    for saved, run in zip(heads, runs, strict=True):
        info = saved.info
        for name in CURVES.values():
            ((_, value),) = scalars(run, f"final/{name}")
            assert value == pytest.approx(info.curves[name][info.epoch], rel=1e-6)
        assert scalars(run, "final/epoch") == [(0, info.epoch + 1)]
        assert "final/cv_accuracy" not in read(run).Tags()["scalars"]


def test_the_folds_accuracy_is_there_where_folds_judged(
    heads: list[TrainedHead], tmp_path: Path
) -> None:
    info = dataclasses.replace(heads[0].info, selection=Selection("by folds", 0.875, 0.1))
    (run,) = write_tensorboard([TrainedHead(heads[0].path, info)], tmp_path)
    assert scalars(run, "final/cv_accuracy") == [(0, 0.875)]


def test_writing_again_replaces_a_heads_run_and_no_others(
    heads: list[TrainedHead], tmp_path: Path
) -> None:
    write_tensorboard(heads, tmp_path)
    before = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")}
    (run,) = write_tensorboard(heads[:1], tmp_path)
    assert len(scalars(run, "loss/training")) == len(heads[0].info.curves["training_loss"])
    after = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert len(after) == len(before)
    kept = [path for path in before if path.parts[0] != run.name]
    assert kept
    assert all(after[path] == before[path] for path in kept)


def test_a_missing_package_is_named(
    heads: list[TrainedHead], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=r"pip install 'tensorboard>=2\.18'"):
        write_tensorboard(heads, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
