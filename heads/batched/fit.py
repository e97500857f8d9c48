"""Configurations → trained heads.

- Heads that can share their batches are trained together, in as many groups as there are workers.
- Heads in closed form that differ in their regularisation only are fitted together.
"""

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
    Advance,
    Curves,
    HeadGroup,
    TrainingResult,
    chunks,
    evenly,
    ignore,
    train_together,
)
from heads.config import HeadConfig
from heads.embedding_dataset import ROWS_AT_ONCE, EmbeddingDataset
from heads.inference import head_logits
from heads.splits import NO_GROUPS, Groups, Split, split
from heads.temperature_scaling import calibrated_losses

Results = tuple[Sequence[HeadConfig], Sequence[TrainingResult]]


class TrainingData:
    """Embeddings of labelled images, and their split for any configuration.

    Attributes:
        labels: Class by image hash.
        rows: Embeddings of these images, in this order.
        groups: Near duplicates, which no split divides.
    """

    def __init__(
        self, labels: Mapping[bytes, str], rows: EmbeddingDataset, groups: Groups = NO_GROUPS
    ) -> None:
        self.labels, self.rows, self.groups = labels, rows, groups
        self._row_number = {key: i for i, key in enumerate(labels)}
        self._splits: dict[Hashable, Split] = {}

    def split(self, configuration: HeadConfig) -> Split:
        """Return the images that a head is trained and validated on."""
        c = configuration
        key = c.val_fraction, c.seed, c.fold
        if key not in self._splits:  # a million images take seconds
            self._splits[key] = split(self.labels, *key, self.groups)
        return self._splits[key]

    def row_numbers(self, hashes: Sequence[bytes]) -> Tensor:
        """Return the row numbers of images, int64 [n]."""
        return torch.tensor([self._row_number[key] for key in hashes])

    def mask(self, hashes: Sequence[bytes]) -> Tensor:
        """Return which rows belong to these images, bool [N]."""
        mask = torch.zeros(len(self._row_number), dtype=torch.bool)
        mask[self.row_numbers(hashes)] = True
        return mask


# (configurations, data, keep, progress) → results: `train` or `train_on_ray`.
Trainer = Callable[[Sequence[HeadConfig], TrainingData, bool, Advance], Iterator[Results]]


@dataclass(frozen=True)
class ClosedFormHeads:
    """Heads in closed form that differ in their regularisation only.

    Attributes:
        configurations: One for each head.
        training: Row numbers, int64.
        validation: Row numbers, int64.
    """

    configurations: tuple[HeadConfig, ...]
    training: Tensor
    validation: Tensor


Part = ClosedFormHeads | HeadGroup


def train(
    configurations: Sequence[HeadConfig],
    data: TrainingData,
    keep: bool,
    progress: Advance = ignore,
    device: str = "cpu",
) -> Iterator[Results]:
    """Train heads on the same images, as many together as possible.

    Args:
        configurations: One for each head.
        data: The images.
        keep: Return the heads' tensors too.
        progress: Called with the number of epochs finished since the last call, each of one head;
            a head in closed form counts as many as its configuration has.
        device: Device of torch.

    Yields:
        Configurations and their results, in the order in which they are finished.
    """
    workers = torch.get_num_threads() if device == "cpu" else 1
    groups: list[HeadGroup] = []
    for part in divided(configurations, data, device, workers):
        if isinstance(part, HeadGroup):
            groups.append(part)
        else:
            yield part.configurations, train_part(part, data.rows, keep, device)
            progress(sum(c.epochs for c in part.configurations))
    if workers == 1 or len(groups) == 1:
        for group in groups:
            results = train_together(group, data.rows, keep, device, progress)
            yield group.configurations, results
    else:
        yield from _in_threads(groups, data.rows, keep, workers, progress)


def divided(
    configurations: Sequence[HeadConfig], data: TrainingData, device: str, workers: int
) -> Iterator[Part]:
    """Divide heads into parts that are trained at a time, enough for all workers of a device."""
    groups: dict[Hashable, list[HeadConfig]] = defaultdict(list)
    for configuration in configurations:
        groups[_shared(configuration)].append(configuration)
    for group in groups.values():
        if HEADS[group[0].head].fitted:
            parts = data.split(group[0])
            rows = data.row_numbers(parts.training), data.row_numbers(parts.validation)
            yield ClosedFormHeads(tuple(group), *rows)
        else:
            yield from chunks(head_group(group, data), data.rows, device, workers)


def train_part(part: Part, rows: EmbeddingDataset, keep: bool, device: str) -> list[TrainingResult]:
    """Train or fit the heads of a part.

    Args:
        keep: Return their tensors too.
    """
    if isinstance(part, HeadGroup):
        return train_together(part, rows, keep, device)
    return _fit(part, rows, keep)


class _StoppedError(Exception):
    """The results are no longer needed."""


