"""Heads that are fitted in closed form or to convergence, instead of by an optimizer.

- All strengths of regularisation are fitted in one call.
- Results are scikit-learn's, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize, one_hot

from heads.architectures import NEIGHBOURS

# (embeddings float64 [N, D], labels int64 [N], classes C, strengths) → a state_dict for each
Fit = Callable[[Tensor, Tensor, int, tuple[float, ...]], list[dict[str, Tensor]]]
NEVER = -1e30  # logit of a class without images
LBFGS = {"maxiter": 10_000, "gtol": 1e-6, "ftol": 1e-14, "maxls": 50, "maxcor": 30}


def logreg(
    embeddings: Tensor, labels: Tensor, classes: int, strengths: tuple[float, ...]
) -> list[dict[str, Tensor]]:
    """Minimise mean cross entropy + λ/2 |W|² by SciPy's L-BFGS, from strong λ to weak.

    The minimum of scikit-learn's `LogisticRegression` with C = 1 / (λ N). Embeddings are centred,
    which the free bias allows and which takes fewer steps.
    """
    from scipy.optimize import minimize

    centre = embeddings.mean(0)
    embeddings, (count, dim) = embeddings - centre, embeddings.shape
    # For two classes scikit-learn has one weight vector, of twice the length of our two.
    share = 2.0 if classes == 2 else 1.0

    def objective(flat: NDArray[np.float64], strength: float) -> tuple[float, NDArray[np.float64]]:
        parameters = torch.from_numpy(flat).view(classes, dim + 1)
        weight, bias = parameters[:, :dim], parameters[:, dim]
        log_p = log_softmax(torch.addmm(bias, embeddings, weight.t()), 1)
        loss = -log_p[torch.arange(count), labels].mean() + strength / 2 * weight.square().sum()
        by_logits = (log_p.exp() - one_hot(labels, classes)) / count
        by_weight = by_logits.t() @ embeddings + strength * weight
        gradient = torch.cat([by_weight, by_logits.sum(0)[:, None]], 1)
        return float(loss), gradient.view(-1).numpy()

    states, start = {}, np.zeros(classes * (dim + 1))
    for strength in sorted(strengths, reverse=True):  # each starts from the stronger one's minimum
        start = minimize(
            objective, start, (strength * share,), "L-BFGS-B", jac=True, options=LBFGS
        ).x
        parameters = torch.from_numpy(start.copy()).view(classes, dim + 1)
        weight = parameters[:, :dim]
        states[strength] = _linear(weight, parameters[:, dim] - weight @ centre)
    return [states[strength] for strength in strengths]


def ridge(
    embeddings: Tensor, labels: Tensor, classes: int, strengths: tuple[float, ...]
) -> list[dict[str, Tensor]]:
    """Minimise mean ½ |y - xW - b|² + λ/2 |W|² for y = ±1: one eigendecomposition for every λ."""
    targets = one_hot(labels, classes).to(embeddings) * 2 - 1
    centre, middle = embeddings.mean(0), targets.mean(0)
    x, y, count = embeddings - centre, targets - middle, len(labels)
    fewer_rows = count <= x.shape[1]  # then (XXᵀ)⁻¹ is the smaller one: Xᵀ(XXᵀ + nλ)⁻¹Y
    values, vectors = torch.linalg.eigh(x @ x.t() if fewer_rows else x.t() @ x)
    rotated = vectors.t() @ (y if fewer_rows else x.t() @ y)
    states = []
    for strength in strengths:
        solved = vectors @ (rotated / (values.clamp(min=0) + count * strength)[:, None])
        weight = (x.t() @ solved if fewer_rows else solved).t()
        states.append(_linear(weight, middle - weight @ centre))
    return states


def prototype(
    embeddings: Tensor, labels: Tensor, classes: int, strengths: tuple[float, ...]
) -> list[dict[str, Tensor]]:
    """Nearest class mean μ: -½|x - μ|² is linear in x up to a term that all classes share."""
    present = torch.bincount(labels, minlength=classes) > 0
    means = torch.stack([embeddings[labels == number].sum(0) for number in range(classes)])
    means /= torch.bincount(labels, minlength=classes).clamp(min=1)[:, None]
    return [_linear(means, torch.where(present, -means.square().sum(1) / 2, NEVER))]


def knn(
    embeddings: Tensor, labels: Tensor, classes: int, strengths: tuple[float, ...]
) -> list[dict[str, Tensor]]:
    """Store the training images; see `NearestNeighbors`."""
    return [{"directions": normalize(embeddings).float(), "labels": labels}]


class NearestNeighbors(nn.Module):
    """Votes of the nearest training images by cosine: float32 [B, D] → log shares [B, C].

    Every class has one more vote (Laplace), so that no share is 0.
    """

    directions: Tensor
    labels: Tensor

    def __init__(self, dim: int, classes: int, rows: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("directions", torch.zeros(rows, dim))
        self.register_buffer("labels", torch.zeros(rows, dtype=torch.long))

    def forward(self, embeddings: Tensor) -> Tensor:
        """See the class."""
        cosines = normalize(embeddings) @ self.directions.t()
        nearest = cosines.topk(min(NEIGHBOURS, len(self.labels)), dim=1).indices
        # As floats: OpenVINO 2026.4 adds integers wrongly from the third image on.
        votes = one_hot(self.labels[nearest], self.classes).to(cosines).sum(1) + 1
        return (votes / votes.sum(1, keepdim=True)).log()


def _linear(weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """Return the tensors of one linear layer: weight [C, D], bias [C]."""
    return {"weight": weight.float().contiguous(), "bias": bias.float().contiguous()}


FITS: dict[str, Fit] = {
    "logreg": logreg,
    "ridge": ridge,
    "prototype": prototype,
    "knn": knn,
}
