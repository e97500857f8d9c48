"""Many heads trained on the same batches, each with the result of training it alone.

- A head's numbers do not depend on the other heads, up to rounding.
- Training is deterministic by the configuration's seed.
- A head that diverges or stops early does not disturb the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, isfinite, nan

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from cache.errors import DeviceError
from heads.architectures import HEADS
from heads.batched.early_stopping import EarlyStopping
from heads.batched.layers import HeadStack, stack
from heads.batched.sampling import (
    batches_of,
    class_sampling_weights,
    class_sizes,
    class_weights,
    masks_of,
    views_of,
)
from heads.config import HeadConfig
from heads.embedding_dataset import ROWS_AT_ONCE, EmbeddingDataset
from heads.optimizers import BETAS, OPTIMIZERS, OptimizerState
from heads.schedules import factor
from heads.temperature_scaling import calibrated_losses

Curves = dict[str, list[float]]
Advance = Callable[[int], None]  # takes the number of epochs finished since the last call

# Bytes of parameters, gradients and optimizer states of heads that are trained at a time. Smaller
# groups stay in a CPU's cache, but share the overhead of a step among fewer heads.
WORKING_SET = 64 << 20
ON_ACCELERATOR = 1 << 30
LARGE = 1 << 14  # parameters of a head that is updated by torch's fused optimizers, on its own
MEASURED = 4096  # validation images, at most, for the calibrated loss of a trial
MAX_PARAMETER = 1e6  # beyond, float32 has no fraction of a logit


def ignore(epochs: int) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class HeadGroup:
    """Heads of one architecture that are trained on the same batches.

    Attributes:
        configurations: One for each of K heads.
        pool: Rows that batches are drawn from, int64 [P].
        batch_size: Rows of the pool in a batch.
        extra: (image, view) pairs of oversampling, int64 [E, 2]; they are rows N, N + 1, …
        training: Training rows of each fold, bool [F, N + E].
        validation: Validation rows of each fold, bool [F, N].
        fold: Fold of each head, int64 [K].
    """

    configurations: tuple[HeadConfig, ...]
    pool: Tensor
    batch_size: int
    extra: Tensor
    training: Tensor
    validation: Tensor
    fold: Tensor


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of training one head.

    Attributes:
        state: Parameters by name; None if not requested.
        curves: One value per epoch, by metric name.
        epoch: Epoch of the returned parameters, from 0.
        seconds: This head's share of the training time.
        diverged: A number is NaN or infinite, or a parameter is larger than MAX_PARAMETER.
        calibrated_loss: Cross entropy on at most MEASURED validation images, after scaling by
            their own best temperature; NaN if the head diverged.
    """

    state: dict[str, Tensor] | None
    curves: Curves
    epoch: int
    seconds: float
    diverged: bool
    calibrated_loss: float = nan


def evenly(rows: Tensor, most: int) -> Tensor:
    """Return at most so many of some row numbers, evenly spread."""
    return rows[torch.linspace(0, len(rows) - 1, min(len(rows), most)).round().long()]


def chunks(group: HeadGroup, rows: EmbeddingDataset, device: str, workers: int) -> list[HeadGroup]:
    """Divide a group into groups that fit the working set, enough for all workers."""
    first, count = group.configurations[0], len(group.configurations)
    dim, numbers = rows.embeddings.shape[2], 0
    architecture = HEADS[first.head]
    for width in (*architecture.hidden, rows.classes):
        numbers, dim = numbers + (dim + 1) * width, width
    if architecture.batch_norm:  # scale and shift, instead of a bias, and the running moments
        numbers += 3 * sum(architecture.hidden)
    tensors = 2 + OPTIMIZERS[first.optimizer].states
    budget = WORKING_SET if device == "cpu" else ON_ACCELERATOR
    fitting = budget // (numbers * tensors * rows.embeddings.element_size())
    size = max(1, min(fitting, ceil(count / workers)))
    return [
        replace(
            group,
            configurations=group.configurations[start : start + size],
            fold=group.fold[start : start + size],
        )
        for start in range(0, count, size)
    ]


