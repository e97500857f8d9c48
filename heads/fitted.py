"""Heads that are fitted at once instead of trained step by step; see `Fit`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

# (embeddings float64 [N, D], labels int64 [N], classes C, strengths) → a state_dict for each
Fit = Callable[[Tensor, Tensor, int, tuple[float, ...]], list[dict[str, Tensor]]]
NEIGHBOURS = 5
MOST_ITERATIONS, TOLERANCE = 10_000, 1e-6  # of the gradient


def logreg(
    embeddings: Tensor, labels: Tensor, classes: int, strengths: tuple[float, ...]
) -> list[dict[str, Tensor]]:
    """Minimise mean cross entropy + λ/2 |W|² by scikit-learn's L-BFGS, from strong λ to weak."""
    from sklearn.linear_model import LogisticRegression

    features, targets = embeddings.numpy(), labels.numpy()
    # Each λ begins where the stronger one ended: a path, far shorter than so many ways from zero.
    model = LogisticRegression(max_iter=MOST_ITERATIONS, tol=TOLERANCE, warm_start=True)
    found = {}
    for strength in sorted(strengths, reverse=True):
        model.set_params(C=1 / (strength * len(labels))).fit(features, targets)
        weight, bias = (torch.from_numpy(a.copy()) for a in (model.coef_, model.intercept_))
        if classes == 2:  # scikit-learn has one logit for two classes: halve it between them
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        found[strength] = _linear(weight, bias)
    return [found[strength] for strength in strengths]


def ridge(
    embeddings: Tensor, labels: Tensor, classes: int, strengths: tuple[float, ...]
) -> list[dict[str, Tensor]]:
    """Minimise mean ½ |y - xW - b|² + λ/2 |W|² for y = ±1: one eigendecomposition for every λ."""
    targets = one_hot(labels, classes).to(embeddings) * 2 - 1
    centre, middle = embeddings.mean(0), targets.mean(0)
    x, y, count = embeddings - centre, targets - middle, len(labels)
    fewer_rows = count <= x.shape[1]  # then (XXᵀ)⁻¹ is the smaller one: Xᵀ(XXᵀ + nλ)⁻¹Y
    values, vectors = torch.linalg.eigh(x @ x.t() if fewer_rows else x.t() @ x)
    turned = vectors.t() @ (y if fewer_rows else x.t() @ y)
    found = []
    for strength in strengths:
        solved = vectors @ (turned / (values.clamp(min=0) + count * strength)[:, None])
        weight = (x.t() @ solved if fewer_rows else solved).t()
        found.append(_linear(weight, middle - weight @ centre))
    return found


def prototype(
    embeddings: Tensor, labels: Tensor, classes: int, strengths: tuple[float, ...]
) -> list[dict[str, Tensor]]:
    """Answer by the nearest class mean μ: -½|x - μ|² is linear in x but for what all share."""
    means = torch.stack([embeddings[labels == number].mean(0) for number in range(classes)])
    return [_linear(means, -means.square().sum(1) / 2)]


def knn(
    embeddings: Tensor, labels: Tensor, classes: int, strengths: tuple[float, ...]
) -> list[dict[str, Tensor]]:
    """Keep the images; see `Neighbours`."""
    return [{"directions": normalize(embeddings).float(), "labels": labels}]


class Neighbours(nn.Module):
    """The votes of the nearest of `kept` embeddings by cosine: float32 [B, D] → log shares [B, C].

    A class without a vote has one as well (Laplace), so that its share is no 0.
    """

    directions: Tensor
    labels: Tensor

    def __init__(self, dim: int, classes: int, kept: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("directions", torch.zeros(kept, dim))
        self.register_buffer("labels", torch.zeros(kept, dtype=torch.long))

    def forward(self, embeddings: Tensor) -> Tensor:
        """See the class."""
        near = normalize(embeddings) @ self.directions.t()
        nearest = near.topk(min(NEIGHBOURS, len(self.labels)), dim=1).indices
        votes = one_hot(self.labels[nearest], self.classes).sum(1) + 1
        return (votes / votes.sum(1, keepdim=True)).log()


def _linear(weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """Return the tensors of one linear layer: weight [C, D], bias [C]."""
    return {"weight": weight.float().contiguous(), "bias": bias.float().contiguous()}


FITS: dict[str, Fit] = {"logreg": logreg, "ridge": ridge, "prototype": prototype, "knn": knn}