def _in_threads(
    groups: Sequence[HeadGroup],
    rows: EmbeddingDataset,
    keep: bool,
    workers: int,
    progress: Advance,
) -> Iterator[Results]:
    """Train one group on each core: no core waits for another after each operation, and the data
    of a group stay in its core's cache.
    """
    stopped, lock = Event(), Lock()

    def advance(epochs: int) -> None:
        if stopped.is_set():
            raise _StoppedError
        with lock:
            progress(epochs)

    pool = ThreadPoolExecutor(workers, "heads", initializer=torch.set_num_threads, initargs=(1,))
    try:
        futures = {
            pool.submit(train_together, group, rows, keep, "cpu", advance): group
            for group in groups
        }
        for future in as_completed(futures):
            yield futures[future].configurations, future.result()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(workers)  # MKL has one setting for all threads


def _shared(configuration: HeadConfig) -> Hashable:
    """Return what heads must have in common to be trained together: architecture and batches."""
    c = configuration
    if HEADS[c.head].fitted:
        return c.head, c.seed, c.fold, c.val_fraction
    folds = c.fold.partition("/")[2]
    sampling = c.balance if c.balance in ("sampling", "augment") else ""
    batches = (c.batch_size, sampling, c.views, c.seed, c.val_fraction, folds)
    return c.head, c.optimizer, c.nesterov, batches


def head_group(configurations: Sequence[HeadConfig], data: TrainingData) -> HeadGroup:
    """Return the rows and batches of heads that differ in fold, rates or early stopping only.

    Heads of different folds see the same batches, and each leaves out its own fold and what only
    other folds are oversampled with. Batches are larger by as much as is left out.
    """
    first, count = configurations[0], len(data.labels)
    n_folds = int(first.fold.partition("/")[2] or 0)
    names = [f"{number}/{n_folds}" for number in range(1, n_folds + 1)] or [""]
    splits = {fold: data.split(replace(first, fold=fold)) for fold in names}
    oversampled = {fold: _oversampled(first, data, parts) for fold, parts in splits.items()}
    extra = sorted(set().union(*oversampled.values()))
    training = {}
    for fold, parts in splits.items():
        of_fold = torch.tensor([pair in oversampled[fold] for pair in extra], dtype=torch.bool)
        training[fold] = torch.cat([data.mask(parts.training), of_fold])
    images = torch.arange(count) if first.fold else data.row_numbers(splits[""].training)
    pool = torch.cat([images, torch.arange(count, count + len(extra))])
    trained_on = sum(int(mask.sum()) for mask in training.values())
    folds = list(dict.fromkeys(c.fold for c in configurations))
    return HeadGroup(
        configurations=tuple(configurations),
        pool=pool,
        batch_size=round(first.batch_size * len(pool) * len(splits) / trained_on),
        extra=torch.tensor(extra, dtype=torch.int64).view(-1, 2),
        training=torch.stack([training[fold] for fold in folds]),
        validation=torch.stack([data.mask(splits[fold].validation) for fold in folds]),
        fold=torch.tensor([folds.index(c.fold) for c in configurations]),
    )


def _oversampled(
    configuration: HeadConfig, data: TrainingData, parts: Split
) -> set[tuple[int, int]]:
    """Return the (image, view) pairs that small classes are oversampled with."""
    if configuration.balance != "augment":
        return set()
    rows = data.row_numbers(parts.training)
    pairs = filled(data.rows.labels[rows].numpy(), configuration.views, configuration.seed)
    return {(int(rows[row]), view) for row, view in pairs}


def head_logits_of(
    head: str, state: Mapping[str, Tensor], rows: EmbeddingDataset, numbers: Tensor
) -> Tensor:
    """Return a head's logits [n, C] on the clean views of the rows with these numbers [n]."""
    tensors = {name: tensor.numpy() for name, tensor in state.items()}
    logits = [
        head_logits(head, rows.classes, tensors, rows.clean(block).numpy())
        for block in torch.split(numbers, ROWS_AT_ONCE)
    ]
    return torch.from_numpy(np.concatenate(logits))


def _fit(part: ClosedFormHeads, rows: EmbeddingDataset, keep: bool) -> list[TrainingResult]:
    """Fit heads in closed form, on clean views.

    Args:
        keep: Return their tensors too.
    """
    from heads.closed_form import FITS

    started = time.perf_counter()
    name, training = part.configurations[0].head, part.training
    strengths = tuple(c.weight_decay for c in part.configurations)
    states = FITS[name](
        rows.clean(training).double(), rows.labels[training], rows.classes, strengths
    )
    seconds = (time.perf_counter() - started) / len(strengths)
    results = []
    for state in states:
        curves: Curves = {}
        for kind, numbers in (("training", training), ("validation", part.validation)):
            logits, labels = head_logits_of(name, state, rows, numbers), rows.labels[numbers]
            curves[f"{kind}_loss"] = [cross_entropy(logits, labels).item()]
            curves[f"{kind}_accuracy"] = [(logits.argmax(1) == labels).double().mean().item()]
        finite, loss = all(tensor.isfinite().all() for tensor in state.values()), nan
        if finite:
            some = evenly(torch.arange(len(labels)), MEASURED)
            validation = logits[None, some].double().numpy()
            loss = float(calibrated_losses(validation, labels[some].numpy())[0])
        results.append(
            TrainingResult(state if keep else None, curves, 0, seconds, not finite, loss)
        )
    return results
