"""The training run on one cache: candidates are judged, the chosen ones trained and kept."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cache.errors import HeadError
from cache.progress import Progress, silent
from cache.store import Cache, CacheSummary, contents
from heads.batched.fit import Trainer, TrainingData, train
from heads.batched.trainer import TrainingResult, blocks
from heads.config import HeadConfig, fingerprint, head_id
from heads.embedding_dataset import labelled
from heads.inference import head_logits
from heads.search.space import SearchPlan
from heads.search.trials import CALIBRATED, ScoredCandidate, add_trials, as_trial, rank, read_trials
from heads.splits import NO_GROUPS, Groups, check_trainable, most_folds
from heads.store import (
    HeadInfo,
    Selection,
    TrainedHead,
    head_path,
    read_head,
    reselect_head,
    save_head,
    unreadable,
)
from heads.temperature_scaling import cross_entropies, fit_temperatures

TRIALS = "trials.csv"
FOLDS = 5  # whose held-out logits a temperature is fitted to, at most
ENOUGH = 1000  # validation images, with which folds would change a temperature by little


@dataclass(frozen=True)
class HeadsRun:
    """The heads of one cache, in the order asked for. trained: how many of them now. tried: heads
    trained now to judge candidates by. left_out: images without an embedding. ranked: the
    candidates, the best first, if there was a choice or an estimate by folds. ungrouped: of those
    chosen, the mean accuracy over folds that divide near duplicates, where these folds do not.
    diverged: heads that were to be kept, and could not be. remarks: about files of heads that were
    replaced, or left out, as they can't be used.
    """

    heads: tuple[TrainedHead, ...]
    trained: int
    tried: int
    left_out: int
    ranked: tuple[ScoredCandidate, ...]
    ungrouped: Mapping[HeadConfig, float]
    diverged: tuple[HeadConfig, ...]
    remarks: tuple[str, ...]


def train_heads(  # noqa: PLR0913
    cache: Cache,
    labels: Mapping[bytes, str],
    dataset: str,
    sweep: SearchPlan,
    root: Path,
    progress: Progress = silent,
    device: str = "cpu",
    groups: Groups = NO_GROUPS,
    trainer: Trainer = train,
) -> HeadsRun:
    """Train the heads that `root` lacks on a cache's embeddings of labelled images.

    Where a head and optimizer have several candidates, they are judged on validation, and the best
    is kept. labels: class by image hash. dataset: the folder's name, for the record. device: of
    torch, to train on. groups: of near duplicates, which no split divides; folds that do are
    trained for comparison. trainer: `train`, or what has others train. progress counts epochs.
    Images that could not be read at extraction are left out and counted; a head that diverges costs
    itself only.

    Raises:
        CacheError: the cache lacks images that nobody tried to extract, or views.
        HeadError: the images can't be divided, or `trials.csv` is damaged.
    """
    held = contents(cache)
    unreadable = (held.failures.keys() & labels.keys()) - held.stored
    # In an order of their content: files may be renamed or moved, and heads stay the same.
    usable = {key: labels[key] for key in sorted(labels) if key not in unreadable}
    mine = {key: groups[key] for key in sorted(groups.keys() & usable.keys())}
    check_trainable(usable, sweep.cv, mine)
    of_images = fingerprint(labels)
    run = _Run(cache, held, usable, dataset, of_images, root, device, progress, mine, trainer)
    ranked = run.judge(sweep) if _contested(sweep) else []
    refused = {r.candidate for r in ranked if not r.chosen}
    chosen = [candidate for candidate in sweep.candidates if candidate not in refused]
    ungrouped: dict[HeadConfig, float] = {}
    if sweep.cv and run.n_groups and chosen:
        naive = run.dividing_groups().judge(replace(sweep, candidates=tuple(chosen)))
        ungrouped = {r.candidate: round(r.score.accuracy, 6) for r in naive if r.score.cv_fits}
    selections = _selections(sweep, ranked, ungrouped)
    final_fits = {
        final: selections.get(candidate, Selection())
        for candidate in chosen
        for final in sweep.final_fits(candidate)
    }
    trained = run.keep(final_fits, sweep.cv)
    there = [final for final in final_fits if run.is_kept(final)]
    return HeadsRun(
        heads=tuple(read_head(run.path(final)) for final in there),
        trained=trained,
        tried=run.tried,
        left_out=len(unreadable),
        ranked=tuple(ranked),
        ungrouped=ungrouped,
        diverged=tuple(f for f in final_fits if f not in there and f not in run.unreadable),
        remarks=tuple(run.remarks),
    )


def _contested(sweep: SearchPlan) -> bool:
    groups = [(c.head, c.optimizer) for c in sweep.candidates]
    return bool(sweep.cv) or len(set(groups)) < len(groups)


def _selections(
    sweep: SearchPlan, ranked: Sequence[ScoredCandidate], ungrouped: Mapping[HeadConfig, float]
) -> dict[HeadConfig, Selection]:
    """Say how each candidate was chosen."""
    found = {}
    for mine in ranked:
        group = (mine.candidate.head, mine.candidate.optimizer)
        rivals = sum((r.candidate.head, r.candidate.optimizer) == group for r in ranked)
        cv_fits = (
            f"{sweep.repeats} times {sweep.cv} folds" if sweep.cv else f"{sweep.seeds} seed(s)"
        )
        rule = f"best of {rivals} by validation accuracy, {cv_fits}"
        accuracy, spread = (round(n, 6) for n in (mine.score.accuracy, mine.score.spread))
        found[mine.candidate] = Selection(
            rule if rivals > 1 else Selection.rule,
            accuracy if sweep.cv else None,
            spread if sweep.cv else None,
            ungrouped.get(mine.candidate),
        )
    return found


@dataclass(frozen=True)
class _Calibration:
    """See `HeadInfo`: the temperature, its folds, and the loss after division by it."""

    temperature: float
    folds: int
    loss: float


class _Run:
    """Training on one cache; embeddings are read when the first head needs them."""

    def __init__(  # noqa: PLR0913
        self,
        cache: Cache,
        held: CacheSummary,
        usable: Mapping[bytes, str],
        dataset: str,
        dataset_fingerprint: str,
        root: Path,
        device: str,
        progress: Progress,
        groups: Groups,
        trainer: Trainer,
    ) -> None:
        self.cache, self.held, self.usable, self.root = cache, held, usable, root
        self.dataset, self.dataset_fingerprint = dataset, dataset_fingerprint
        self.groups, self.images = groups, fingerprint(usable, groups)
        # Of some, all but one may be unreadable.
        self.n_groups = sum(count > 1 for count in Counter(groups.values()).values())
        self.classes = tuple(sorted(set(usable.values())))
        self.device, self.progress, self.trainer = device, progress, trainer
        self.tried = self.done = self.total = 0
        self._data: TrainingData | None = None
        self.remarks, self.damaged = list[str](), set[HeadConfig]()
        self.unreadable = set[HeadConfig]()

    def dividing_groups(self) -> "_Run":
        """Return a run that takes near duplicates for different images, as most do."""
        run = copy(self)
        run.groups, run.images, run.n_groups = {}, fingerprint(self.usable), 0
        if run._data:
            run._data = TrainingData(self.usable, run._data.rows)
        return run

    def id(self, configuration: HeadConfig) -> str:
        """Return a head's name."""
        return head_id(configuration, self.cache.key, self.images)

    def path(self, configuration: HeadConfig) -> Path:
        """Return where a head is kept."""
        return head_path(self.root, self.id(configuration))

    def is_kept(self, configuration: HeadConfig) -> bool:
        """Tell whether a head is there, and can be used."""
        refused = self.damaged | self.unreadable
        return configuration not in refused and self.path(configuration).exists()

    def judge(self, sweep: SearchPlan) -> list[ScoredCandidate]:
        """Train what the candidates are judged by, unless it was before; rank them."""
        cv_fits = [judge for candidate in sweep.candidates for judge in sweep.cv_fits(candidate)]
        known = self._known()
        todo = [judge for judge in cv_fits if self.id(judge) not in known.index]
        for group, results in self._train(todo, keep=False):
            self._note(group, results)
        self.tried = len(todo)
        if todo:
            known = self._known()
        found = known.loc[[self.id(judge) for judge in cv_fits]].to_dict("records")
        return rank(sweep, dict(zip(cv_fits, found, strict=True)))

    def _known(self) -> pd.DataFrame:
        """Read the trials that can be compared: those of earlier versions have not all numbers."""
        table = read_trials(self.root / TRIALS)
        return table[table[CALIBRATED].notna() | (table["diverged"] == 1)]

    def keep(self, final_fits: Mapping[HeadConfig, Selection], cv: int) -> int:
        """Train and keep the heads that are not there yet; return how many these are. cv: folds
        that judged the candidates, or 0.
        """
        for final, selection in final_fits.items():
            if (path := self.path(final)).exists():
                try:
                    reselect_head(read_head(path), selection)
                except HeadError as error:
                    self.damaged.add(final)
                    self.remarks.append(f"Trained again: {error}")
                except OSError as error:
                    self.unreadable.add(final)
                    self.remarks.append(f"Left out: {unreadable(path, error)}")
        known = read_trials(self.root / TRIALS)
        failed = set(known.index[known["diverged"] == 1])
        todo = [
            f
            for f in final_fits
            if not self.is_kept(f) and f not in self.unreadable and self.id(f) not in failed
        ]
        calibrations = self._calibrate(todo, cv)
        kept = 0
        for group, results in self._train(todo, keep=True):
            for configuration, trained in zip(group, results, strict=True):
                if trained.diverged:
                    self._note([configuration], [trained])
                else:
                    calibration = calibrations.get(configuration)
                    self._save(configuration, trained, final_fits[configuration], calibration)
                    kept += 1
        return kept

    def _calibrate(
        self, final_fits: Sequence[HeadConfig], cv: int
    ) -> dict[HeadConfig, _Calibration]:
        """Fit temperatures to what heads of the same configurations say of images that they were
        not trained on: of all images, by folds.

        Left out are configurations of which a fold diverged, and those with so many validation
        images that these are enough.
        """
        folds = cv or min(FOLDS, most_folds(self.usable, self.groups))
        few = [f for f in final_fits if len(self.usable) * f.val_fraction < ENOUGH]
        whole = {
            replace(final, fold=f"{number}/{folds}"): final
            for final in few
            for number in range(1, folds + 1)
        }
        logits = {f: torch.zeros(len(self.usable), len(self.classes)) for f in few}
        for group, results in self._train(list(whole), keep=True):
            for configuration, trained in zip(group, results, strict=True):
                final = whole[configuration]
                if trained.diverged:
                    logits.pop(final, None)
                elif final in logits:
                    places, found = self._held_out(configuration, trained)
                    logits[final][places] = found
        return {
            final: self._fitted(found, torch.arange(len(found)), folds)
            for final, found in logits.items()
        }

    def _held_out(
        self, configuration: HeadConfig, trained: TrainingResult
    ) -> tuple[Tensor, Tensor]:
        """Return the rows [n] of the validation images of a head, and its logits [n, C] there."""
        assert self._data is not None  # noqa: S101 - it was trained from them
        assert trained.state is not None  # noqa: S101 - asked for
        rows, parts = self._data.rows, self._data.split(configuration)
        places = self._data.places(parts.validation)
        tensors = {name: tensor.numpy() for name, tensor in trained.state.items()}
        logits = [
            head_logits(configuration.head, rows.classes, tensors, rows.clean(some).numpy())
            for some in blocks(places)
        ]
        return places, torch.from_numpy(np.concatenate(logits))

    def _fitted(self, logits: Tensor, places: Tensor, folds: int) -> _Calibration:
        """Fit a temperature to logits [n, C] of images at these rows [n]."""
        assert self._data is not None  # noqa: S101 - there are logits of them
        labels, found = self._data.rows.labels[places].numpy(), logits.double().numpy()[None]
        temperatures = fit_temperatures(found, labels)
        loss = cross_entropies(found, labels, temperatures)
        return _Calibration(float(temperatures[0]), folds, float(loss[0]))

    def _train(
        self, todo: Sequence[HeadConfig], keep: bool
    ) -> Iterator[tuple[Sequence[HeadConfig], Sequence[TrainingResult]]]:
        if not todo:
            return
        self.total += sum(c.epochs for c in todo)
        views = max(c.views for c in todo)
        if self._data is None or self._data.rows.views < views:
            self._data = self._read(views)
        yield from self.trainer(todo, self._data, keep, self.device, self._advance)

    def _advance(self, epochs: int) -> None:
        self.done += epochs
        self.progress(self.done, self.total)

    def _read(self, views: int) -> TrainingData:
        number = {label: i for i, label in enumerate(self.classes)}
        labels = torch.tensor([number[label] for label in self.usable.values()])
        hashes = np.frombuffer(b"".join(self.usable), np.uint8).reshape(-1, 32)
        rows = labelled(self.cache, hashes, labels, len(self.classes), views)
        return TrainingData(self.usable, rows, self.groups)

    def _note(self, group: Sequence[HeadConfig], results: Sequence[TrainingResult]) -> None:
        name = self.cache.folder.name
        rows = {
            self.id(configuration): as_trial(
                configuration, trained, name, self.dataset, self.n_groups
            )
            for configuration, trained in zip(group, results, strict=True)
        }
        add_trials(self.root / TRIALS, rows)

    def _save(
        self,
        configuration: HeadConfig,
        trained: TrainingResult,
        selection: Selection,
        calibration: _Calibration | None,
    ) -> None:
        """Keep a head. calibration: None: by its own validation images."""
        assert self._data is not None  # noqa: S101 - it was trained from them
        assert trained.state is not None  # noqa: S101 - asked for
        parts = self._data.split(configuration)
        if calibration is None:
            places, logits = self._held_out(configuration, trained)
            calibration = self._fitted(logits, places, 0)
        info = HeadInfo(
            configuration=configuration,
            identity=self.cache.key,
            classes=self.classes,
            dataset=self.dataset,
            dataset_fingerprint=self.dataset_fingerprint,
            images_fingerprint=self.images,
            n_groups=self.n_groups,
            weights=self.held.weights,
            n_training=len(parts.training),
            n_validation=len(parts.validation),
            training_seconds=trained.seconds,
            embedding_seconds=self.held.seconds_per_image * len(self.usable),
            curves=trained.curves,
            epoch=trained.epoch,
            temperature=calibration.temperature,
            selection=selection,
            calibration_folds=calibration.folds,
            calibrated_loss=calibration.loss,
        )
        save_head(self.root, info, trained.state)
        self.damaged.discard(configuration)
