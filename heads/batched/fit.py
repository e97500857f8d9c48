"""Configurations → trained heads: those that can share their batches are trained together."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from math import nan
from threading import Event, Lock

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from heads.architectures import HEADS
from heads.batched.oversampling import filled
from heads.batched.trainer import (
    MEASURED,
    Curves,
    EmbeddingDataset,
    HeadGroup,
    TrainingResult,
    blocks,
    chunks,
    evenly,
    train_together,
)
from heads.config import HeadConfig
from heads.inference import head_logits
from heads.splits import NO_GROUPS, Groups, Split, split
from heads.temperature_scaling import calibrated_losses

Results = tuple[Sequence[HeadConfig], Sequence[TrainingResult]]


class TrainingData:
    """Embeddings of labelled images, and their division for any configuration.

    labels: class by image hash. rows: of these images, in this order. groups: see `split`.
    """

    def __init__(
        self, labels: Mapping[bytes, str], rows: EmbeddingDataset, groups: Groups = NO_GROUPS
    ) -> None:
        self.labels, self.rows, self.groups = labels, rows, groups
        self._position = {key: i for i, key in enumerate(labels)}
        self._splits: dict[Hashable, Split] = {}

    def split(self, configuration: HeadConfig) -> Split:
        """Return who is trained on, and who is validated on."""
        c = configuration
        division = c.val_fraction, c.seed, c.fold
        if division not in self._splits:  # of a million images, each takes seconds
            self._splits[division] = split(self.labels, *division, self.groups)
        return self._splits[division]

    def places(self, hashes: Sequence[bytes]) -> Tensor:
        """Return the rows of these images."""
        return torch.tensor([self._position[key] for key in hashes])

    def mask(self, hashes: Sequence[bytes]) -> Tensor:
        """Return which rows are of these images, bool [N]."""
        mask = torch.zeros(len(self._position), dtype=torch.bool)
        mask[self.places(hashes)] = True
        return mask


# (configurations, data, keep, device, progress) → results: `train`, or what has others do it.
Trainer = Callable[
    [Sequence[HeadConfig], TrainingData, bool, str, Callable[[int], None]], Iterator[Results]
]


@dataclass(frozen=True)
class ClosedFormHeads:
    """Heads that are fitted at once, and differ in their strength only; on which rows, and which
    they are validated on, int64.
    """

    configurations: tuple[HeadConfig, ...]
    training: Tensor
    validation: Tensor


def train(
    configurations: Sequence[HeadConfig],
    data: TrainingData,
    keep: bool,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda epochs: None,
) -> Iterator[Results]:
    """Train heads on the same images, as many at once as can be; yield them as they are ready.

    keep: their tensors too. progress is told of epochs done, of one head each; a fitted head
    counts as many as its configuration has.
    """
    workers = torch.get_num_threads() if device == "cpu" else 1
    parts: list[HeadGroup] = []
    for part in divided(configurations, data, device, workers):
        if isinstance(part, HeadGroup):
            parts.append(part)
        else:
            yield part.configurations, fit(part, data.rows, keep)
            progress(sum(c.epochs for c in part.configurations))
    if workers == 1 or len(parts) == 1:
        for part in parts:
            done = train_together(part, data.rows, keep, device, progress)
            yield part.configurations, done
    else:
        yield from _side_by_side(parts, data.rows, keep, workers, progress)


def divided(
    configurations: Sequence[HeadConfig], data: TrainingData, device: str, workers: int
) -> Iterator[ClosedFormHeads | HeadGroup]:
    """Divide heads into parts that are trained at a time, enough for all workers of a device."""
    groups: dict[Hashable, list[HeadConfig]] = defaultdict(list)
    for configuration in configurations:
        groups[_shared(configuration)].append(configuration)
    for group in groups.values():
        if HEADS[group[0].head].fitted:
            parts = data.split(group[0])
            places = data.places(parts.training), data.places(parts.validation)
            yield ClosedFormHeads(tuple(group), *places)
        else:
            yield from chunks(as_pass(group, data), data.rows, device, workers)


class _StoppedError(Exception):
    """Nobody waits for the result any more."""


def _side_by_side(
    parts: Sequence[HeadGroup],
    rows: EmbeddingDataset,
    keep: bool,
    workers: int,
    progress: Callable[[int], None],
) -> Iterator[Results]:
    """Train on every core something of its own: no core waits for another after each operation,
    and what it works on stays in its own cache.
    """
    stopped, telling = Event(), Lock()

    def told(epochs: int) -> None:
        if stopped.is_set():
            raise _StoppedError
        with telling:
            progress(epochs)

    pool = ThreadPoolExecutor(workers, "heads", initializer=torch.set_num_threads, initargs=(1,))
    try:
        under_way = {
            pool.submit(train_together, part, rows, keep, "cpu", told): part for part in parts
        }
        for future in as_completed(under_way):
            yield under_way[future].configurations, future.result()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(workers)  # of MKL there is but one setting for all threads


def _shared(configuration: HeadConfig) -> Hashable:
    """Return what heads must have in common to be trained together: architecture and batches."""
    c = configuration
    if HEADS[c.head].fitted:
        return c.head, c.seed, c.fold, c.val_fraction
    folds = c.fold.partition("/")[2]
    drawn = c.balance if c.balance in ("sampling", "augment") else ""
    batches = (c.batch_size, drawn, c.views, c.seed, c.val_fraction, folds)
    return c.head, c.optimizer, c.nesterov, batches


def as_pass(group: Sequence[HeadConfig], data: TrainingData) -> HeadGroup:
    """Say who of a group is trained on which rows, and in which batches.

    group: configurations that differ in fold, rates or end only. Heads of different folds see the
    same batches, each leaving out its own fold and what only others are filled up with: so batches
    are larger by as much as is left out.
    """
    first, count = group[0], len(data.labels)
    splits = {c.fold: data.split(c) for c in _siblings(first)}
    filling = {fold: _filling(first, data, parts) for fold, parts in splits.items()}
    extra = sorted(set().union(*filling.values()))
    training = {}
    for fold, parts in splits.items():
        mine = torch.tensor([pair in filling[fold] for pair in extra], dtype=torch.bool)
        training[fold] = torch.cat([data.mask(parts.training), mine])
    images = torch.arange(count) if first.fold else data.places(splits[""].training)
    pool = torch.cat([images, torch.arange(count, count + len(extra))])
    seen = sum(int(mask.sum()) for mask in training.values())
    folds = list(dict.fromkeys(c.fold for c in group))
    return HeadGroup(
        configurations=tuple(group),
        pool=pool,
        batch_size=round(first.batch_size * len(pool) * len(splits) / seen),
        extra=torch.tensor(extra, dtype=torch.int64).view(-1, 2),
        training=torch.stack([training[fold] for fold in folds]),
        validation=torch.stack([data.mask(splits[fold].validation) for fold in folds]),
        fold=torch.tensor([folds.index(c.fold) for c in group]),
    )


def _siblings(configuration: HeadConfig) -> list[HeadConfig]:
    """Return the configurations of all folds of this one's division; of none, itself."""
    of = int(configuration.fold.partition("/")[2] or 0)
    folds = [f"{number}/{of}" for number in range(1, of + 1)]
    return [replace(configuration, fold=fold) for fold in folds or [""]]