def train_together(
    group: HeadGroup,
    rows: EmbeddingDataset,
    keep: bool,
    device: str = "cpu",
    progress: Advance = ignore,
) -> list[TrainingResult]:
    """Train the heads of a group with cross entropy.

    Training curves are means over an epoch's batches as they were seen; validation curves are
    computed after the epoch, without dropout.

    Args:
        group: The heads.
        rows: The images.
        keep: Return the heads' tensors and, unless they are fits of folds, whole validation
            curves; else validation is NaN in epochs where no head needs it.
        device: Device of torch.
        progress: Called after every epoch.
    """
    started = time.perf_counter()
    run = _Run(group, rows, device)
    reported = 0
    for _ in run.epochs(keep and not group.configurations[0].fold):
        finished = int(run.stopping.epochs.sum())
        progress(finished - reported)
        reported = finished
    progress(sum(c.epochs for c in group.configurations) - reported)  # saved by early stopping
    return run.results(keep, (time.perf_counter() - started) / len(group.configurations))


class _Run:
    """The heads of a group, from their first to their last epoch."""

    def __init__(self, group: HeadGroup, rows: EmbeddingDataset, device: str) -> None:
        self.group, self.configurations, self.device = group, group.configurations, device
        self.embeddings, self.row_numbers = rows.to(device)
        first, count = self.configurations[0], len(self.configurations)
        self.first = first
        # The image of each row, and its view; an image without oversampling has any view.
        originals = torch.arange(len(rows.labels))
        self.images = torch.cat([originals, group.extra[:, 0]])
        self.fixed_views = torch.cat([torch.zeros_like(originals), group.extra[:, 1]])
        self.views = 0 if first.balance == "augment" else first.views
        self.labels = rows.labels[self.images]
        self.generator = torch.Generator().manual_seed(first.seed)
        dim = rows.embeddings.shape[2]
        self.heads = stack(first.head, dim, rows.classes, count, first.seed, self.embeddings)
        self.parameters = list(self.heads.parameters.values())
        self.optimizer = OPTIMIZERS[first.optimizer]
        self.states = [
            [torch.zeros_like(parameter) for parameter in self.parameters]
            for _ in range(self.optimizer.states)
        ]
        sizes = class_sizes(group.training, self.labels, rows.classes)[group.fold]
        self.weights = class_weights(self.configurations, sizes, self.embeddings.dtype)
        self.held_out = group.validation[torch.unique(group.fold)].any(0).nonzero()[:, 0]
        sampling = first.balance == "sampling"
        self.odds = class_sampling_weights(self.labels[group.pool]) if sampling else None
        self.stopping = EarlyStopping(self.configurations)
        self.metrics: list[dict[str, Tensor]] = []  # of each epoch
        self.steps = 0

    def epochs(self, always_validate: bool) -> Iterator[int]:
        """Train until all heads have stopped; yield after each epoch."""
        while self.stopping.active.any():
            epoch = len(self.metrics)
            metrics = self._train(epoch)
            if always_validate or self.stopping.needs_validation(epoch):
                metrics |= self._validate()
            else:
                unknown = torch.full_like(metrics["training_loss"], nan)
                metrics |= dict.fromkeys(_VALIDATION, unknown)
            self.metrics.append(metrics)
            tensors = [tensor.detach() for tensor in self.heads.tensors]
            self.stopping.update(epoch, metrics["validation_loss"], tensors)
            yield epoch

    def results(self, keep: bool, seconds: float) -> list[TrainingResult]:
        """Return each head as it was when it stopped, or at its best epoch with patience."""
        heads = self.heads.replaced(self.stopping.final(self.heads.tensors))
        parameters = heads.parameters.values()
        bounded = [(tensor.flatten(1).abs() < MAX_PARAMETER).all(1) for tensor in parameters]
        sound = torch.stack(bounded).all(0).cpu()
        curves_of_all = {
            name: torch.stack([metrics[name] for metrics in self.metrics], 1).tolist()
            for name in self.metrics[0]
        }
        losses = self._calibrated_losses(heads, sound)
        results = []
        for number in range(len(self.configurations)):
            epoch, epochs = self.stopping.epoch_of(number), int(self.stopping.epochs[number])
            curves = {name: values[number][:epochs] for name, values in curves_of_all.items()}
            diverged = not sound[number] or not all(isfinite(v[epoch]) for v in curves.values())
            state = heads.state_dict(number) if keep else None
            loss = float(losses[number])
            results.append(TrainingResult(state, curves, epoch, seconds, diverged, loss))
        return results

    @torch.no_grad()
    def _calibrated_losses(self, heads: HeadStack, sound: Tensor) -> NDArray[np.float64]:
        """Return the calibrated loss [K] of each head; NaN of heads that are not sound [K]."""
        losses = np.full(len(self.configurations), nan)
        for fold in torch.unique(self.group.fold[sound]):
            members = ((self.group.fold == fold) & sound).nonzero()[:, 0]
            rows = evenly(self.group.validation[fold].nonzero()[:, 0], MEASURED)
            logits = heads.forward(self._clean(rows)).cpu()[:, members].transpose(0, 1)
            losses[members.numpy()] = calibrated_losses(
                logits.double().numpy(), self.labels[rows].numpy()
            )
        return losses

    def _train(self, epoch: int) -> dict[str, Tensor]:
        """Train for an epoch and return its metrics [K]."""
        state_at, active = self._rates(epoch), self.stopping.active.to(self.device)
        sums = _Sums(len(self.configurations), self.embeddings)
        views = self.fixed_views + views_of(len(self.labels), self.views, self.generator)
        for rows in batches_of(self.group.pool, self.group.batch_size, self.odds, self.generator):
            masks = masks_of(len(rows), self.first.head, self.generator)
            dropout = [mask.to(self.embeddings) for mask in masks]
            numbers = self.row_numbers[views[rows], self.images[rows]]
            batch = self.embeddings[numbers.to(self.device)]
            weights = self._members(self.group.training, rows) * self.weights[self.labels[rows]]
            weights, labels = weights.to(self.device), self.labels[rows].to(self.device)
            logits = _classes_first(self.heads.forward(batch, dropout, (weights > 0) & active))
            losses = _losses(logits, labels)
            # A head without a row in this batch takes a step with a gradient of zero.
            total = weights.sum(0).clamp(min=torch.finfo(weights.dtype).tiny)
            gradients = self._gradients((losses * (weights / total)).sum())
            with torch.no_grad():
                self._update(gradients, state_at)
                sums.add(losses, logits, labels, weights)
            _finish(self.device)
        return sums.means("training")

    def _gradients(self, loss: Tensor) -> Sequence[Tensor]:
        try:
            return torch.autograd.grad(loss, self.parameters)
        except RuntimeError as error:
            if "device_ready_queues_" not in str(error):
                raise
            raise DeviceError(
                "torch can't compute gradients on XLA in a process that computed some before "
                "torch_xla was imported. Import torch_xla first, or train in a new process."
            ) from error

    def _rates(self, epoch: int) -> Callable[..., OptimizerState]:
        """Return the optimizer's rates in an epoch, but for what depends on the step.

        Heads that have stopped have a learning rate of 0.
        """
        active = self.stopping.active.tolist()
        rates = [
            c.learning_rate * factor(c.schedule, c.gamma, c.warmup, epoch, c.epochs) if on else 0.0
            for c, on in zip(self.configurations, active, strict=True)
        ]
        decays = [c.weight_decay for c in self.configurations]
        momenta = [c.momentum for c in self.configurations]
        return partial(
            OptimizerState,
            learning_rate=self._column(rates),
            decay=self._column(decays) if any(decays) else None,
            momentum=self._column(momenta) if any(momenta) else None,
            nesterov=self.first.nesterov,
        )

    def _column(self, numbers: Sequence[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64)[:, None].to(self.embeddings)

    def _update(self, gradients: Sequence[Tensor], state_at: Callable[..., OptimizerState]) -> None:
        self.steps += 1
        corrections = (1 - BETAS[0] ** self.steps, (1 - BETAS[1] ** self.steps) ** 0.5)
        first, second = (self._column([number]) for number in corrections)
        rates = state_at(step=self.steps, first=first, second=second)
        tensors: list[Sequence[Tensor]] = [self.parameters, gradients, *self.states]
        numbers = sum(parameter[0].numel() for parameter in self.parameters)
        if self.device == "cpu" and numbers >= LARGE:
            for head in range(len(self.configurations)):
                weights, slopes, *states = ([t[head] for t in kind] for kind in tensors)
                self.optimizer.alone(weights, slopes, states, rates, head)
            return
        for layer in zip(*tensors, strict=True):
            weight, slope, *state = (tensor.flatten(1) for tensor in layer)
            self.optimizer.together(weight, slope, state, rates)

    def _members(self, masks: Tensor, rows: Tensor) -> Tensor:
        """Return which rows each head has, 0 or 1 [B, K], by the masks of its fold [F, N]."""
        return masks[:, rows].t().to(self.embeddings.dtype)[:, self.group.fold]

    def _clean(self, rows: Tensor) -> Tensor:
        return self.embeddings[self.row_numbers[0, rows].to(self.device)]

    @torch.no_grad()
    def _validate(self) -> dict[str, Tensor]:
        sums = _Sums(len(self.configurations), self.embeddings)
        for rows in torch.split(self.held_out, ROWS_AT_ONCE):
            logits = _classes_first(self.heads.forward(self._clean(rows)))
            weights = self._members(self.group.validation, rows).to(self.device)
            labels = self.labels[rows].to(self.device)
            sums.add(_losses(logits, labels), logits, labels, weights)
        _finish(self.device)
        return sums.means("validation")


_VALIDATION = ("validation_loss", "validation_accuracy")


class _Sums:
    """Sums over the rows of an epoch, [K] each, with the type and device of `like`."""

    def __init__(self, heads: int, like: Tensor) -> None:
        self.loss, self.weight, self.correct, self.rows = torch.zeros(4, heads).to(like)

    def add(self, losses: Tensor, logits: Tensor, labels: Tensor, weights: Tensor) -> None:
        """Add a batch.

        Args:
            losses: [B, K].
            logits: [C, B, K].
            labels: int64 [B].
            weights: [B, K].
        """
        counted = (weights > 0).to(weights.dtype)
        # Not argmax, which is far slower along this dimension. A tie is not correct.
        scores = logits.clone()
        index = labels, torch.arange(len(labels), device=labels.device)
        own = scores[index]
        scores[index] = -torch.inf
        self.loss += (losses * weights).sum(0)
        self.weight += weights.sum(0)
        self.correct += ((own > scores.amax(0)) * counted).sum(0)
        self.rows += counted.sum(0)

    def means(self, kind: str) -> dict[str, Tensor]:
        """Return loss and accuracy in float64: equal shares of images are equal numbers."""
        sums = (self.loss, self.weight, self.correct, self.rows)
        loss, weight, correct, rows = (total.detach().cpu().double() for total in sums)
        return {f"{kind}_loss": loss / weight, f"{kind}_accuracy": correct / rows}


def _classes_first(logits: Tensor) -> Tensor:
    """Turn [B, K, C] to [C, B, K]: over many heads, sums and maxima run along memory."""
    return logits.permute(2, 0, 1).contiguous()


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy [B, K] of logits [C, B, K], each head's alone."""
    target = labels[:, None].expand(logits.shape[1:])
    return cross_entropy(logits[None], target[None], reduction="none")[0]


def _finish(device: str) -> None:
    """Let XLA compute what is recorded: one step is one program."""
    if device == "xla":
        import torch_xla

        torch_xla.sync()
