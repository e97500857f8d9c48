"""The table of optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer as TorchOptimizer


@dataclass(frozen=True)
class Optimizer:
    """build: (parameters, learning rate, momentum) → torch's optimizer; `momentum` says whether the
    latter means anything to it.
    """

    summary: str
    momentum: bool
    build: Callable[[Iterable[Tensor], float, float], TorchOptimizer]


def _adam(parameters: Iterable[Tensor], learning_rate: float, momentum: float) -> TorchOptimizer:
    from torch.optim import Adam

    return Adam(parameters, lr=learning_rate)


def _sgd(parameters: Iterable[Tensor], learning_rate: float, momentum: float) -> TorchOptimizer:
    from torch.optim import SGD

    return SGD(parameters, lr=learning_rate, momentum=momentum)


OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Optimizer("Adam, β = (0.9, 0.999)", False, _adam),
    "sgd": Optimizer("stochastic gradient descent with momentum", True, _sgd),
}
