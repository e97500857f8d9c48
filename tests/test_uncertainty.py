"""Doubt: scores that rise where an answer should not be trusted, and errors provoked to compare."""

import json
import shutil
from collections.abc import Callable
from math import nan
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from cache.errors import HeadError, ResultsError
from cache.store import Cache, read
from evaluate.predict import measured_doubt
from evaluate.uncertainty import fitting
from evaluate.uncertainty.corruptions import CORRUPTIONS
from evaluate.uncertainty.fitting import measure_doubt
from evaluate.uncertainty.scores import (
    SCORES,
    Uncertainty,
    doubt_path,
    doubts,
    most_powerful,
    power,
    read_doubt,
    write_doubt,
)
from evaluate.workspace.layout import Workspace
from extract.dataset import scan
from extract.embedding_spec import EmbeddingSpec, load_backbone
from extract.imaging.decode import decode_gray
from heads.config import HeadConfig
from heads.search.space import SearchPlan
from heads.store import save_head
from heads.training import train_heads
from tests.conftest import FIXTURES, ROOT

pytestmark = pytest.mark.slow

Few = Callable[[int, int], Path]
RANDOM = np.random.default_rng(0)
TWO = np.repeat([0, 1], 200)
# Two classes around (3, 0, …) and (-3, 0, …), wide in one direction.
SPREAD = np.diag([0.5, 4.0, 0.5, 0.5, 0.5, 0.5]).astype(np.float32)
CENTRES = np.outer([3.0, -3.0], [1, 0, 0, 0, 0, 0]).astype(np.float32)
ROWS = (CENTRES[TWO] + RANDOM.normal(size=(400, 6)) @ SPREAD).astype(np.float32)
SURE = np.array([[0.99, 0.01]] * 400)


def score(
    name: str, rows: NDArray[np.float32], chances: NDArray[np.float64]
) -> NDArray[np.float64]:
    return SCORES[name].score(SCORES[name].fit(ROWS, TWO), chances, rows)


