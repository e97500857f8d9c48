"""Heads, on committed caches of real embeddings: splits, training, files, the training run."""

import dataclasses
import json
import os
import stat
from itertools import product
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cache.arrays import read_arrays, write_arrays
from cache.errors import CacheError, Failure, HeadError
from cache.segment import Rows, write_segment
from cache.store import Cache, open_cache, read, summarize
from heads.architectures import HEADS, tensor_shapes
from heads.config import HeadConfig, fingerprint, head_id
from heads.modules import build_head
from heads.search.space import SearchPlan, combinations
from heads.splits import check_trainable, split
from heads.store import FORMAT, TrainedHead, find_heads, read_head, save_head
from heads.training import HeadsRun, train_heads
from tests.toy import key

pytestmark = pytest.mark.slow

EVERY = SearchPlan(tuple(combinations({"head": list(HEADS), "optimizer": ["adamw"]})))
STANDARD = SearchPlan(tuple(combinations({})))
ONE = SearchPlan((HeadConfig("single", "adam"),))
KNN = HeadConfig("knn", "none")


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

    @pytest.mark.parametrize("rare", [2, 4])
    def test_every_class_is_on_both_sides(self, rare: int) -> None:
        for common, fraction, seed in product((2, 100), (0.01, 0.2, 0.99), range(3)):
            uneven = {key(i): "rare" if i < rare else "common" for i in range(rare + common)}
            parts = split(uneven, fraction, seed)
            for side in (parts.training, parts.validation):
                assert {uneven[h] for h in side} == {"rare", "common"}

    def test_folds_are_disjoint_even_and_whole(self, labels: dict[bytes, str]) -> None:
        parts = [split(labels, 0.2, 3, f"{number}/5") for number in range(1, 6)]
        assert sorted(key for part in parts for key in part.validation) == sorted(labels)
        for part in parts:
            assert set(part.training) == set(labels) - set(part.validation)
            assert len(part.validation) in (18, 19)
            assert {labels[key] for key in part.validation} == {"gel", "not_gel"}
        assert parts != [split(labels, 0.2, 4, f"{number}/5") for number in range(1, 6)]

    def test_fewer_images_than_folds_names_the_class(self) -> None:
        uneven = {key(i): "rare" if i < 3 else "common" for i in range(10)}
        with pytest.raises(HeadError, match=r"--cv 4: .* class rare \(3\): .*fewer folds"):
            split(uneven, 0.2, 0, "1/4")

    def test_one_class_is_refused(self) -> None:
        with pytest.raises(HeadError, match=r"one class only \(gel\)"):
            check_trainable({key(1): "gel", key(2): "gel"})

    def test_a_class_of_one_image_is_named(self) -> None:
        with pytest.raises(HeadError, match="class rare has a single image"):
            check_trainable({key(1): "gel", key(2): "gel", key(3): "rare"})


