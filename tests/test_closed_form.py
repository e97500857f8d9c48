"""Fitted heads answer as scikit-learn's do."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from torch import Tensor

from cache.store import Cache, read
from extract.dataset import scan
from heads.architectures import HEADS
from heads.closed_form import FITS
from heads.modules import build_head
from tests.conftest import ROOT

FITTED = [name for name, head in HEADS.items() if head.fitted]


@pytest.fixture(scope="module")
def embeddings(caches: dict[str, Cache]) -> Tensor:
    return torch.tensor(read(caches["cpu"], tuple(scan(ROOT / "dataset").labels)))


@pytest.fixture(params=[2, 3], ids=["two classes", "three"])
def labels(request: pytest.FixtureRequest, embeddings: Tensor) -> Tensor:
    """Classes that overlap: by the first embedding's rank, with every seventh at random."""
    labels: Tensor = embeddings[:, 0].argsort().argsort() * request.param // len(embeddings)
    labels[::7] = torch.arange(len(labels[::7])) % request.param
    return labels


def answers(name: str, embeddings: Tensor, labels: Tensor, strengths: tuple[float, ...]) -> Tensor:
    """Fit on all but each fifth image, answer for these; one [N, C] of probabilities per λ."""
    classes = int(labels.max()) + 1
    training = torch.arange(len(labels)) % 5 > 0
    states = FITS[name](embeddings[training].double(), labels[training], classes, strengths)
    given = []
    for state in states:
        head = build_head(name, embeddings.shape[1], classes, int(training.sum()))
        head.load_state_dict(state)
        given.append(head(embeddings[~training]).softmax(1).detach())
    return torch.stack(given)


Peer = Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]


def logreg(x: np.ndarray, y: np.ndarray, new: np.ndarray, strength: float) -> np.ndarray:
    model = LogisticRegression(C=1 / (strength * len(y)), tol=1e-8, max_iter=100_000)
    return np.asarray(model.fit(x, y).predict_proba(new))


def test_logreg_is_scikit_learns(embeddings: Tensor, labels: Tensor) -> None:
    training = np.arange(len(labels)) % 5 > 0
    x, y = embeddings.double().numpy(), labels.numpy()
    path = (1e-3, 1e-1, 10.0)
    for strength, given in zip(path, answers("logreg", embeddings, labels, path), strict=True):
        expected = logreg(x[training], y[training], x[~training], strength)
        assert np.abs(given.numpy() - expected).max() < 1e-3


@pytest.mark.parametrize("rows", [92, 30])
@pytest.mark.parametrize("dim", [20, 1280])
def test_ridge_is_scikit_learns(rows: int, dim: int, embeddings: Tensor, labels: Tensor) -> None:
    """With more rows than dimensions, and with fewer."""
    x, y = embeddings[:rows, :dim].double(), labels[:rows]
    classes = int(labels.max()) + 1
    targets = np.eye(classes)[y] * 2 - 1
    strengths = (1e-3, 1e-1, 10.0)
    for strength, state in zip(strengths, FITS["ridge"](x, y, classes, strengths), strict=True):
        model = Ridge(alpha=strength * rows).fit(x.numpy(), targets)
        np.testing.assert_allclose(state["weight"], model.coef_, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(state["bias"], model.intercept_, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")  # of numbers that are always 0
def test_prototype_is_scikit_learns(embeddings: Tensor, labels: Tensor) -> None:
    training = np.arange(len(labels)) % 5 > 0
    x, y = embeddings.numpy(), labels.numpy()
    expected = NearestCentroid().fit(x[training], y[training]).predict(x[~training])
    given = answers("prototype", embeddings, labels, (0.0,))[0].argmax(1)
    assert (given.numpy() == expected).all()


def test_knn_is_scikit_learns(embeddings: Tensor, labels: Tensor) -> None:
    training = np.arange(len(labels)) % 5 > 0
    x, y = embeddings.numpy(), labels.numpy()
    model = KNeighborsClassifier(5, metric="cosine").fit(x[training], y[training])
    votes = model.predict_proba(x[~training]) * 5 + 1
    given = answers("knn", embeddings, labels, (0.0,))[0]
    np.testing.assert_allclose(given, votes / votes.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("name", FITTED)
def test_constant_features_and_few_images_do_no_harm(name: str) -> None:
    constant, labels = torch.ones(3, 8), torch.tensor([0, 1, 1])
    for state in FITS[name](constant.double(), labels, 2, HEADS[name].strengths):
        head = build_head(name, 8, 2, 3)
        head.load_state_dict(state)
        assert head(constant).isfinite().all()


def test_a_class_without_images_is_never_the_nearest() -> None:
    rows = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(30) % 2 * 2  # of three classes, none of the middle one
    (state,) = FITS["prototype"](rows, labels, 3, (0.0,))
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert set((rows.float() @ state["weight"].t() + state["bias"]).argmax(1).tolist()) == {0, 2}
