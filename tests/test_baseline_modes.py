"""A model trained as a whole: gone on with after any end, kept, measured, asked, exported."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cache.errors import HeadError
from evaluate.backbone_loader import ModelLoader, network_path
from evaluate.baseline.checkpoint import read_checkpoint, write_checkpoint
from evaluate.baseline.modes import MODES
from evaluate.baseline.run import NetworkOptions, TrainedNetwork, train_network
from evaluate.evaluation import evaluate
from evaluate.export.model_file import export_model
from evaluate.export.whole_model import MeasuredModel
from evaluate.predict import predict
from evaluate.report.context import read_answers
from evaluate.results import read_results
from evaluate.test_set import TestSet
from evaluate.workspace.layout import Workspace
from extract.backbones import BACKBONES
from extract.dataset import ImageSet, scan
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone, load_backbone
from heads.config import HeadConfig
from tests import killing
from tests.baseline import DROPPING, asking, train
from tests.conftest import ROOT, require_or_skip

pytestmark = pytest.mark.slow

Few = Callable[[int, int], Path]


@pytest.fixture
def dropping(monkeypatch: pytest.MonkeyPatch) -> LoadedBackbone:
    monkeypatch.setitem(BACKBONES, "toy", DROPPING)
    return load_backbone("toy", "random")


@pytest.fixture
def images(few: Few) -> ImageSet:
    return scan(few(7, 3) / "dataset")


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Hear Ctrl-C, though a shell that starts the tests in the background has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute with as many threads as a process that is to be killed does; toys need no more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network_of(place: Workspace, done: TrainedNetwork) -> dict[str, Tensor]:
    """Return all tensors of a model that was trained as a whole."""
    assert done.head.info.network
    backbone = load_file(network_path(place, done.head.info.network.name))
    return backbone | {f"head {name}": t for name, t in load_file(done.head.path).items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def checkpoints(place: Workspace) -> list[Path]:
    return list(place.networks.glob("*.checkpoint.safetensors"))


def interrupting(after: int, done: int, total: int) -> None:
    """Ask to stop as soon as so many images are done."""
    if done >= after:
        os.kill(os.getpid(), signal.SIGINT)


class TestGoingOn:
    @pytest.mark.parametrize("images_before", [7, 18, 28])
    def test_stopped_anywhere_the_end_is_the_same_to_the_last_bit(
        self, images_before: int, dropping: LoadedBackbone, images: ImageSet, tmp_path: Path
    ) -> None:
        whole, parted = Workspace(tmp_path / "whole"), Workspace(tmp_path / "parted")
        expected = asking(dropping, images, whole)()

        ask = asking(dropping, images, parted)
        stopped_while_trained = images_before > len(images.files)
        with pytest.raises(KeyboardInterrupt):
            ask(progress=partial(interrupting, images_before))
        assert len(checkpoints(parted)) == stopped_while_trained
        told: list[tuple[int, int]] = []
        found = ask(progress=lambda done, total: told.append((done, total)))
        assert equal(network_of(parted, found), network_of(whole, expected))
        assert found.head.info.curves == expected.head.info.curves
        assert found.head.info.temperature == expected.head.info.temperature
        assert found.head.info.id == expected.head.info.id
        assert checkpoints(parted) == []
        assert told[-1][0] == told[-1][1]
        if stopped_while_trained:
            assert told[-1][0] < 14 + 2 * 14 + 2

    def test_killed_without_a_word(
        self, dropping: LoadedBackbone, images: ImageSet, tmp_path: Path
    ) -> None:
        whole, killed = Workspace(tmp_path / "whole"), Workspace(tmp_path / "killed")
        death = killing.Death("step", 3, after=False)
        died = killing.start(train, images.folder, killed.root, death)
        expected = asking(dropping, images, whole)()
        assert killing.finish(died) == -signal.SIGKILL
        assert len(checkpoints(killed)) == 1
        (killed.networks / f".{'0' * 32}.tmp").touch()  # as if it had died while it wrote
        found = asking(dropping, images, killed)()
        assert equal(network_of(killed, found), network_of(whole, expected))
        assert not list(killed.networks.glob(".*.tmp"))

    def test_of_two_at_once_one_trains_and_the_other_waits(
        self, dropping: LoadedBackbone, images: ImageSet, tmp_path: Path
    ) -> None:
        remarks: list[str] = []
        ask = partial(asking(dropping, images, Workspace(tmp_path)), remark=remarks.append)
        with ThreadPoolExecutor(2) as pool:
            done = [future.result() for future in [pool.submit(ask), pool.submit(ask)]]
        assert sorted(each.already for each in done) == [False, True]
        assert done[0].head == done[1].head
        (told,) = remarks
        assert "is being trained by another process: waiting for it" in told

    @pytest.mark.parametrize("harm", ["cut", "flip", "foreign", "other"])
    def test_a_damaged_checkpoint_is_an_error_that_says_to_delete_it(
        self, harm: str, dropping: LoadedBackbone, images: ImageSet, tmp_path: Path
    ) -> None:
        ask = asking(dropping, images, Workspace(tmp_path))
        with pytest.raises(KeyboardInterrupt):
            ask(progress=partial(interrupting, 20))
        (path,) = checkpoints(Workspace(tmp_path))
        data = bytearray(path.read_bytes())
        if harm == "cut":
            path.write_bytes(data[:-9])
        elif harm == "flip":
            data[-9] ^= 1
            path.write_bytes(data)
        elif harm == "foreign":
            save_file({"a": torch.zeros(1)}, path)
        else:
            tensors, note = read_checkpoint(path)
            write_checkpoint(path, {"drawn": tensors["drawn"]}, note)
        with pytest.raises(HeadError, match=f"{path.name} can't be used: .* Delete it"):
            ask()

    def test_divergence_is_told_and_leaves_nothing_behind(
        self, dropping: LoadedBackbone, images: ImageSet, tmp_path: Path
    ) -> None:
        place, spec = Workspace(tmp_path), EmbeddingSpec(dropping, "cpu", (), "fp32")
        wild = HeadConfig("single", "sgd", 1e30, epochs=3, batch_size=4)
        with pytest.raises(HeadError, match=r"diverged in epoch \d: give a smaller --lr"):
            train_network(spec, wild, "scratch", images, place)
        assert not list(tmp_path.rglob("*.safetensors"))

    def test_a_callers_random_numbers_are_left_alone(
        self, dropping: LoadedBackbone, images: ImageSet, tmp_path: Path
    ) -> None:
        torch.manual_seed(7)
        before = torch.random.get_rng_state()
        asking(dropping, images, Workspace(tmp_path))()
        assert torch.equal(torch.random.get_rng_state(), before)


class TestKept:
    def test_from_scratch(self, toy: LoadedBackbone, images: ImageSet, tmp_path: Path) -> None:
        place = Workspace(tmp_path)
        ask = asking(toy, images, place)
        done = ask()
        info, network = done.head.info, done.head.info.network
        assert network
        assert not done.already
        assert info.mode == network.mode == "scratch"
        assert network.name.startswith("toy-scratch-")
        assert network.start == "random:0"
        assert info.weights == f"trained:{network.name}"
        assert (info.n_training, info.n_validation) == (12, 2)
        assert (info.embedding_seconds, info.training_seconds > 0) == (0, True)
        assert {len(curve) for curve in info.curves.values()} == {2}
        trained = load_backbone("toy", str(network_path(place, network.name)))
        assert trained.weights_sha256 == info.identity.weights_sha256 != toy.weights_sha256
        again = ask()
        assert again.already
        assert again.head == done.head

    def test_a_backbone_that_was_deleted_is_trained_again(
        self, toy: LoadedBackbone, images: ImageSet, tmp_path: Path
    ) -> None:
        place = Workspace(tmp_path)
        ask = asking(toy, images, place)
        first = ask()
        expected = network_of(place, first)
        assert first.head.info.network
        network_path(place, first.head.info.network.name).unlink()
        again = ask()
        assert not again.already
        assert equal(network_of(place, again), expected)

    def test_whatever_differs_is_another_training(
        self, toy: LoadedBackbone, images: ImageSet, tmp_path: Path
    ) -> None:
        place, spec = Workspace(tmp_path), EmbeddingSpec(toy, "cpu", (), "fp32")
        configuration = HeadConfig("single", "adam", epochs=1, batch_size=7)
        ask = partial(train_network, workspace=place)
        groups = {file.sha256: 0 for file in images.files[:2]}
        done = [
            ask(spec, configuration, "scratch", images),
            ask(spec, configuration, "transfer", images),
            ask(spec, configuration, "transfer", images, options=NetworkOptions(groups)),
            ask(
                spec,
                configuration,
                "transfer",
                images,
                options=NetworkOptions(augmentation="strong"),
            ),
            ask(EmbeddingSpec(toy, "cpu", (), "bf16"), configuration, "transfer", images),
        ]
        assert {each.already for each in done} == {False}
        assert len({each.head.info.id for each in done}) == len(done)
        assert {each.head.info.identity.precision for each in done} == {"fp32", "bf16"}
        # A frozen backbone is what it was.
        assert len(list(place.networks.glob("*.safetensors"))) == 1

    def test_fine_tuning_starts_from_the_weights_given(
        self, toy: LoadedBackbone, images: ImageSet, tmp_path: Path
    ) -> None:
        start = toy.module.get_submodule("network").state_dict()
        save_file(start, tmp_path / "start.safetensors")
        given = load_backbone("toy", str(tmp_path / "start.safetensors"))
        configuration = HeadConfig("single", "sgd", 1e-6, epochs=1, batch_size=7)
        done = train_network(
            EmbeddingSpec(given, "cpu", (), "fp32"),
            configuration,
            "finetune",
            images,
            Workspace(tmp_path),
        )
        after = network_of(Workspace(tmp_path), done)
        moved = {name: (after[name] - start[name]).abs().max().item() for name in start}
        assert 0 < moved["layers.0.weight"] < 1e-4
        assert moved["layers.1.running_mean"] > 0
        assert done.head.info.network
        assert done.head.info.network.start == "file:start.safetensors"

    def test_patience_keeps_the_best_epochs_weights(
        self, toy: LoadedBackbone, images: ImageSet, tmp_path: Path
    ) -> None:
        spec, place = EmbeddingSpec(toy, "cpu", (), "fp32"), Workspace(tmp_path)
        settings: dict[str, Any] = {"learning_rate": 0.3, "batch_size": 7}
        patient = HeadConfig("single", "adam", epochs=9, patience=1, **settings)
        found = train_network(spec, patient, "scratch", images, place)
        losses = found.head.info.curves["validation_loss"]
        assert found.head.info.epoch == losses.index(min(losses)) == len(losses) - 2
        short = HeadConfig("single", "adam", epochs=found.head.info.epoch + 1, **settings)
        last = train_network(spec, short, "scratch", images, place)
        assert equal(network_of(place, found), network_of(place, last))


@pytest.mark.parametrize("mode", ["scratch", "transfer"])
def test_it_is_measured_asked_and_exported_as_any_model(
    mode: str, toy: LoadedBackbone, images: ImageSet, tmp_path: Path
) -> None:
    place, spec = Workspace(tmp_path), EmbeddingSpec(toy, "cpu", (), "fp32")
    place.prepare()
    configuration = HeadConfig("single", "adam", epochs=2, batch_size=7)
    saved = train_network(spec, configuration, mode, images, place).head
    test = scan(images.folder.parent / "test_images")
    loader = ModelLoader(place)
    assert evaluate([saved], TestSet(test), loader) == [1]
    row = {str(name): value for name, value in read_results(place.results).iloc[0].items()}
    assert row["mode"] == mode
    assert row["weights"] == "random:0"  # what it started from
    assert row["engine"] == "openvino"
    assert row["training_time_mins"] > 0
    assert row["n_test"] == 6
    again = loader.spec(saved.info)
    (answer,), _ = predict([test.files[0].path], saved, again, place)
    assert answer.error is None
    said = read_answers(row, place)
    assert said
    written = export_model(
        MeasuredModel(again.backbone, saved, row, said), "openvino", tmp_path / "model.xml"
    )
    assert written.check.difference < 1e-4


def test_xla_trains_as_the_cpu_does_and_compiles_each_shape_once(
    images: ImageSet, tmp_path: Path
) -> None:
    require_or_skip("xla-cpu")
    code = f"""
