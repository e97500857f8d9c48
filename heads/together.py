"""Training many heads at once, on the same batches: each as if it were trained alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from heads.architectures import HEADS
from heads.configuration import Configuration
from heads.ending import Ending
from heads.optimizers import BETAS, OPTIMIZERS, Rates
from heads.schedules import factor
from heads.stacked import Stack, stack

Curves = dict[str, list[float]]

# Bytes of parameters, their gradient and the optimizer's memory that are worked on at once: a part
# of the last level of a CPU's cache, which they then need not leave.
WORKING_SET = 16 << 20
ON_ACCELERATOR = 1 << 30
# Numbers that an optimizer's operations go over in turn, while they lie in a core's own cache.
BLOCK = 1 << 17
ROWS_AT_ONCE = 4096  # of validation


@dataclass(frozen=True)
class Labelled:
    """embeddings: float [V, N, D], of V views, the first the clean one. labels: int64 [N]."""

    embeddings: Tensor
    labels: Tensor
    classes: int


@dataclass(frozen=True)
class Pass:
    """Heads that differ in nothing that would give them other batches or another architecture.

    pool: rows that batches are drawn from. batch_size: of these. training, validation: which rows
    are whose, bool [K, N].
    """

    configurations: tuple[Configuration, ...]
    pool: Tensor
    batch_size: int
    training: Tensor
    validation: Tensor


@dataclass(frozen=True)
class Trained:
    """One head: its tensors (None if they were not to be kept), its curves (a number per epoch),
    the epoch whose weights these are, and its share of the seconds. diverged: NaN or infinity.
    """

    state: dict[str, Tensor] | None
    curves: Curves
    epoch: int
    seconds: float
    diverged: bool


def train_together(
    these: Pass,
    rows: Labelled,
    keep: bool,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda epochs: None,
) -> list[Trained]:
    """Train the heads of a pass with cross entropy, deterministically by their seed.

    Curves: of training, the mean over an epoch's batches as they were seen; of validation, after
    the epoch, dropout off. A head's numbers don't depend on its company, up to rounding. progress
    is told of epochs done, of one head each.
    """
    done: list[Trained] = []
    size = _chunk(these.configurations[0], rows, device)
    for start in range(0, len(these.configurations), size):
        run = _Run(these, slice(start, start + size), rows, device)
        started = time.perf_counter()
        for _ in run.epochs():
            progress(len(run.configurations))
        share = (time.perf_counter() - started) / len(run.configurations)
        done += run.results(keep, share)
    return done


def _chunk(configuration: Configuration, rows: Labelled, device: str) -> int:
    """Return how many heads are worked on at once."""
    dim = rows.embeddings.shape[2]
    size, numbers = dim, 0
    for width in (*HEADS[configuration.head].hidden, rows.classes):
        numbers, size = numbers + (size + 1) * width, width
    tensors = 2 + OPTIMIZERS[configuration.optimizer].memory
    budget = WORKING_SET if device == "cpu" else ON_ACCELERATOR
    return max(1, budget // (numbers * tensors * rows.embeddings.element_size()))


class _Run:
    """Some heads of a pass, from their first to their last epoch."""

    def __init__(self, these: Pass, part: slice, rows: Labelled, device: str) -> None:
        self.configurations = these.configurations[part]
        self.pool, self.batch_size, self.device = these.pool, these.batch_size, device
        self.embeddings, self.labels = rows.embeddings.to(device), rows.labels
        first, count = self.configurations[0], len(self.configurations)
        self.first = first
        self.generator = torch.Generator().manual_seed(first.seed)
        dim = rows.embeddings.shape[2]
        self.heads = stack(first.head, dim, rows.classes, count, first.seed, self.embeddings)
        self.optimizer = OPTIMIZERS[first.optimizer]
        self.memory = [
            [torch.zeros_like(parameter) for _ in range(self.optimizer.memory)]
            for parameter in self.heads.parameters
        ]
        self.weights = _row_weights(self.configurations, these.training[part], rows)  # [N, K]
        self.validation = these.validation[part].t().to(rows.embeddings.dtype)
        self.held_out = self.validation.any(1).nonzero()[:, 0]
        self.odds = _odds(rows.labels[these.pool]) if first.balance == "sampling" else None
        self.ending = Ending(self.configurations)
        self.points: list[dict[str, Tensor]] = []
        self.steps = 0

    def epochs(self) -> Iterator[int]:
        """Train until all have ended; yield after each epoch."""
        while self.ending.active.any():
            epoch = len(self.points)
            points = self._train(epoch) | self._validate()
            self.points.append({name: value.double().cpu() for name, value in points.items()})
            self.ending.look(epoch, self.points[-1]["validation_loss"], self.heads.parameters)
            yield epoch

    def results(self, keep: bool, seconds: float) -> list[Trained]:
        """Return each head as it was when it ended, or at its best epoch if it had patience."""
        final = self.ending.final(self.heads.parameters)
        heads = Stack(final, self.heads.names, self.heads.dropout)
        finite = torch.stack([p.flatten(1).isfinite().all(1) for p in final]).all(0)
        done = []
        for number in range(len(self.configurations)):
            epoch, epochs = self.ending.epoch_of(number), int(self.ending.epochs[number])
            curves = {
                name: [float(point[name][number]) for point in self.points[:epochs]]
                for name in self.points[0]
            }
            fine = bool(finite[number]) and all(isfinite(v[epoch]) for v in curves.values())
            state = heads.state_of(number) if keep else None
            done.append(Trained(state, curves, epoch, seconds, not fine))
        return done

    def _train(self, epoch: int) -> dict[str, Tensor]:
        rates, count = self._rates(epoch), len(self.configurations)
        sums = {name: torch.zeros(count).to(self.embeddings) for name in _SUMS}
        views = torch.randint(self.first.views + 1, (len(self.labels),), generator=self.generator)
        for rows in self._batches():
            kept = [m.to(self.device) for m in self.heads.draw(len(rows), self.generator)]
            batch = self.embeddings[views[rows].to(self.device), rows.to(self.device)]
            weights = self.weights[rows].to(self.device)
            labels = self.labels[rows].to(self.device)
            for parameter in self.heads.parameters:
                parameter.requires_grad_(True)
            logits = self.heads.forward(batch, kept)
            losses = _losses(logits, labels) * weights
            whole = weights.sum(0)
            # No row of a head in this batch: a step with a gradient of zero.
            loss = (losses.sum(0) / whole.clamp(min=torch.finfo(whole.dtype).tiny)).sum()
            gradients = torch.autograd.grad(loss, self.heads.parameters)
            self._update(gradients, rates)
            _add(sums, losses.detach(), logits.detach(), labels, weights)
            _finish(self.device)
        return {f"training_{name}": value for name, value in _means(sums).items()}

    def _batches(self) -> Sequence[Tensor]:
        if self.odds is None:
            order = torch.randperm(len(self.pool), generator=self.generator)
        else:
            order = self.odds.multinomial(
                len(self.pool), replacement=True, generator=self.generator
            )
        return torch.split(self.pool[order], self.batch_size)

    def _rates(self, epoch: int) -> Rates:
        """Return the rates of an epoch; heads that have ended have a learning rate of 0."""
        active = self.ending.active.tolist()
        speeds = [
            c.learning_rate * factor(c.schedule, c.gamma, c.warmup, epoch, c.epochs) if on else 0.0
            for c, on in zip(self.configurations, active, strict=True)
        ]
        decays = [c.weight_decay for c in self.configurations]
        momenta = [c.momentum for c in self.configurations]
        nothing = self._column([0.0])
        return Rates(
            learning_rate=self._column(speeds),
            decay=self._column(decays) if any(decays) else None,
            momentum=self._column(momenta) if any(momenta) else None,
            nesterov=self.first.nesterov,
            first=nothing,
            second=nothing,
        )

    def _column(self, numbers: Sequence[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64)[:, None].to(self.embeddings)

    @torch.no_grad()
    def _update(self, gradients: Sequence[Tensor], rates: Rates) -> None:
        self.steps += 1
        corrections = (1 - BETAS[0] ** self.steps, (1 - BETAS[1] ** self.steps) ** 0.5)
        first, second = (self._column([number]) for number in corrections)
        rates = replace(rates, first=first, second=second)
        for parameter, gradient, memory in zip(
            self.heads.parameters, gradients, self.memory, strict=True
        ):
            parameter.requires_grad_(False)
            flat = [t.reshape(t.shape[0], -1) for t in (parameter, gradient, *memory)]
            for heads, numbers in _blocks(flat[0], self.device):
                weights, slope, *state = (t[heads, numbers] for t in flat)
                self.optimizer.update(weights, slope, state, rates.of(heads))

    @torch.no_grad()
    def _validate(self) -> dict[str, Tensor]:
        sums = {name: torch.zeros(len(self.configurations)).to(self.embeddings) for name in _SUMS}
        for rows in torch.split(self.held_out, ROWS_AT_ONCE):
            logits = self.heads.forward(self.embeddings[0, rows.to(self.device)])
            weights = self.validation[rows].to(self.device)
            labels = self.labels[rows].to(self.device)
            _add(sums, _losses(logits, labels) * weights, logits, labels, weights)
        _finish(self.device)
        return {f"validation_{name}": value for name, value in _means(sums).items()}


_SUMS = ("loss", "weight", "right", "rows")


def _add(
    sums: dict[str, Tensor], losses: Tensor, logits: Tensor, labels: Tensor, weights: Tensor
) -> None:
    """Add a batch's weighted losses [B, K] and right answers to the sums [K] of an epoch."""
    counted = (weights > 0).to(weights.dtype)
    sums["loss"] += losses.sum(0)
    sums["weight"] += weights.sum(0)
    sums["right"] += ((logits.argmax(2) == labels[:, None]) * counted).sum(0)
    sums["rows"] += counted.sum(0)