class TestConfiguration:
    @pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(HeadConfig)])
    def test_no_two_configurations_share_an_id(self, field: str, caches: dict[str, Cache]) -> None:
        base = HeadConfig("single", "sgd", gamma=0.5, schedule="exponential")
        values: dict[str, Any] = {"head": "multi", "optimizer": "adam", "learning_rate": 1.00001e-3}
        values |= {"momentum": 0.5, "val_fraction": 0.3, "schedule": "step", "balance": "weights"}
        values |= {"fold": "1/5", "nesterov": True}
        other = dataclasses.replace(base, **{field: values.get(field, 7)})
        key = caches["cpu"].key
        assert head_id(base, key, "data") != head_id(other, key, "data")

    def test_device_and_data_are_part_of_the_id(self, caches: dict[str, Cache]) -> None:
        base = HeadConfig("single", "sgd")
        ids = {head_id(base, c.key, d) for c in caches.values() for d in ("one", "two")}
        assert len(ids) == 4

    def test_momentum_means_nothing_to_adam(self) -> None:
        assert HeadConfig("single", "adam", momentum=0.1) == HeadConfig("single", "adam")

    @pytest.mark.parametrize(
        ("values", "plain"),
        [
            ({"gamma": 0.5}, {}),
            ({"schedule": "exponential"}, {}),
            ({"schedule": "cosine", "gamma": 0.5}, {"schedule": "cosine"}),
            ({"momentum": 0, "nesterov": True}, {"momentum": 0.0}),
            ({"weight_decay": 0}, {"weight_decay": 0.0}),
        ],
    )
    def test_what_means_nothing_makes_no_difference(
        self, values: dict[str, Any], plain: dict[str, Any]
    ) -> None:
        one, other = (HeadConfig("single", "sgd", **v) for v in (values, plain))
        assert repr(one) == repr(other)

    def test_only_strength_split_and_seed_mean_something_to_fitted_heads(self) -> None:
        wild = HeadConfig("ridge", "adam", 9, epochs=7, weight_decay=0.5, seed=3)
        assert wild == HeadConfig("ridge", "sgd", weight_decay=0.5, seed=3)
        assert wild.optimizer == "none"
        assert HeadConfig("knn", "adam", weight_decay=1) == HeadConfig("knn", "sgd")

    def test_the_fingerprint_is_of_content_and_label(self) -> None:
        first = {key(1): "a", key(2): "b"}
        assert fingerprint(first) == fingerprint({key(2): "b", key(1): "a"})
        assert fingerprint(first) != fingerprint({key(1): "b", key(2): "a"})
        assert fingerprint(first) != fingerprint({key(1): "a"})


class TestRun:
    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("heads")

    @pytest.fixture(scope="class")
    @classmethod
    def done(cls, caches: dict[str, Cache], labels: dict[bytes, str], folder: Path) -> HeadsRun:
        return train_heads(caches["cpu"], labels, "dataset", STANDARD, folder)

    def test_every_head_is_a_file_with_all_about_it(
        self, done: HeadsRun, caches: dict[str, Cache], folder: Path
    ) -> None:
        assert done.trained == 4
        assert tuple(s.info.configuration for s in done.heads) == STANDARD.candidates
        assert sorted(s.path.name for s in find_heads(folder)[0]) == sorted(
            saved.path.name for saved in done.heads
        )
        info = done.heads[0].info
        assert info.classes == ("gel", "not_gel")
        assert info.identity == caches["cpu"].key
        assert (info.n_training, info.n_validation, info.weights) == (74, 18, "imagenet")

    def test_a_loaded_head_answers_as_the_trained_one_did(
        self, caches: dict[str, Cache], labels: dict[bytes, str], tmp_path: Path
    ) -> None:
        for saved in train_heads(caches["cpu"], labels, "dataset", EVERY, tmp_path).heads:
            held_out = split(labels, 0.2, 0).validation
            classes = torch.tensor([labels[key] == "not_gel" for key in held_out]).long()
            logits = saved.module()(torch.tensor(read(caches["cpu"], held_out)))
            curves, epoch = saved.info.curves, saved.info.epoch
            accuracy = (logits.argmax(1) == classes).double().mean().item()
            assert accuracy == pytest.approx(curves["validation_accuracy"][epoch])
            loss = torch.nn.functional.cross_entropy(logits, classes).item()
            assert loss == pytest.approx(curves["validation_loss"][epoch], rel=1e-3, abs=1e-5)
            assert accuracy >= 0.85

    def test_a_second_run_trains_nothing(
        self, done: HeadsRun, caches: dict[str, Cache], labels: dict[bytes, str], folder: Path
    ) -> None:
        again = train_heads(caches["cpu"], labels, "dataset", STANDARD, folder)
        assert again.trained == 0
        assert again.heads == done.heads

    def test_devices_get_heads_of_their_own_from_the_same_seed(
        self, done: HeadsRun, caches: dict[str, Cache], labels: dict[bytes, str], folder: Path
    ) -> None:
        other = train_heads(caches["xla-cpu"], labels, "dataset", STANDARD, folder)
        assert other.trained == 4
        for ours, theirs in zip(done.heads, other.heads, strict=True):
            assert ours.path != theirs.path
            if ours.info.configuration.optimizer == "adam":
                continue  # it turns the last bit of a gradient near 0 into a whole step
            for name, tensor in ours.module().state_dict().items():
                torch.testing.assert_close(
                    tensor, theirs.module().state_dict()[name], rtol=1e-2, atol=1e-3
                )

    def test_an_image_never_extracted_stops_it(
        self, caches: dict[str, Cache], labels: dict[bytes, str], tmp_path: Path
    ) -> None:
        with pytest.raises(CacheError, match="lacks 1 of 93 images"):
            train_heads(caches["cpu"], labels | {key(1): "gel"}, "dataset", STANDARD, tmp_path)

    def test_an_image_that_becomes_readable_gives_another_head(
        self, caches: dict[str, Cache], labels: dict[bytes, str], tmp_path: Path
    ) -> None:
        """A head trained without a failed image is not taken for one trained with it."""
        source, bad = caches["cpu"], next(iter(labels))
        rest = [h for h in summarize(source).stored if h != bad]
        cache = open_cache(tmp_path / "cache", source.key)
        note = {"weights": "imagenet", "engine": "torch", "rows": 1, "seconds": 1.0}

        def write(hashes: list[bytes], failed: list[Failure]) -> None:
            rows = Rows(
                np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32),
                np.zeros(len(hashes), np.uint16),
                read(source, hashes),
            )
            write_segment(cache.folder, cache.key, rows, failed, note)

        write(rest, [Failure(bad, "bad.png", "truncated")])
        first = train_heads(cache, labels, "dataset", ONE, tmp_path)
        assert (first.left_out, first.heads[0].info.n_training) == (1, 73)
        write([bad], [])
        second = train_heads(cache, labels, "dataset", ONE, tmp_path)
        assert (second.left_out, second.trained) == (0, 1)
        assert second.heads[0].info.n_training == 74

    def test_an_empty_cache_stops_it(
        self, caches: dict[str, Cache], labels: dict[bytes, str], tmp_path: Path
    ) -> None:
        empty = open_cache(tmp_path, caches["cpu"].key)
        with pytest.raises(CacheError, match="lacks 92 of 92"):
            train_heads(empty, labels, "dataset", STANDARD, tmp_path)


