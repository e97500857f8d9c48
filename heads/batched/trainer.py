"""Training many heads at once, on the same batches: each as if it were trained alone."""

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
from heads.optimizers import BETAS, OPTIMIZERS, OptimizerState
from heads.schedules import factor
from heads.temperature_scaling import calibrated_losses

Curves = dict[str, list[float]]

# Bytes of parameters, their gradient and the optimizer's memory that are worked on at once. Smaller
# sets stay in a CPU's cache, but one step's overhead is then shared by fewer heads.
WORKING_SET = 64 << 20
ON_ACCELERATOR = 1 << 30
LARGE = 1 << 14  # parameters of a head, from which on it is updated alone
ROWS_AT_ONCE = 4096  # of validation
MEASURED = 4096  # validation images, at most, whose logits are kept to find a temperature
LARGEST = 1e6  # of parameters: beyond, float32 keeps no fraction of a logit


@dataclass(frozen=True)
class EmbeddingDataset:
    """Images. embeddings: float [V, N, D], of V views, the first the clean one. labels: int64 [N].

    at: where the images' rows lie among others, int64 [V, N]; embeddings are float [1, M, D] then,
    perhaps mapped into memory.
    """

    embeddings: Tensor
    labels: Tensor
    classes: int
    at: Tensor | None = None

    @property
    def views(self) -> int:
        """How many augmented views there are of each image."""
        return len(self.embeddings if self.at is None else self.at) - 1

    @property
    def places(self) -> Tensor:
        """Where each view's row of each image lies in the flat embeddings, int64 [V, N]."""
        if self.at is not None:
            return self.at
        return torch.arange((self.views + 1) * len(self.labels)).view(self.views + 1, -1)

    def clean(self, images: Tensor) -> Tensor:
        """Return the clean views of some images, float [n, D]."""
        return self.embeddings[0, images if self.at is None else self.at[0, images]]

    def placed(self, device: str) -> tuple[Tensor, Tensor]:
        """Return the embeddings [M, D] on a device, and the places there; on an accelerator there
        is room for the images' own rows only.
        """
        flat = self.embeddings.flatten(0, 1)
        if device == "cpu" or self.at is None:
            return flat.to(device), self.places
        own = torch.arange(self.at.numel()).view(self.at.shape)
        return flat[self.at.flatten()].to(device), own


