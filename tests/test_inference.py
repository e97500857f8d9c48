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
from heads.inference import answer, probabilities
from heads.search.space import SearchPlan, combinations
from heads.store import SavedHead, load_head
from heads.training import train_heads
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def heads(
    caches: dict[str, Cache], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SavedHead]:
    """A head of every kind, trained on the fixtures' rows."""
    sweep = SearchPlan(tuple(combinations({"head": list(HEADS), "optimizer": ["adam"]})))
    folder = tmp_path_factory.mktemp("heads")
    done = train_heads(caches["cpu"], scan(ROOT / "dataset").labels, "dataset", sweep, folder)
    return {saved.info.configuration.head: saved for saved in done.heads}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_answers_as_its_module(
    name: str, heads: dict[str, SavedHead], caches: dict[str, Cache]
) -> None:
    rows = np.array(read(caches["cpu"]))
    with torch.inference_mode():
        expected = load_head(heads[name])(torch.from_numpy(rows)).numpy()
    assert np.abs(answer(heads[name], rows) - expected).max() < 1e-5 * np.abs(expected).max()


def test_probabilities_are_those_of_divided_logits() -> None:
    logits = np.array([[2000.0, 0, -5], [1, 2, 3]], np.float32)
    found = probabilities(logits, 2.5)
    np.testing.assert_allclose(found, softmax(logits.astype(float) / 2.5, axis=1))
    assert found.argmax(1).tolist() == [0, 2]


def test_a_damaged_head_is_named(heads: dict[str, SavedHead], tmp_path: Path) -> None:
    copy = SavedHead(tmp_path / "cut.safetensors", heads["single"].info)
    copy.path.write_bytes(heads["single"].path.read_bytes()[:-100])
    with pytest.raises(HeadError, match=r"cut\.safetensors can't be used: .*train-heads again"):
        answer(copy, np.zeros((1, 1280), np.float32))
