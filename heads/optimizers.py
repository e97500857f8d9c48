"""The table of optimizers.

- Each updates many heads at once, with the arithmetic of `torch.optim`.
- Large heads are updated one by one by torch's fused operations, which takes 15 to 25 % less time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = list[Tensor]

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's (Kingma & Ba 2015), the defaults of torch


@dataclass(frozen=True)
class OptimizerState:
    """The rates of an update, one for each head, as columns [K, 1].

    Attributes:
        learning_rate: In this epoch.
        decay: Weight decay; None if no head has any.
        momentum: None if no head has any.
        nesterov: Whether momentum is Nesterov's.
        step: Number t of the update, from 1.
        first: Adam's correction 1 - β₁ᵗ; a tensor, as XLA compiles each new Python number.
        second: Adam's correction √(1 - β₂ᵗ).
    """

    learning_rate: Tensor
    decay: Tensor | None
    momentum: Tensor | None
    nesterov: bool
    step: int
    first: Tensor
    second: Tensor

    def of_head(self, head: int) -> dict[str, float]:
        """Return one head's rates by their names in `torch.optim`."""
        columns = {"lr": self.learning_rate, "weight_decay": self.decay, "momentum": self.momentum}
        return {
            name: 0.0 if column is None else float(column[head, 0])
            for name, column in columns.items()
        }


@dataclass(frozen=True)
class Optimizer:
    """An optimizer. Updates change parameters, gradients and states in place.

    Attributes:
        summary: For the help text.
        states: Number of tensors of the parameters' size that it remembers.
        momentum: Whether it has a momentum.
        together: Updates parameters [K, P] of many heads, from gradients and states of that shape.
        alone: Updates all tensors of the head with this number, given as lists.
        standard: Used unless others are selected.
    """

    summary: str
    states: int
    momentum: bool
    together: Callable[[Tensor, Tensor, Sequence[Tensor], OptimizerState], None]
    alone: Callable[[Tensors, Tensors, Sequence[Tensors], OptimizerState, int], None]
    standard: bool = True


def _sgd(
    weights: Tensor, gradient: Tensor, states: Sequence[Tensor], rates: OptimizerState
) -> None:
    if rates.decay is not None:
        gradient.add_(weights * rates.decay)
    if rates.momentum is not None:
        (velocity,) = states
        velocity.mul_(rates.momentum).add_(gradient)
        if rates.nesterov:
            gradient.add_(velocity * rates.momentum)
        else:
            gradient = velocity
    # Not addcmul_: with a column among its operands it is not vectorised.
    weights.sub_(gradient * rates.learning_rate)


def _adam(
    weights: Tensor,
    gradient: Tensor,
    states: Sequence[Tensor],
    rates: OptimizerState,
    decoupled: bool = False,
) -> None:
    if rates.decay is not None:
        if decoupled:
            weights.mul_(1 - rates.learning_rate * rates.decay)
        else:
            gradient.add_(weights * rates.decay)
    mean, square = states
    mean.lerp_(gradient, 1 - BETAS[0])
    square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    divisor = square.sqrt().div_(rates.second).add_(EPSILON)
    step = divisor.reciprocal_().mul_(mean)
    weights.sub_(step.mul_(rates.learning_rate / rates.first))


def _sgd_alone(
    weights: Tensors,
    gradients: Tensors,
    states: Sequence[Tensors],
    rates: OptimizerState,
    head: int,
) -> None:
    from torch.optim.sgd import sgd

    numbers, (velocities,) = rates.of_head(head), states
    sgd(
        weights, gradients, list(velocities), lr=numbers["lr"], momentum=numbers["momentum"],
        weight_decay=numbers["weight_decay"], dampening=0.0, nesterov=rates.nesterov,
        maximize=False, fused=True, foreach=False,
    )  # fmt: skip


def _adam_alone(
    weights: Tensors,
    gradients: Tensors,
    states: Sequence[Tensors],
    rates: OptimizerState,
    head: int,
    decoupled: bool = False,
) -> None:
    import torch
    from torch.optim.adam import adam

    numbers, (means, squares) = rates.of_head(head), states
    steps = [torch.tensor(rates.step - 1.0) for _ in weights]
    adam(
        weights, gradients, means, squares, [], steps, lr=numbers["lr"],
        weight_decay=numbers["weight_decay"], beta1=BETAS[0], beta2=BETAS[1], eps=EPSILON,
        amsgrad=False, maximize=False, fused=True, foreach=False, decoupled_weight_decay=decoupled,
    )  # fmt: skip


OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Optimizer("Adam, β = (0.9, 0.999)", 2, False, _adam, _adam_alone),
    "sgd": Optimizer("stochastic gradient descent with momentum", 1, True, _sgd, _sgd_alone),
    "adamw": Optimizer(
        "Adam with decoupled weight decay",
        2,
        False,
        partial(_adam, decoupled=True),
        partial(_adam_alone, decoupled=True),
        standard=False,
    ),
}
