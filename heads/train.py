"""Training one head on cached embeddings."""

import time
from dataclasses import dataclass
from functools import cache
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cache.errors import HeadError
from heads.architectures import HEADS
from heads.configuration import Configuration
from heads.optimizers import OPTIMIZERS

Curves = dict[str, list[float]]


@dataclass(frozen=True)
class Labelled:
    """embeddings: float32 [N, D]; labels: int64 [N], indices of classes."""

    embeddings: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Training:
    """A trained head, its curves (one number per epoch) and the seconds it took."""

    head: nn.Module
    curves: Curves
    seconds: float


def train(
    configuration: Configuration, training: Labelled, validation: Labelled, classes: int
) -> Training:
    """Train one head with cross entropy on the CPU, deterministically by its seed.

    The last epoch's weights are kept. Curves are measured after each epoch, dropout off.

    Raises:
        HeadError: the training diverged (its loss is NaN or infinite).
    """
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(configuration.seed)
        head = HEADS[configuration.head].build(training.embeddings.shape[1], classes)
        optimizer = OPTIMIZERS[configuration.optimizer].build(
            head.parameters(), configuration.learning_rate, configuration.momentum
        )
        curves: Curves = {}
        for _ in range(configuration.epochs):
            _train_epoch(head, optimizer, training, configuration.batch_size)
            for name, value in _curve_points(head, training, validation).items():
                curves.setdefault(name, []).append(value)
    head.eval().requires_grad_(False)
    finite = all(torch.isfinite(p).all() for p in head.parameters())
    if not finite or not all(isfinite(values[-1]) for values in curves.values()):
        raise HeadError(
            f"{configuration.head} with {configuration.optimizer} diverged at a learning rate of "
            f"{configuration.learning_rate:g}: give a smaller --lr"
        )
    return Training(head, curves, time.perf_counter() - started)


@cache
def warm_up() -> None:
    """Make a step of nothing: a process's first optimizer imports half of torch, which should be
    no head's training time.
    """
    rows = Labelled(torch.zeros(2, 2), torch.tensor([0, 1]))
    for optimizer in OPTIMIZERS:
        train(Configuration("single", optimizer, epochs=1), rows, rows, classes=2)


def _train_epoch(
    head: nn.Module, optimizer: torch.optim.Optimizer, training: Labelled, batch_size: int
) -> None:
    head.train()
    for rows in torch.split(torch.randperm(len(training.labels)), batch_size):
        optimizer.zero_grad()
        loss = cross_entropy(head(training.embeddings[rows]), training.labels[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.no_grad()
def _curve_points(head: nn.Module, training: Labelled, validation: Labelled) -> dict[str, float]:
    head.eval()
    points = {}
    for name, data in (("training", training), ("validation", validation)):
        logits = head(data.embeddings)
        points[f"{name}_loss"] = cross_entropy(logits, data.labels).item()
        points[f"{name}_accuracy"] = (logits.argmax(1) == data.labels).double().mean().item()
    return points
