"""The table of optimizers. Each updates many heads at once, with `torch.optim`'s arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's, as Kingma & Ba 2015 and torch have them


@dataclass(frozen=True)
class Rates:
    """What an update goes by: a column [K, 1] with a number for each head.

    learning_rate: of this epoch. decay: weight decay; None if no head has any. momentum: None if no
    head has any. first, second: Adam's corrections of this step, 1 - β₁ᵗ and √(1 - β₂ᵗ), as tensors
    of one number (a new Python number would be compiled anew by XLA).
    """

    learning_rate: Tensor
    decay: Tensor | None
    momentum: Tensor | None
    nesterov: bool
    first: Tensor
    second: Tensor

    def of(self, heads: slice) -> Rates:
        """Return the rates of some of the heads."""
        decay = None if self.decay is None else self.decay[heads]
        momentum = None if self.momentum is None else self.momentum[heads]
        return replace(
            self, learning_rate=self.learning_rate[heads], decay=decay, momentum=momentum
        )


@dataclass(frozen=True)
class Optimizer:
    """memory: tensors of the parameters' size that it remembers. momentum: whether it has one.

    update: (parameters [K, P], their gradient, the memory, rates); changes all three in place.
    standard: used unless others are asked for.
    """

    summary: str
    memory: int
    momentum: bool
    update: Callable[[Tensor, Tensor, Sequence[Tensor], Rates], None]
    standard: bool = True


def _sgd(weights: Tensor, gradient: Tensor, memory: Sequence[Tensor], rates: Rates) -> None:
    if rates.decay is not None:
        gradient.addcmul_(weights, rates.decay)
    if rates.momentum is not None:
        (velocity,) = memory
        velocity.mul_(rates.momentum).add_(gradient)
        if rates.nesterov:
            gradient.addcmul_(velocity, rates.momentum)
        else:
            gradient = velocity
    weights.addcmul_(gradient, rates.learning_rate, value=-1)


def _adam(weights: Tensor, gradient: Tensor, memory: Sequence[Tensor], rates: Rates) -> None:
    if rates.decay is not None:
        gradient.addcmul_(weights, rates.decay)
    _adam_step(weights, gradient, memory, rates)


def _adamw(weights: Tensor, gradient: Tensor, memory: Sequence[Tensor], rates: Rates) -> None:
    if rates.decay is not None:
        weights.mul_(1 - rates.learning_rate * rates.decay)
    _adam_step(weights, gradient, memory, rates)


def _adam_step(weights: Tensor, gradient: Tensor, memory: Sequence[Tensor], rates: Rates) -> None:
    mean, square = memory
    mean.lerp_(gradient, 1 - BETAS[0])
    square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    divisor = square.sqrt().div_(rates.second).add_(EPSILON)
    step = divisor.reciprocal_().mul_(mean)
    weights.addcmul_(step, rates.learning_rate / rates.first, value=-1)


OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Optimizer("Adam, β = (0.9, 0.999)", 2, False, _adam),
    "sgd": Optimizer("stochastic gradient descent with momentum", 1, True, _sgd),
    "adamw": Optimizer("Adam with decoupled weight decay", 2, False, _adamw, standard=False),
}