def _filling(configuration: HeadConfig, data: TrainingData, parts: Split) -> set[tuple[int, int]]:
    """Return the (image, view) pairs that small classes are filled up with, if they are."""
    if configuration.balance != "augment":
        return set()
    places = data.places(parts.training)
    pairs = filled(data.rows.labels[places].numpy(), configuration.views, configuration.seed)
    return {(int(places[row]), view) for row, view in pairs}


def fit(part: ClosedFormHeads, rows: EmbeddingDataset, keep: bool) -> list[TrainingResult]:
    """Fit heads, on clean views. keep: return their tensors too."""
    from heads.closed_form import FITS

    started = time.perf_counter()
    first, training = part.configurations[0], part.training
    strengths = tuple(c.weight_decay for c in part.configurations)
    states = FITS[first.head](
        rows.clean(training).double(), rows.labels[training], rows.classes, strengths
    )
    share = (time.perf_counter() - started) / len(strengths)
    done = []
    for state in states:
        tensors = {name: tensor.numpy() for name, tensor in state.items()}
        curves: Curves = {}
        for name, places in (("training", training), ("validation", part.validation)):
            blocks_of_logits = [
                head_logits(first.head, rows.classes, tensors, rows.clean(some).numpy())
                for some in blocks(places)
            ]
            logits = torch.from_numpy(np.concatenate(blocks_of_logits))
            labels = rows.labels[places]
            curves[f"{name}_loss"] = [cross_entropy(logits, labels).item()]
            curves[f"{name}_accuracy"] = [(logits.argmax(1) == labels).double().mean().item()]
        fine = all(tensor.isfinite().all() for tensor in state.values())
        loss = _calibrated_loss(logits, labels) if fine else nan
        done.append(TrainingResult(state if keep else None, curves, 0, share, not fine, loss))
    return done


def _calibrated_loss(logits: Tensor, labels: Tensor) -> float:
    """See `TrainingResult`."""
    some = evenly(torch.arange(len(labels)), MEASURED)
    return float(calibrated_losses(logits[None, some].double().numpy(), labels[some].numpy())[0])
