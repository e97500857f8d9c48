"""Heads by numpy alone answer as their modules do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from cache.errors import HeadError
from cache.store import Cache, read
from extract.dataset import scan
from heads.architectures import HEADS
from heads.inference import probabilities
from heads.search.space import SearchPlan, combinations
from heads.store import TrainedHead
from heads.training import train_heads
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def heads(
    caches: dict[str, Cache], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, TrainedHead]:
    """A head of every kind, trained on the fixtures' rows."""
    sweep = SearchPlan(
        tuple(combinations({"head": [*HEADS], "optimizer": ["adam"], "epochs": [3]}))
    )
    folder = tmp_path_factory.mktemp("heads")
    done = train_heads(caches["cpu"], scan(ROOT / "dataset").labels, "dataset", sweep, folder)
    return {saved.info.configuration.head: saved for saved in done.heads}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_answers_as_its_module(
    name: str, heads: dict[str, TrainedHead], caches: dict[str, Cache]
) -> None:
    rows = np.array(read(caches["cpu"]))
    with torch.inference_mode():
        expected = heads[name].module()(torch.from_numpy(rows)).numpy()
    assert np.abs(heads[name].logits(rows) - expected).max() < 1e-5 * np.abs(expected).max()


def test_probabilities_are_those_of_divided_logits() -> None:
    logits = np.array([[2000.0, 0, -5], [1, 2, 3]], np.float32)
    found = probabilities(logits, 2.5)
    np.testing.assert_allclose(found, softmax(logits.astype(float) / 2.5, axis=1))
    assert found.argmax(1).tolist() == [0, 2]


def test_a_damaged_head_is_named(heads: dict[str, TrainedHead], tmp_path: Path) -> None:
    copy = TrainedHead(tmp_path / "cut.safetensors", heads["single"].info)
    copy.path.write_bytes(heads["single"].path.read_bytes()[:-100])
    with pytest.raises(HeadError, match=r"cut\.safetensors can't be used: .*train-heads again"):
        copy.logits(np.zeros((1, 1280), np.float32))
