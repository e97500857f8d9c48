"""The table of optimizers. Each updates many heads at once, with `torch.optim`'s arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = list[Tensor]

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's, as Kingma & Ba 2015 and torch have them


@dataclass(frozen=True)
class OptimizerState:
    """What an update goes by: a column [K, 1] with a number for each head.

    learning_rate: of this epoch. decay: weight decay; None if no head has any. momentum: None if no
    head has any. step: from 1. first, second: Adam's corrections of this step t, 1 - β₁ᵗ and
    √(1 - β₂ᵗ), as tensors of one number (a new Python number would be compiled anew by XLA).
    """

    learning_rate: Tensor
    decay: Tensor | None
    momentum: Tensor | None
    nesterov: bool
    step: int
    first: Tensor
    second: Tensor

    def numbers(self, head: int) -> dict[str, float]:
        """Return one head's rates by the names that `torch.optim` has for them."""
        columns = {"lr": self.learning_rate, "weight_decay": self.decay, "momentum": self.momentum}
        return {
            name: 0.0 if column is None else float(column[head, 0])
            for name, column in columns.items()
        }


@dataclass(frozen=True)
class Optimizer:
    """memory: tensors of the parameters' size that it remembers. momentum: whether it has one.

    together: (parameters [K, P], their gradient, the memory, rates) of many heads. alone: the same
    of all tensors of one head, as lists, by torch's own fused operation, which is faster where a
    head has many parameters. Both change parameters, gradient and memory in place. standard: used
    unless others are asked for.
    """

    summary: str
    memory: int
    momentum: bool
    together: Callable[[Tensor, Tensor, Sequence[Tensor], OptimizerState], None]
    alone: Callable[[Tensors, Tensors, Sequence[Tensors], OptimizerState, int], None]
    standard: bool = True


def _sgd(
    weights: Tensor, gradient: Tensor, memory: Sequence[Tensor], rates: OptimizerState
) -> None:
    if rates.decay is not None:
        gradient.add_(weights * rates.decay)
    if rates.momentum is not None:
        (velocity,) = memory
        velocity.mul_(rates.momentum).add_(gradient)
        if rates.nesterov:
            gradient.add_(velocity * rates.momentum)
        else:
            gradient = velocity
    # Not addcmul_: a column among its three operands costs it its vector instructions.
    weights.sub_(gradient * rates.learning_rate)


def _adam(
    weights: Tensor, gradient: Tensor, memory: Sequence[Tensor], rates: OptimizerState
) -> None:
    if rates.decay is not None:
        gradient.add_(weights * rates.decay)
    _adam_step(weights, gradient, memory, rates)


def _adamw(
    weights: Tensor, gradient: Tensor, memory: Sequence[Tensor], rates: OptimizerState
) -> None:
    if rates.decay is not None:
        weights.mul_(1 - rates.learning_rate * rates.decay)
    _adam_step(weights, gradient, memory, rates)


def _adam_step(
    weights: Tensor, gradient: Tensor, memory: Sequence[Tensor], rates: OptimizerState
) -> None:
    mean, square = memory
    mean.lerp_(gradient, 1 - BETAS[0])
    square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    divisor = square.sqrt().div_(rates.second).add_(EPSILON)
    step = divisor.reciprocal_().mul_(mean)
    weights.sub_(step.mul_(rates.learning_rate / rates.first))


def _sgd_alone(
    weights: Tensors,
    gradients: Tensors,
    memory: Sequence[Tensors],
    rates: OptimizerState,
    head: int,
) -> None:
    from torch.optim.sgd import sgd

    numbers, (velocities,) = rates.numbers(head), memory
    sgd(
        weights, gradients, list(velocities), lr=numbers["lr"], momentum=numbers["momentum"],
        weight_decay=numbers["weight_decay"], dampening=0.0, nesterov=rates.nesterov,
        maximize=False, fused=True, foreach=False,
    )  # fmt: skip


def _adam_alone(
    weights: Tensors,
    gradients: Tensors,
    memory: Sequence[Tensors],
    rates: OptimizerState,
    head: int,
) -> None:
    from torch.optim.adam import adam

    _fused(adam, weights, gradients, memory, rates, head)


def _adamw_alone(
    weights: Tensors,
    gradients: Tensors,
    memory: Sequence[Tensors],
    rates: OptimizerState,
    head: int,
) -> None:
    from torch.optim.adamw import adamw

    _fused(adamw, weights, gradients, memory, rates, head)


def _fused(
    function: Callable[..., None],
    weights: Tensors,
    gradients: Tensors,
    memory: Sequence[Tensors],
    rates: OptimizerState,
    head: int,
) -> None:
    import torch

    numbers, steps = rates.numbers(head), [torch.tensor(rates.step - 1.0) for _ in weights]
    function(
        weights, gradients, *memory, [], steps, lr=numbers["lr"],
        weight_decay=numbers["weight_decay"], beta1=BETAS[0], beta2=BETAS[1], eps=EPSILON,
        amsgrad=False, maximize=False, fused=True, foreach=False,
    )  # fmt: skip


OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Optimizer("Adam, β = (0.9, 0.999)", 2, False, _adam, _adam_alone),
    "sgd": Optimizer("stochastic gradient descent with momentum", 1, True, _sgd, _sgd_alone),
    "adamw": Optimizer(
        "Adam with decoupled weight decay", 2, False, _adamw, _adamw_alone, standard=False
    ),
}