class TestScores:
    @pytest.mark.parametrize("name", ["margin", "confidence"])
    def test_an_even_answer_is_doubted_more(self, name: str) -> None:
        chances = np.array([[0.5, 0.5], [0.7, 0.3], [0.99, 0.01], [1 - 1e-12, 1e-12]])
        found = score(name, ROWS[:4], chances)
        assert (np.diff(found) < 0).all()

    @pytest.mark.parametrize("name", ["mahalanobis", "neighbour"])
    def test_what_is_unlike_all_training_images_is_doubted_more(self, name: str) -> None:
        usual = score(name, ROWS, SURE)
        strange = score(name, np.array([[0, 0, 0, 9, -9, 9]], np.float32), SURE[:1])
        assert strange[0] > np.quantile(usual, 0.99)

    def test_far_in_a_wide_direction_is_nearer_than_in_a_narrow_one(self) -> None:
        wide, narrow = np.array([[3, 6, 0, 0, 0, 0], [3, 0, 6, 0, 0, 0]], np.float32)
        found = score("mahalanobis", np.stack([wide, narrow]), SURE[:2])
        assert found[0] < found[1]

    def test_mahalanobis_is_scipys_with_scikit_learns_covariance(self) -> None:
        residuals = ROWS - np.stack([ROWS[c == TWO].mean(0) for c in (0, 1)])[TWO]
        precision = LedoitWolf(assume_centered=True).fit(residuals.astype(float)).precision_
        means = [ROWS[c == TWO].mean(0) for c in (0, 1)]
        expected = [
            min(mahalanobis(row, mean, precision) ** 2 for mean in means) for row in ROWS[:50]
        ]
        found = np.expm1(score("mahalanobis", ROWS[:50], SURE[:50]))
        np.testing.assert_allclose(found, expected, rtol=1e-3)

    def test_a_training_image_is_its_own_neighbour(self) -> None:
        assert np.abs(score("neighbour", ROWS, SURE)).max() < 1e-5

    def test_power_is_how_often_an_error_has_more(self) -> None:
        errors = np.array([True, False, True, False])
        assert power(errors, np.array([3.0, 1, 2, 0])) == 1
        assert power(errors, np.array([0.0, 1, 2, 3])) == 0.25
        assert np.isnan(power(np.zeros(4, bool), np.arange(4.0)))

    def test_the_most_powerful_is_chosen(self) -> None:
        unknown = dict.fromkeys(SCORES, nan)
        assert most_powerful(unknown) == "margin"
        assert most_powerful(unknown | {"neighbour": 0.6}) == "neighbour"


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_changes_the_picture_and_keeps_its_form(name: str) -> None:
    pixels = decode_gray(min((ROOT / "dataset" / "gel").iterdir()).read_bytes()).pixels[0]
    apply = CORRUPTIONS[name].apply
    found = apply(pixels, np.random.default_rng(0))
    assert (found.shape, found.dtype) == (pixels.shape, pixels.dtype)
    assert np.abs(found.astype(int) - pixels).mean() > 2
    assert np.array_equal(found, apply(pixels, np.random.default_rng(0)))


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A workspace with the committed caches."""
    shutil.copytree(FIXTURES, tmp_path / "out" / "cache")
    return Workspace(tmp_path / "out")


class TestMeasured:
    def test_it_is_measured_on_errors_of_three_kinds_and_kept(
        self, place: Workspace, caches: dict[str, Cache]
    ) -> None:
        training = scan(ROOT / "dataset")
        sweep = SearchPlan((HeadConfig("single", "adam"),))
        (saved,) = train_heads(caches["cpu"], training.labels, "dataset", sweep, place.heads).heads
        backbone = load_backbone("efficientnet_lite0", "imagenet")
        target = EmbeddingSpec.of_key(saved.info.identity, backbone, ("openvino",))
        told: list[int] = []
        doubt = measure_doubt(
            saved, training, {}, target, place, lambda done, total: told.append(done)
        )
        assert told == list(range(1, 9))
        assert doubt.material["validation"] == 18
        assert doubt.material["corrupted"] == fitting.CORRUPTED * len(CORRUPTIONS)
        assert doubt.material["held out"] == 92  # every image is of one kind
        assert 0 < doubt.errors < 218
        assert doubt.power[doubt.chosen] == max(doubt.power.values()) > 0.6
        assert doubt.flagged_right < doubt.flagged_errors
        found = measured_doubt(saved)
        assert found and found[0] == doubt
        rows = read(caches["cpu"], sorted(training.labels)[:5])
        assert len(doubts(*found, SURE[:5], rows)) == 5
        again = {name: tensor * 2 for name, tensor in saved.module().state_dict().items()}
        save_head(place.heads, saved.info, again)
        with pytest.raises(ResultsError, match="before the head was trained again"):
            measured_doubt(saved)

    def test_a_head_of_other_images_is_refused(
        self, place: Workspace, caches: dict[str, Cache], few: Few
    ) -> None:
        training = scan(ROOT / "dataset")
        sweep = SearchPlan((HeadConfig("single", "sgd"),))
        (saved,) = train_heads(caches["cpu"], training.labels, "dataset", sweep, place.heads).heads
        backbone = load_backbone("efficientnet_lite0", "imagenet")
        target = EmbeddingSpec.of_key(saved.info.identity, backbone, ("openvino",))
        with pytest.raises(HeadError, match="was trained on other images"):
            measure_doubt(saved, scan(few(4, 1) / "dataset"), {}, target, place)

    def test_damaged_files_are_named(self, tmp_path: Path) -> None:
        path, known = doubt_path(tmp_path, "head"), tmp_path / "head.doubt.npz"
        doubt = Uncertainty("neighbour", {"neighbour": nan}, {"validation": 1}, 0, 0.5, 0.0, nan)
        write_doubt(path, doubt, {"bank": ROWS})
        assert repr(read_doubt(path)[0]) == repr(doubt)
        whole, arrays = path.read_text(), known.read_bytes()
        for field, value in (("chosen", "hope"), ("threshold", 0.6), ("power", [1]), ("sha256", 3)):
            path.write_text(json.dumps(json.loads(whole) | {field: value}))
            with pytest.raises(ResultsError, match=r"head\.doubt\.json can't be used.*evaluate"):
                read_doubt(path)
        path.write_text("[" * 100_000)
        with pytest.raises(ResultsError, match="nested too deeply"):
            read_doubt(path)
        path.write_text(whole)
        write_doubt(path, doubt, {"bank": ROWS + 1})
        known.write_bytes(arrays)  # of another measurement
        with pytest.raises(ResultsError, match=r"not that of its content and of head\.doubt\.npz"):
            read_doubt(path)
        known.write_bytes(b"x")
        with pytest.raises(ResultsError, match=r"head\.doubt\.npz can't be used"):
            read_doubt(path)
        known.unlink()
        with pytest.raises(ResultsError, match=r"head\.doubt\.npz can't be used: .*No such file"):
            read_doubt(path)