@pytest.fixture(scope="module")
def kept(
    caches: dict[str, Cache],
    labels: dict[bytes, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, TrainedHead]:
    """A linear head and one that remembers its images."""
    sweep, folder = SearchPlan((*ONE.candidates, KNN)), tmp_path_factory.mktemp("kept")
    found = train_heads(caches["cpu"], labels, "dataset", sweep, folder).heads
    return {saved.info.configuration.head: saved for saved in found}


class TestFiles:
    @pytest.fixture
    def saved(self, kept: dict[str, TrainedHead], tmp_path: Path) -> TrainedHead:
        return TrainedHead(Path(copy(kept["single"].path, tmp_path)), kept["single"].info)

    def test_a_truncated_file_is_named_with_the_remedy(self, saved: TrainedHead) -> None:
        saved.path.write_bytes(saved.path.read_bytes()[:-500])
        with pytest.raises(HeadError, match=rf"{saved.path.name}.*run train-heads again"):
            read_head(saved.path)

    def test_one_that_can_t_be_used_is_named_and_the_others_are_found(
        self, saved: TrainedHead
    ) -> None:
        """Of another program, of an older version, under another's name, a folder, no tensors."""
        folder = saved.path.parent
        old = {"format": "frostline-head-1", "info": "{}"}
        save_file({"weight": torch.zeros(2)}, folder / "foreign.safetensors")
        save_file({"weight": torch.zeros(2)}, folder / "old.safetensors", old)
        copy(saved.path, folder / "other.safetensors")
        (folder / "folder.safetensors").mkdir()
        (folder / "text.safetensors").write_text("no tensors")
        found, remarks = find_heads(folder)
        assert found == [saved]
        assert [remark.partition(" can't be ")[0] for remark in remarks] == [
            str(folder / f"{name}.safetensors")
            for name in ("folder", "foreign", "old", "other", "text")
        ]
        assert "Not a regular file" in remarks[0]
        assert all("an older version of Frostline" in remark for remark in remarks[1:3])
        assert "belongs to efficientnet_lite0-cpu-single" in remarks[3]
        assert all("run train-heads again" in remark for remark in remarks[1:])

    @pytest.mark.parametrize(
        ("name", "changes", "message"),
        [
            ("single", {"weight": np.full((2, 1280), np.nan, np.float32)}, "weight holds NaN"),
            ("single", {"weight": np.zeros((2, 3), np.float32)}, r"shapes .* not"),
            ("single", {"weight": np.zeros((2, 1280))}, "weight is float64, not float32"),
            ("single", {"weight": np.zeros((2, 1280), np.int8)}, "weight is int8, not float32"),
            ("single", {"extra": np.zeros(1, np.float32)}, r"shapes .* not"),
            ("knn", {"labels": np.full(74, 2)}, "no numbers of classes"),
            ("knn", {"labels": np.zeros(74, np.float32)}, "labels is float32, not int64"),
            ("single", {"temperature": 0.0}, "temperature is 0"),
            ("single", {"temperature": -1.0}, "temperature is -1"),
            ("single", {"temperature": float("nan")}, "temperature is nan"),
            ("single", {"temperature": "warm"}, "temperature"),
            ("single", {"classes": ["gel", "gel"]}, "two classes of one name"),
            ("single", {"classes": ["gel", "not_gel", "blot"]}, r"shapes .* not"),
            ("single", {"classes": "gel"}, "classes"),
            ("single", {"curves": {"training_loss": ["a"]}}, "curves"),
            ("single", {"configuration": {"head": "new", "optimizer": "sgd"}}, "not know 'new'"),
        ],
    )
    def test_a_head_that_contradicts_itself_is_refused(
        self,
        name: str,
        changes: dict[str, Any],
        message: str,
        kept: dict[str, TrainedHead],
        tmp_path: Path,
    ) -> None:
        """Though its checksum is right: somebody else's program may have written it."""
        saved = kept[name]
        arrays, record = read_arrays(saved.path, FORMAT)
        info = json.loads(record)
        for field, value in changes.items():
            (arrays if isinstance(value, np.ndarray) else info)[field] = value
        path = tmp_path / saved.path.name
        write_arrays(path, arrays, FORMAT, json.dumps(info))
        with pytest.raises(HeadError, match=message):
            read_head(path)

    def test_a_head_that_was_replaced_meanwhile_is_refused(self, saved: TrainedHead) -> None:
        before = TrainedHead(saved.path, dataclasses.replace(saved.info, temperature=3.0))
        with pytest.raises(HeadError, match="has changed"):
            before.logits(np.zeros((1, 1280), np.float32))

    @pytest.mark.parametrize("damage", ["flipped", "old"])
    def test_training_again_replaces_what_can_t_be_used(
        self, damage: str, saved: TrainedHead, caches: dict[str, Cache], labels: dict[bytes, str]
    ) -> None:
        whole, before = saved.path.read_bytes(), saved.tensors
        if damage == "flipped":
            saved.path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 64]) + whole[-8:])
        else:
            state = saved.module().state_dict()
            save_file(state, saved.path, {"format": "frostline-head-1", "info": "{}"})
        done = train_heads(caches["cpu"], labels, "dataset", ONE, saved.path.parent)
        assert (done.trained, [head.path for head in done.heads]) == (1, [saved.path])
        assert [saved.path.name in remark for remark in done.remarks] == [True]
        np.testing.assert_equal(done.heads[0].tensors, before)

    def test_files_obey_the_umask(self, saved: TrainedHead, tmp_path: Path) -> None:
        before = os.umask(0o027)
        try:
            path = save_head(tmp_path / "new", saved.info, saved.module().state_dict()).path
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("name", HEADS)
def test_tensors_have_the_shapes_of_the_module(name: str) -> None:
    module = build_head(name, 7, 3, rows=5)
    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    assert tensor_shapes(name, 7, 3, rows=5) == shapes