def _means(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"loss": sums["loss"] / sums["weight"], "accuracy": sums["right"] / sums["rows"]}


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of logits [B, K, C], each alone: [B, K]."""
    rows, heads, classes = logits.shape
    everyones = labels.repeat_interleave(heads)
    return cross_entropy(logits.reshape(rows * heads, classes), everyones, reduction="none").view(
        rows, heads
    )


def _row_weights(
    configurations: Sequence[Configuration], training: Tensor, rows: Labelled
) -> Tensor:
    """What each row counts for in each head's loss, [N, K]: 0 if it is not trained on; 1, or the
    mean class size by the size of its class.
    """
    weights = training.t().to(rows.embeddings.dtype)
    ones = torch.nn.functional.one_hot(rows.labels, rows.classes).to(weights)
    for number, configuration in enumerate(configurations):
        if configuration.balance == "weights":
            sizes = weights[:, number] @ ones
            present = int((sizes > 0).sum())
            of_class = sizes.sum() / (present * sizes.clamp(min=1))
            weights[:, number] *= of_class[rows.labels]
    return weights


def _odds(labels: Tensor) -> Tensor:
    """How likely each row is drawn, if all classes shall be equally likely."""
    sizes = torch.bincount(labels)
    return 1.0 / sizes[labels].double()


def _blocks(parameters: Tensor, device: str) -> Iterator[tuple[slice, slice]]:
    """Divide parameters [K, P] into contiguous parts of some BLOCK numbers."""
    heads, numbers = parameters.shape
    if device != "cpu":
        yield slice(None), slice(None)
    elif numbers >= BLOCK:
        for head in range(heads):
            for start in range(0, numbers, BLOCK):
                yield slice(head, head + 1), slice(start, start + BLOCK)
    else:
        some = BLOCK // numbers
        for start in range(0, heads, some):
            yield slice(start, start + some), slice(None)


def _finish(device: str) -> None:
    """Have XLA compute what was only noted so far: one step is one program."""
    if device == "xla":
        import torch_xla

        torch_xla.sync()