import json
from pathlib import Path
import torch_xla.debug.metrics as metrics
from tests.baseline import curves_on
folder, root = Path({str(images.folder)!r}), Path({str(tmp_path)!r})
found = []
for device, epochs in (("xla-cpu", 2), ("xla-cpu", 3), ("cpu", 3)):
    found.append([curves_on(device, epochs, folder, root), metrics.metric_data("CompileTime")[0]])
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        # Sooner compiled, and no thread that waits for work.
        env=os.environ
        | {"XLA_FLAGS": "--xla_backend_optimization_level=0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (_, compiled), (by_xla, compiled_in_all), (by_cpu, _) = json.loads(done.stdout)
    assert compiled_in_all == compiled
    for name, curve in by_cpu.items():
        assert by_xla[name] == pytest.approx(curve, rel=2e-3)


@pytest.mark.parametrize("mode", MODES)
def test_cuda_trains_as_the_cpu_does(
    mode: str, toy: LoadedBackbone, images: ImageSet, tmp_path: Path
) -> None:
    require_or_skip("cuda")
    save_file(toy.module.get_submodule("network").state_dict(), tmp_path / "toy.safetensors")
    start = load_backbone(
        "toy", str(tmp_path / "toy.safetensors") if mode != "scratch" else "random"
    )
    configuration = HeadConfig("single", "adam", epochs=2, batch_size=4)
    curves = [
        train_network(
            EmbeddingSpec(start, device, (), "fp32"),
            configuration,
            mode,
            images,
            Workspace(tmp_path),
        ).head.info.curves
        for device in ("cpu", "cuda")
    ]
    assert curves[1]["training_loss"] == pytest.approx(curves[0]["training_loss"], rel=1e-3)
