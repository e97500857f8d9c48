"""Temperatures are fitted to what heads say of images they have not seen, and chosen by it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from cache.store import Cache, read
from extract.dataset import scan
from heads.batched.fit import TrainingData, train
from heads.config import HeadConfig
from heads.embedding_dataset import labelled
from heads.search.space import SearchPlan, combinations
from heads.splits import Groups, split
from heads.temperature_scaling import calibrated_losses, fit_temperature, fit_temperatures
from heads.training import TrainingSettings, train_heads
from tests.conftest import ROOT

LABELS = dict(sorted(scan(ROOT / "dataset").labels.items()))
CLASSES = sorted(set(LABELS.values()))
NUMBERS = np.array([CLASSES.index(label) for label in LABELS.values()])

Floats = NDArray[np.float64]


def reference(logits: Floats, labels: NDArray[np.int64]) -> float:
    """SciPy's minimum of the cross entropy with the targets of Platt (1999)."""
    images, classes = logits.shape
    hit = (images + 1) / (images + 2)
    targets = np.where(np.eye(classes)[labels] == 1, hit, (1 - hit) / (classes - 1))

    def loss(log_temperature: float) -> float:
        return float(-(targets * log_softmax(logits / np.exp(log_temperature), 1)).sum())

    return float(np.exp(minimize_scalar(loss, bounds=(-9, 9), options={"xatol": 1e-8}).x))


class TestFit:
    @pytest.mark.parametrize("classes", [2, 7])
    def test_many_heads_at_once_as_scipy_does_one(self, classes: int) -> None:
        random = np.random.default_rng(0)
        labels = random.integers(classes, size=60)
        logits = random.normal(size=(4, 60, classes)) * np.array([0.01, 1, 5, 300])[:, None, None]
        logits += 2 * logits.std((1, 2))[:, None, None] * np.eye(classes)[labels]
        expected = [reference(each, labels) for each in logits]
        assert fit_temperatures(logits, labels) == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("images", [4, 19, 92])
    def test_perfectly_separated_images_have_a_finite_temperature(self, images: int) -> None:
        """Equal margins: the confidence becomes (N + 1) / (N + 2), whatever the logits' scale."""
        labels = np.arange(images) % 2
        for scale in (1e-2, 1.0, 1e3):
            logits = scale * np.eye(2)[labels]
            confidence = 1 / (1 + np.exp(-scale / fit_temperature(logits, labels)))
            assert confidence == pytest.approx((images + 1) / (images + 2))

    def test_a_head_gains_nothing_by_being_surer(self) -> None:
        random = np.random.default_rng(1)
        labels = random.integers(3, size=30)
        logits = random.normal(size=(30, 3)) + 4 * np.eye(3)[labels]
        losses = calibrated_losses(np.stack([logits, 50 * logits, logits / 50]), labels)
        assert losses == pytest.approx(losses[0], rel=1e-6)

    def test_equal_logits_are_no_trouble(self) -> None:
        temperature = fit_temperature(np.zeros((5, 2)), np.array([0, 1, 0, 1, 0]))
        assert 0 < temperature < np.inf


def nearest_mean_logits(embeddings: Floats, groups: Groups, folds: int) -> Floats:
    """Logits of nearest class means by NumPy, each image's from folds without it."""
    keys, logits = list(LABELS), np.empty((len(LABELS), 2))
    for number in range(1, folds + 1):
        held_out = set(split(LABELS, 0.2, 0, f"{number}/{folds}", groups).validation)
        out = np.array([key in held_out for key in keys])
        means = np.stack([embeddings[~out & (c == NUMBERS)].mean(0) for c in range(2)])
        logits[out] = embeddings[out] @ means.T - (means**2).sum(1) / 2
    return logits


class TestTrainedHeads:
    @pytest.fixture
    def embeddings(self, caches: dict[str, Cache]) -> Floats:
        return read(caches["cpu"], list(LABELS)).astype(np.float64)

    @pytest.mark.parametrize("cv", [0, 3])
    @pytest.mark.parametrize("grouped", [False, True])
    def test_by_held_out_folds_of_all_images(
        self, cv: int, grouped: bool, embeddings: Floats, caches: dict[str, Cache], tmp_path: Path
    ) -> None:
        """Five folds, or those that judged; groups are on one side."""
        groups = {key: place // 4 for place, key in enumerate(LABELS)} if grouped else {}
        sweep = SearchPlan((HeadConfig("prototype", "none"),), cv=cv)
        done = train_heads(
            caches["cpu"], LABELS, "dataset", sweep, tmp_path, TrainingSettings(groups)
        )
        info = done.heads[0].info
        logits = nearest_mean_logits(embeddings, groups, cv or 5)
        temperature = reference(logits, NUMBERS)
        chances = log_softmax(logits / temperature, 1)
        assert info.temperature == pytest.approx(temperature, rel=1e-3)
        assert info.calibrated_loss == pytest.approx(
            -chances[np.arange(len(NUMBERS)), NUMBERS].mean(), rel=1e-3
        )
        assert info.calibration_folds == (cv or 5)

    def test_a_small_class_has_fewer_folds(self, caches: dict[str, Cache], tmp_path: Path) -> None:
        gels = [key for key, label in LABELS.items() if label == "gel"]
        labels = {key: label for key, label in LABELS.items() if key not in gels[3:]}
        sweep = SearchPlan((HeadConfig("ridge", "none", weight_decay=1),))
        done = train_heads(caches["cpu"], labels, "dataset", sweep, tmp_path)
        assert done.heads[0].info.calibration_folds == 3

    def test_the_head_itself_is_as_without_folds(
        self, caches: dict[str, Cache], tmp_path: Path
    ) -> None:
        """To the last bit, for each kind of head."""
        kinds: dict[str, list[Any]] = {
            "head": ["single", "multi", "mlp-gelu", "ridge", "knn"],
            "epochs": [3],
        }
        some = tuple(c for c in combinations(kinds) if c.weight_decay in (0, 1))
        hashes = np.frombuffer(b"".join(LABELS), np.uint8).reshape(-1, 32)
        rows = labelled(caches["cpu"], hashes, torch.from_numpy(NUMBERS), 2)
        alone = {
            c: trained.state
            for group, results in train(some, TrainingData(LABELS, rows), keep=True)
            for c, trained in zip(group, results, strict=True)
        }
        for saved in train_heads(caches["cpu"], LABELS, "d", SearchPlan(some), tmp_path).heads:
            expected = alone[saved.info.configuration]
            assert expected is not None
            for name, tensor in saved.module().state_dict().items():
                assert torch.equal(tensor, expected[name])

    def test_of_strengths_that_are_all_right_the_strongest_is_kept(
        self, caches: dict[str, Cache], tmp_path: Path
    ) -> None:
        """The weakest has the lowest raw loss by far, and is no better."""
        sweep = SearchPlan(tuple(combinations({"head": ["logreg"]})))
        done = train_heads(caches["cpu"], LABELS, "dataset", sweep, tmp_path)
        equal = [r for r in done.ranked if r.score.accuracy == done.ranked[0].score.accuracy]
        least = min(equal, key=lambda r: r.score.loss)
        chosen = done.heads[0].info.configuration
        assert least.candidate.weight_decay == 1e-4
        assert chosen.weight_decay >= 1
