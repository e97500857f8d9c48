"""Heads, on committed caches of real embeddings: splits, training, files, the training run."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cache.errors import CacheError, HeadError
from cache.segments import Failure, Rows, write_segment
from cache.store import Cache, contents, open_cache, read
from extract.scan import scan
from heads.architectures import HEADS
from heads.configuration import Configuration, fingerprint, head_id
from heads.files import find_heads, load_head, read_info
from heads.optimizers import OPTIMIZERS
from heads.run import HeadsRun, train_heads
from heads.splits import check_trainable, split
from heads.train import Labelled, train
from tests.conftest import ROOT

EVERY = [Configuration(head, optimizer) for head in HEADS for optimizer in OPTIMIZERS]
NAMES = [f"{c.head}-{c.optimizer}" for c in EVERY]


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.fixture(scope="module")
def labels() -> dict[bytes, str]:
    """The classes of the sample images that the cache fixtures hold."""
    return scan(ROOT / "dataset").labels


@pytest.fixture(scope="module")
def data(caches: dict[str, Cache], labels: dict[bytes, str]) -> tuple[Labelled, Labelled]:
    parts = split(labels, 0.2, seed=0)
    training, validation = (
        Labelled(
            torch.tensor(read(caches["cpu"], hashes)),
            torch.tensor([labels[h] == "not_gel" for h in hashes]).long(),
        )
        for hashes in (parts.training, parts.validation)
    )
    return training, validation


class TestSplit:
    def test_stratified_disjoint_and_whole(self, labels: dict[bytes, str]) -> None:
        parts = split(labels, 0.2, seed=0)
        assert len(parts.training) == 74
        assert len(parts.validation) == 18
        assert set(parts.training) | set(parts.validation) == set(labels)
        assert sum(labels[h] == "gel" for h in parts.validation) == 9

    def test_seeded_and_blind_to_order(self, labels: dict[bytes, str]) -> None:
        backwards = dict(reversed(labels.items()))
        assert split(labels, 0.2, seed=1) == split(backwards, 0.2, seed=1)
        assert split(labels, 0.2, seed=1) != split(labels, 0.2, seed=2)

    @pytest.mark.parametrize("rare", [2, 3, 4])
    @pytest.mark.parametrize("common", [2, 100])
    @pytest.mark.parametrize("fraction", [0.01, 0.2, 0.9, 0.99])
    def test_every_class_is_on_both_sides(self, rare: int, common: int, fraction: float) -> None:
        uneven = {key(i): "rare" if i < rare else "common" for i in range(rare + common)}
        for seed in range(5):
            parts = split(uneven, fraction, seed)
            for side in (parts.training, parts.validation):
                assert {uneven[h] for h in side} == {"rare", "common"}

    def test_one_class_is_refused(self) -> None:
        with pytest.raises(HeadError, match=r"one class only \(gel\)"):
            check_trainable({key(1): "gel", key(2): "gel"})

    def test_a_class_of_one_image_is_named(self) -> None:
        with pytest.raises(HeadError, match="class rare has a single image"):
            check_trainable({key(1): "gel", key(2): "gel", key(3): "rare"})


class TestConfiguration:
    @pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Configuration)])
    def test_no_two_configurations_share_an_id(self, field: str, caches: dict[str, Cache]) -> None:
        base = Configuration("single", "sgd")
        values: dict[str, Any] = {"head": "multi", "optimizer": "adam", "learning_rate": 1.00001e-3}
        values |= {"momentum": 0.5, "val_fraction": 0.3}
        other = dataclasses.replace(base, **{field: values.get(field, 7)})
        identity = caches["cpu"].identity
        assert head_id(base, identity, "data") != head_id(other, identity, "data")

    def test_device_and_data_are_part_of_the_id(self, caches: dict[str, Cache]) -> None:
        base = Configuration("single", "sgd")
        ids = {head_id(base, c.identity, d) for c in caches.values() for d in ("one", "two")}
        assert len(ids) == 4

    def test_momentum_means_nothing_to_adam(self) -> None:
        assert Configuration("single", "adam", momentum=0.1) == Configuration("single", "adam")

    def test_the_fingerprint_is_of_content_and_label(self) -> None:
        first = {key(1): "a", key(2): "b"}
        assert fingerprint(first) == fingerprint({key(2): "b", key(1): "a"})
        assert fingerprint(first) != fingerprint({key(1): "b", key(2): "a"})
        assert fingerprint(first) != fingerprint({key(1): "a"})


class TestTraining:
    @pytest.mark.parametrize("configuration", EVERY, ids=NAMES)
    def test_every_head_learns_real_embeddings(
        self, configuration: Configuration, data: tuple[Labelled, Labelled]
    ) -> None:
        result = train(configuration, *data, classes=2)
        assert {len(values) for values in result.curves.values()} == {20}
        assert result.curves["training_loss"][-1] < result.curves["training_loss"][0]
        assert result.curves["validation_accuracy"][-1] >= 0.85

    @pytest.mark.parametrize("configuration", EVERY, ids=NAMES)
    def test_seeded(self, configuration: Configuration, data: tuple[Labelled, Labelled]) -> None:
        short = dataclasses.replace(configuration, epochs=2)
        state = torch.get_rng_state()
        first, again = (train(short, *data, classes=2) for _ in range(2))
        other = train(dataclasses.replace(short, seed=1), *data, classes=2)
        assert first.curves == again.curves != other.curves
        assert torch.equal(state, torch.get_rng_state())

    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_single_follows_plain_arithmetic(
        self, optimizer: str, data: tuple[Labelled, Labelled]
    ) -> None:
        """One full batch of a linear head, the gradient and the first step written out by hand."""
        rows = Labelled(data[0].embeddings[:8], data[0].labels[:8])
        step = Configuration("single", optimizer, epochs=1, batch_size=8, learning_rate=0.01)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            start = HEADS["single"].build(1280, 2)
        weight, bias = (p.detach().double() for p in start.parameters())
        x = rows.embeddings.double()
        error = (x @ weight.T + bias).softmax(1) - torch.eye(2)[rows.labels].double()
        gradient = error.T @ x / 8
        # Adam's first step is lr * sign(gradient), up to its epsilon of 1e-8.
        change = gradient / (gradient.abs() + 1e-8) if optimizer == "adam" else gradient
        trained = train(step, rows, rows, classes=2).head
        expected = (weight - 0.01 * change).float()
        torch.testing.assert_close(trained.get_parameter("weight"), expected, rtol=1e-4, atol=1e-5)

    def test_sgd_has_momentum(self, data: tuple[Labelled, Labelled]) -> None:
        """Two full-batch steps by hand: velocity = 0.9 velocity + gradient (Sutskever 2013)."""
        rows = Labelled(data[0].embeddings[:8], data[0].labels[:8])
        x, target = rows.embeddings.double(), torch.eye(2)[rows.labels].double()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            weight, bias = (
                p.detach().double() for p in HEADS["single"].build(1280, 2).parameters()
            )
        velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
        for _ in range(2):
            error = ((x @ weight.T + bias).softmax(1) - target) / 8
            velocity = [0.9 * velocity[0] + error.T @ x, 0.9 * velocity[1] + error.sum(0)]
            weight, bias = weight - 0.01 * velocity[0], bias - 0.01 * velocity[1]
        steps = Configuration("single", "sgd", epochs=2, batch_size=8, learning_rate=0.01)
        trained = train(steps, rows, rows, classes=2).head
        torch.testing.assert_close(
            trained.get_parameter("weight"), weight.float(), rtol=1e-4, atol=1e-6
        )

    def test_an_epoch_takes_as_many_steps_as_there_are_batches(
        self, data: tuple[Labelled, Labelled], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps: list[int] = []
        step = torch.optim.SGD.step

        def counted(optimizer: torch.optim.SGD) -> None:
            steps.append(1)
            step(optimizer)

        monkeypatch.setattr(torch.optim.SGD, "step", counted)
        train(Configuration("single", "sgd", epochs=3, batch_size=23), *data, classes=2)
        assert len(steps) == 3 * 4  # 74 images in batches of 23

    def test_multi_is_the_reference_studys(self) -> None:
        layers = list(HEADS["multi"].build(1280, 7).children())
        sizes = [(m.in_features, m.out_features) for m in layers if isinstance(m, torch.nn.Linear)]
        assert sizes == [(1280, 512), (512, 256), (256, 7)]
        assert [m.p for m in layers if isinstance(m, torch.nn.Dropout)] == [0.25, 0.5]
        assert [type(m).__name__ for m in layers[:3]] == ["Linear", "ReLU", "Dropout"]

    def test_a_loss_of_nan_is_divergence_too(self, data: tuple[Labelled, Labelled]) -> None:
        wild = Configuration("multi", "adam", learning_rate=1e20, epochs=1, batch_size=100)
        with pytest.raises(HeadError, match="diverged"):
            train(wild, *data, classes=2)

    def test_a_diverged_head_is_an_error_with_a_remedy(
        self, data: tuple[Labelled, Labelled]
    ) -> None:
        wild = Configuration("multi", "sgd", learning_rate=1e30)
        with pytest.raises(HeadError, match=r"diverged at a learning rate of 1e.30.*--lr"):
            train(wild, *data, classes=2)


class TestRun:
    @pytest.fixture
    def done(self, caches: dict[str, Cache], labels: dict[bytes, str], tmp_path: Path) -> HeadsRun:
        return train_heads(caches["cpu"], labels, "dataset", EVERY, tmp_path)

    def test_every_head_is_a_file_with_all_about_it(
        self, done: HeadsRun, caches: dict[str, Cache], tmp_path: Path
    ) -> None:
        assert done.trained == len(EVERY)
        assert [saved.info.configuration for saved in done.heads] == EVERY
        assert sorted(s.path.name for s in find_heads(tmp_path)) == sorted(
            saved.path.name for saved in done.heads
        )
        info = done.heads[0].info
        assert info.classes == ("gel", "not_gel")
        assert info.identity == caches["cpu"].identity
        assert (info.n_training, info.n_validation, info.weights) == (74, 18, "imagenet")

    def test_a_loaded_head_answers_as_the_trained_one_did(
        self, done: HeadsRun, data: tuple[Labelled, Labelled]
    ) -> None:
        for saved in done.heads:
            logits = load_head(saved)(data[1].embeddings)
            accuracy = (logits.argmax(1) == data[1].labels).double().mean().item()
            assert accuracy == saved.info.curves["validation_accuracy"][-1]

    def test_a_second_run_trains_nothing(
        self, done: HeadsRun, caches: dict[str, Cache], labels: dict[bytes, str], tmp_path: Path
    ) -> None:
        again = train_heads(caches["cpu"], labels, "dataset", EVERY, tmp_path)
        assert again.trained == 0
        assert again.heads == done.heads

    def test_devices_get_heads_of_their_own_from_the_same_seed(
        self, done: HeadsRun, caches: dict[str, Cache], labels: dict[bytes, str], tmp_path: Path
    ) -> None:
        other = train_heads(caches["xla-cpu"], labels, "dataset", EVERY, tmp_path)
        assert other.trained == len(EVERY)
        for ours, theirs in zip(done.heads, other.heads, strict=True):
            assert ours.path != theirs.path
            if ours.info.configuration.optimizer == "adam":
                continue  # it turns the last bit of a gradient near 0 into a whole step
            for name, tensor in load_head(ours).state_dict().items():
                torch.testing.assert_close(
                    tensor, load_head(theirs).state_dict()[name], rtol=1e-2, atol=1e-3
                )

    def test_an_image_never_extracted_stops_it(
        self, caches: dict[str, Cache], labels: dict[bytes, str], tmp_path: Path
    ) -> None:
        with pytest.raises(CacheError, match="lacks 1 of 93 images"):
            train_heads(caches["cpu"], labels | {key(1): "gel"}, "dataset", EVERY, tmp_path)

    def test_an_image_that_becomes_readable_gives_another_head(
        self, caches: dict[str, Cache], labels: dict[bytes, str], tmp_path: Path
    ) -> None:
        """A head trained without a failed image is not taken for one trained with it."""
        source, bad = caches["cpu"], next(iter(labels))
        rest = [h for h in contents(source).stored if h != bad]
        cache = open_cache(tmp_path / "cache", source.identity)
        note = {"weights": "imagenet", "engine": "torch", "rows": 1, "seconds": 1.0}

        def write(hashes: list[bytes], failed: list[Failure]) -> None:
            rows = Rows(
                np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32),
                np.zeros(len(hashes), np.uint16),
                read(source, hashes),
            )
            write_segment(cache.folder, cache.identity, rows, failed, note)

        write(rest, [Failure(bad, "bad.png", "truncated")])
        first = train_heads(cache, labels, "dataset", EVERY[:1], tmp_path)
        assert (first.left_out, first.heads[0].info.n_training) == (1, 73)
        write([bad], [])
        second = train_heads(cache, labels, "dataset", EVERY[:1], tmp_path)
        assert (second.left_out, second.trained) == (0, 1)
        assert second.heads[0].info.n_training == 74

    def test_an_empty_cache_stops_it(
        self, caches: dict[str, Cache], labels: dict[bytes, str], tmp_path: Path
    ) -> None:
        empty = open_cache(tmp_path, caches["cpu"].identity)
        with pytest.raises(CacheError, match="lacks 92 of 92"):
            train_heads(empty, labels, "dataset", EVERY, tmp_path)


class TestFiles:
    @pytest.fixture
    def path(self, caches: dict[str, Cache], labels: dict[bytes, str], tmp_path: Path) -> Path:
        return train_heads(caches["cpu"], labels, "dataset", EVERY[:1], tmp_path).heads[0].path

    def test_a_truncated_file_is_named_with_the_remedy(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(HeadError, match=rf"{path.name}.*run train-heads again"):
            read_info(path)

    def test_a_foreign_file_is_refused(self, tmp_path: Path) -> None:
        save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
        with pytest.raises(HeadError, match="not a Frostline head"):
            find_heads(tmp_path)

    def test_a_head_under_another_heads_name_is_refused(self, path: Path) -> None:
        with pytest.raises(HeadError, match="belongs to efficientnet_lite0-cpu-single"):
            read_info(path.rename(path.with_name("other.safetensors")))

    def test_tensors_that_do_not_fit_are_refused(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        save_file({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, path, metadata)
        with pytest.raises(HeadError, match="size mismatch"):
            load_head(find_heads(path.parent)[0])

    def test_nan_is_refused(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        save_file(
            {"weight": torch.full((2, 1280), torch.nan), "bias": torch.zeros(2)}, path, metadata
        )
        with pytest.raises(HeadError, match="NaN"):
            load_head(find_heads(path.parent)[0])