@dataclass(frozen=True)
class HeadGroup:
    """Heads that differ in nothing that would give them other batches or another architecture.

    pool: rows that batches are drawn from. batch_size: of these. extra: (image, view) pairs that
    are trained on besides, int64 [E, 2], as rows N, N + 1, …; see `filled`. training: which rows
    are of which fold, bool [F, N + E]. validation: bool [F, N]. fold: each head's, int64 [K].
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
    """One head: its tensors (None if they were not to be kept), its curves (a number per epoch),
    the epoch whose weights these are, and its share of the seconds. diverged: NaN, infinity, or
    parameters beyond LARGEST. calibrated_loss: cross entropy on validation images, at most MEASURED
    of them, after division by their own best temperature; NaN of a head that diverged.
    """

    state: dict[str, Tensor] | None
    curves: Curves
    epoch: int
    seconds: float
    diverged: bool
    calibrated_loss: float = nan


def blocks(rows: Tensor) -> list[Tensor]:
    """Divide row numbers into some that are answered at once."""
    return [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]


def evenly(rows: Tensor, most: int) -> Tensor:
    """Return at most so many of some row numbers, evenly spread."""
    return rows[torch.linspace(0, len(rows) - 1, min(len(rows), most)).round().long()]


def chunks(these: HeadGroup, rows: EmbeddingDataset, device: str, workers: int) -> list[HeadGroup]:
    """Divide a pass into parts that are trained at a time, enough for all workers."""
    first, count = these.configurations[0], len(these.configurations)
    dim, numbers = rows.embeddings.shape[2], 0
    entry = HEADS[first.head]
    for width in (*entry.hidden, rows.classes):
        numbers, dim = numbers + (dim + 1) * width, width
    if entry.batch_norm:  # scale and shift, instead of a bias, and the running moments
        numbers += 3 * sum(entry.hidden)
    tensors = 2 + OPTIMIZERS[first.optimizer].memory
    budget = WORKING_SET if device == "cpu" else ON_ACCELERATOR
    fit = budget // (numbers * tensors * rows.embeddings.element_size())
    size = max(1, min(fit, ceil(count / workers)))
    return [
        replace(
            these,
            configurations=these.configurations[start : start + size],
            fold=these.fold[start : start + size],
        )
        for start in range(0, count, size)
    ]


def train_together(
    these: HeadGroup,
    rows: EmbeddingDataset,
    keep: bool,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda epochs: None,
) -> list[TrainingResult]:
    """Train the heads of a pass with cross entropy, deterministically by their seed.

    keep: return their tensors and, unless they are of folds, whole curves: of training, the mean
    over an epoch's batches as they were seen; of validation, after the epoch, dropout off. Else
    validation is measured when a head ends only, NaN before, unless patience needs it. A head's
    numbers don't depend on its company, up to rounding. progress is told of epochs done, of one
    head each.
    """
    started = time.perf_counter()
    run = _Run(these, rows, device)
    told = 0
    for _ in run.epochs(keep and not these.configurations[0].fold):
        done = int(run.ending.epochs.sum())
        progress(done - told)
        told = done
    progress(sum(c.epochs for c in these.configurations) - told)  # what patience has spared
    return run.results(keep, (time.perf_counter() - started) / len(these.configurations))


class _Run:
    """The heads of a pass, from their first to their last epoch."""

    def __init__(self, these: HeadGroup, rows: EmbeddingDataset, device: str) -> None:
        self.configurations = these.configurations
        self.pool, self.batch_size, self.device = these.pool, these.batch_size, device
        self.embeddings, self.places = rows.placed(device)
        first, count = self.configurations[0], len(self.configurations)
        self.first = first
        # Of each row, its image, and the view that it is of; of images, any up to `views`.
        whole = torch.arange(len(rows.labels))
        self.images = torch.cat([whole, these.extra[:, 0]])
        self.fixed = torch.cat([torch.zeros_like(whole), these.extra[:, 1]])
        self.views = 0 if first.balance == "augment" else first.views
        self.labels = rows.labels[self.images]
        self.generator = torch.Generator().manual_seed(first.seed)
        dim = rows.embeddings.shape[2]
        self.heads = stack(first.head, dim, rows.classes, count, first.seed, self.embeddings)
        self.parameters = list(self.heads.parameters.values())
        self.optimizer = OPTIMIZERS[first.optimizer]
        self.memory = [
            [torch.zeros_like(parameter) for parameter in self.parameters]
            for _ in range(self.optimizer.memory)
        ]
        self.training, self.validation, self.fold = these.training, these.validation, these.fold
        sizes = class_sizes(self.training, self.labels, rows.classes)[self.fold]
        self.weights = class_weights(self.configurations, sizes, self.embeddings.dtype)
        self.held_out = self.validation[torch.unique(self.fold)].any(0).nonzero()[:, 0]
        self.odds = (
            class_sampling_weights(self.labels[these.pool]) if first.balance == "sampling" else None
        )
        self.ending = EarlyStopping(self.configurations)
        self.points: list[dict[str, Tensor]] = []
        self.steps = 0

    def epochs(self, watched: bool) -> Iterator[int]:
        """Train until all have ended; yield after each epoch. watched: see `keep` above."""
        while self.ending.active.any():
            epoch = len(self.points)
            points = self._train(epoch)
            with torch.no_grad():
                if watched or self.ending.looks_at(epoch):
                    points |= self._validate()
                else:
                    unknown = torch.full_like(points["training_loss"], nan)
                    points |= dict.fromkeys(_VALIDATION, unknown)
            self.points.append(points)
            self.ending.look(epoch, self.points[-1]["validation_loss"], self.heads.tensors)
            yield epoch

    def results(self, keep: bool, seconds: float) -> list[TrainingResult]:
        """Return each head as it was when it ended, or at its best epoch if it had patience."""
        heads = self.heads.replaced(self.ending.final(self.heads.tensors))
        small = [(tensor.flatten(1).abs() < LARGEST).all(1) for tensor in heads.parameters.values()]
        sound = torch.stack(small).all(0).cpu()
        curves_of_all = {
            name: torch.stack([point[name] for point in self.points], 1).tolist()
            for name in self.points[0]
        }
        losses = self._calibrated_losses(heads, sound)
        done = []
        for number in range(len(self.configurations)):
            epoch, epochs = self.ending.epoch_of(number), int(self.ending.epochs[number])
            curves = {name: values[number][:epochs] for name, values in curves_of_all.items()}
            fine = bool(sound[number]) and all(isfinite(v[epoch]) for v in curves.values())
            state = heads.state_dict(number) if keep else None
            done.append(
                TrainingResult(state, curves, epoch, seconds, not fine, float(losses[number]))
            )
        return done

    def _calibrated_losses(self, heads: HeadStack, sound: Tensor) -> NDArray[np.float64]:
        """Return each head's loss on its validation images after its best temperature, float [K];
        NaN of heads that are not sound, bool [K].
        """
        losses = np.full(len(self.configurations), nan)
        for fold in torch.unique(self.fold[sound]):
            mine = ((self.fold == fold) & sound).nonzero()[:, 0]
            rows = evenly(self.validation[fold].nonzero()[:, 0], MEASURED)
            clean = self.embeddings[self.places[0, rows].to(self.device)]
            with torch.no_grad():
                logits = heads.forward(clean).cpu()[:, mine].permute(1, 0, 2)
            losses[mine.numpy()] = calibrated_losses(
                logits.double().numpy(), self.labels[rows].numpy()
            )
        return losses

    def _train(self, epoch: int) -> dict[str, Tensor]:
        rates, count = self._rates(epoch), len(self.configurations)
        active = self.ending.active.to(self.device)
        sums = {name: torch.zeros(count).to(self.embeddings) for name in _SUMS}
        views = self.fixed + views_of(len(self.labels), self.views, self.generator)
        for rows in batches_of(self.pool, self.batch_size, self.odds, self.generator):
            masks = masks_of(len(rows), self.first.head, self.generator)
            kept = [mask.to(self.embeddings) for mask in masks]
            places = self.places[views[rows], self.images[rows]]
            batch = self.embeddings[places.to(self.device)]
            weights = self._whose(self.training, rows) * self.weights[self.labels[rows]]
            weights, labels = weights.to(self.device), self.labels[rows].to(self.device)
            counted = (weights > 0) & active
            logits = _classes_first(self.heads.forward(batch, kept, counted))
            losses = _losses(logits, labels)
            # No row of a head in this batch: a step with a gradient of zero.
            whole = weights.sum(0).clamp(min=torch.finfo(weights.dtype).tiny)
            loss = (losses * (weights / whole)).sum()
            with torch.no_grad():
                self._update(self._gradients(loss), rates)
                _add(sums, losses, logits, labels, weights)
            _finish(self.device)
        return {f"training_{name}": value for name, value in _means(sums).items()}

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
        """Return the rates of an epoch, but for what is of a step; see `_update`.

        Heads that have ended have a learning rate of 0.
        """
        active = self.ending.active.tolist()
        speeds = [
            c.learning_rate * factor(c.schedule, c.gamma, c.warmup, epoch, c.epochs) if on else 0.0
            for c, on in zip(self.configurations, active, strict=True)
        ]
        decays = [c.weight_decay for c in self.configurations]
        momenta = [c.momentum for c in self.configurations]
        return partial(
            OptimizerState,
            learning_rate=self._column(speeds),
            decay=self._column(decays) if any(decays) else None,
            momentum=self._column(momenta) if any(momenta) else None,
            nesterov=self.first.nesterov,
        )

    def _column(self, numbers: Sequence[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64)[:, None].to(self.embeddings)

    def _update(self, gradients: Sequence[Tensor], of_epoch: Callable[..., OptimizerState]) -> None:
        self.steps += 1
        corrections = (1 - BETAS[0] ** self.steps, (1 - BETAS[1] ** self.steps) ** 0.5)
        first, second = (self._column([number]) for number in corrections)
        rates = of_epoch(step=self.steps, first=first, second=second)
        tensors: list[Sequence[Tensor]] = [self.parameters, gradients, *self.memory]
        numbers = sum(parameter[0].numel() for parameter in self.parameters)
        if self.device == "cpu" and numbers >= LARGE:
            for head in range(len(self.configurations)):
                weights, slopes, *states = ([t[head] for t in kind] for kind in tensors)
                self.optimizer.alone(weights, slopes, states, rates, head)
            return
        for layer in zip(*tensors, strict=True):
            weight, slope, *state = (tensor.flatten(1) for tensor in layer)
            self.optimizer.together(weight, slope, state, rates)

    def _whose(self, masks: Tensor, rows: Tensor) -> Tensor:
        """Return which of some rows are whose, by masks of the folds: 0 or 1, [B, K]."""
        return masks[:, rows].t().to(self.embeddings.dtype)[:, self.fold]

    def _validate(self) -> dict[str, Tensor]:
        sums = {name: torch.zeros(len(self.configurations)).to(self.embeddings) for name in _SUMS}
        for rows in torch.split(self.held_out, ROWS_AT_ONCE):
            clean = self.embeddings[self.places[0, rows].to(self.device)]
            logits = _classes_first(self.heads.forward(clean))
            weights = self._whose(self.validation, rows).to(self.device)
            labels = self.labels[rows].to(self.device)
            _add(sums, _losses(logits, labels), logits, labels, weights)
        _finish(self.device)
        return {f"validation_{name}": value for name, value in _means(sums).items()}


_VALIDATION = ("validation_loss", "validation_accuracy")
_SUMS = ("loss", "weight", "right", "rows")


def _add(
    sums: dict[str, Tensor], losses: Tensor, logits: Tensor, labels: Tensor, weights: Tensor
) -> None:
    """Add a batch's losses [B, K], weighted, and right answers to the sums [K] of an epoch."""
    counted = (weights > 0).to(weights.dtype)
    # Not argmax, which is far slower along this dimension. No answer, a tie, is no right one.
    place = labels, torch.arange(len(labels), device=labels.device)
    others = logits.clone()
    others[place] = -torch.inf
    right = logits[place] > others.amax(0)
    sums["loss"] += (losses * weights).sum(0)
    sums["weight"] += weights.sum(0)
    sums["right"] += (right * counted).sum(0)
    sums["rows"] += counted.sum(0)


def _means(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """Divide in float64: equal shares of images must be equal numbers."""
    exact = {name: value.cpu().double() for name, value in sums.items()}
    return {"loss": exact["loss"] / exact["weight"], "accuracy": exact["right"] / exact["rows"]}


def _classes_first(logits: Tensor) -> Tensor:
    """Turn [B, K, C] to [C, B, K]: over many heads, sums and maxima run along memory."""
    return logits.permute(2, 0, 1).contiguous()


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy [B, K] of logits [C, B, K], each head's alone."""
    target = labels[:, None].expand(logits.shape[1:])
    return cross_entropy(logits[None], target[None], reduction="none")[0]


def _finish(device: str) -> None:
    """Have XLA compute what was only noted so far: one step is one program."""
    if device == "xla":
        import torch_xla

        torch_xla.sync()
