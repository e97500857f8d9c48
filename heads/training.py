"""The training run on one cache: candidates are compared, the best ones trained and saved.

- Candidates are compared on validation images only; every trial is recorded in `trials.csv`.
- Trials and heads that exist already are not trained again.
- A head that diverges, or whose file cannot be used, costs itself only.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cache.errors import HeadError
from cache.progress import Progress, silent
from cache.store import Cache, summarize
from heads.batched.fit import Results, Trainer, TrainingData, head_logits_of, train
from heads.batched.trainer import TrainingResult
from heads.config import HeadConfig, fingerprint, head_id
from heads.embedding_dataset import labelled
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
FOLDS = 5  # at most, whose held-out logits a temperature is fitted to
ENOUGH = 1000  # validation images, with which folds would change a temperature by little


@dataclass(frozen=True)
class TrainingSettings:
    """How heads are trained.

    Attributes:
        groups: Near duplicates, which no split divides.
        trainer: Trains heads on this machine or elsewhere.
        progress: Called with finished and total epochs.
    """

    groups: Groups = field(default_factory=dict)
    trainer: Trainer = train
    progress: Progress = silent


@dataclass(frozen=True)
class HeadsRun:
    """The outcome of a training run on one cache.

    Attributes:
        heads: All heads of the plan, in its order.
        trained: How many of them were trained now.
        tried: How many heads were trained now to compare candidates.
        left_out: Images without an embedding.
        ranked: Candidates, the best first; empty if there was nothing to compare.
        ungrouped: Mean accuracy of selected candidates over folds that divide near duplicates.
        diverged: Heads that could not be trained.
        remarks: Lines about files of heads that cannot be used.
    """

    heads: tuple[TrainedHead, ...]
    trained: int
    tried: int
    left_out: int
    ranked: tuple[ScoredCandidate, ...]
    ungrouped: Mapping[HeadConfig, float]
    diverged: tuple[HeadConfig, ...]
    remarks: tuple[str, ...]


def train_heads(
    cache: Cache,
    labels: Mapping[bytes, str],
    dataset: str,
    plan: SearchPlan,
    root: Path,
    settings: TrainingSettings | None = None,
) -> HeadsRun:
    """Train the heads of a plan that `root` lacks on the embeddings of labelled images.

    If a head and optimizer have several candidates, only the best on validation is saved. Images
    that could not be read at extraction are left out and counted.

    Args:
        cache: The embeddings.
        labels: Class by image hash.
        dataset: Name of the images' folder, for the record.
        plan: The candidates, and how they are compared.
        root: Folder of head files and `trials.csv`.
        settings: How heads are trained.

    Raises:
        CacheError: The cache lacks images that extraction never saw, or views.
        HeadError: The images cannot be split, or `trials.csv` is damaged.
    """
    run = _Run(cache, labels, dataset, root, settings or TrainingSettings())
    check_trainable(run.labels, plan.cv, run.groups)
    pairs = {(c.head, c.optimizer) for c in plan.candidates}
    compared = plan.cv or len(pairs) < len(plan.candidates)
    ranked = run.compare(plan) if compared else []
    rejected = {r.candidate for r in ranked if not r.chosen}
    chosen = tuple(c for c in plan.candidates if c not in rejected)
    ungrouped: dict[HeadConfig, float] = {}
    if plan.cv and run.n_groups and chosen:
        naive = run.without_groups().compare(replace(plan, candidates=chosen))
        ungrouped = {r.candidate: round(r.score.accuracy, 6) for r in naive if r.score.cv_fits}
    selections = _selections(plan, ranked, ungrouped)
    final_fits = {
        final: selections.get(candidate, Selection())
        for candidate in chosen
        for final in plan.final_fits(candidate)
    }
    trained = run.train_and_save(final_fits, plan.cv)
    saved = [final for final in final_fits if run.is_saved(final)]
    return HeadsRun(
        heads=tuple(read_head(run.path(final)) for final in saved),
        trained=trained,
        tried=run.tried,
        left_out=len(labels) - len(run.labels),
        ranked=tuple(ranked),
        ungrouped=ungrouped,
        diverged=tuple(f for f in final_fits if f not in saved and f not in run.unreadable),
        remarks=tuple(run.remarks),
    )


def _selections(
    plan: SearchPlan, ranked: Sequence[ScoredCandidate], ungrouped: Mapping[HeadConfig, float]
) -> dict[HeadConfig, Selection]:
    """Return why each candidate was selected."""
    pairs = Counter((r.candidate.head, r.candidate.optimizer) for r in ranked)
    fits = f"{plan.repeats} times {plan.cv} folds" if plan.cv else f"{plan.seeds} seed(s)"
    selections = {}
    for candidate, score in ((r.candidate, r.score) for r in ranked):
        rivals = pairs[candidate.head, candidate.optimizer]
        rule = f"best of {rivals} by validation accuracy, {fits}"
        selections[candidate] = Selection(
            rule if rivals > 1 else Selection.rule,
            round(score.accuracy, 6) if plan.cv else None,
            round(score.spread, 6) if plan.cv else None,
            ungrouped.get(candidate),
        )
    return selections


@dataclass(frozen=True)
class _Calibration:
    """A temperature, its folds, and the loss after temperature scaling; see `HeadInfo`."""

    temperature: float
    folds: int
    loss: float


class _Run:
    """Training on one cache; embeddings are read when the first head needs them."""

    def __init__(
        self,
        cache: Cache,
        labels: Mapping[bytes, str],
        dataset: str,
        root: Path,
        settings: TrainingSettings,
    ) -> None:
        self.cache, self.dataset, self.root, self.settings = cache, dataset, root, settings
        self.summary, self.dataset_fingerprint = summarize(cache), fingerprint(labels)
        failed = self.summary.failures.keys() - self.summary.stored
        # Ordered by content: renamed or moved files give the same heads.
        self.labels = {key: labels[key] for key in sorted(labels.keys() - failed)}
        self.classes = tuple(sorted(set(self.labels.values())))
        self._set_groups(settings.groups)
        self.tried = self.finished = self.total = 0
        self.data: TrainingData | None = None
        self.remarks, self.damaged = list[str](), set[HeadConfig]()
        self.unreadable = set[HeadConfig]()

    def _set_groups(self, groups: Groups) -> None:
        self.groups = {key: groups[key] for key in sorted(groups.keys() & self.labels.keys())}
        self.images_fingerprint = fingerprint(self.labels, self.groups)
        self.n_groups = sum(count > 1 for count in Counter(self.groups.values()).values())

    def without_groups(self) -> "_Run":
        """Return a run whose splits divide near duplicates."""
        run = copy(self)
        run._set_groups(NO_GROUPS)
        if self.data:
            run.data = TrainingData(self.labels, self.data.rows)
        return run

    def id(self, configuration: HeadConfig) -> str:
        """Return a head's identifier."""
        return head_id(configuration, self.cache.key, self.images_fingerprint)

    def path(self, configuration: HeadConfig) -> Path:
        """Return a head's file."""
        return head_path(self.root, self.id(configuration))

    def is_saved(self, configuration: HeadConfig) -> bool:
        """Return whether a head has a file that can be used."""
        unusable = self.damaged | self.unreadable
        return configuration not in unusable and self.path(configuration).exists()

    def compare(self, plan: SearchPlan) -> list[ScoredCandidate]:
        """Train the fits that candidates are compared by, unless their trials are recorded."""
        fits = [fit for candidate in plan.candidates for fit in plan.cv_fits(candidate)]
        trials = read_trials(self.root / TRIALS)
        # Trials of earlier versions lack the loss that decides between equals.
        trials = trials[trials[CALIBRATED].notna() | (trials["diverged"] == 1)]
        new = [fit for fit in fits if self.id(fit) not in trials.index]
        for group, results in self._train(new, keep=False):
            self._record(group, results)
        self.tried = len(new)
        if new:
            trials = read_trials(self.root / TRIALS)
        rows = trials.loc[[self.id(fit) for fit in fits]].to_dict("records")
        return rank(plan, dict(zip(fits, rows, strict=True)))

    def train_and_save(self, final_fits: Mapping[HeadConfig, Selection], cv: int) -> int:
        """Train and save the heads without a usable file; return how many.

        Args:
            final_fits: The heads, and why they were selected.
            cv: Folds by which candidates were compared, or 0.
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
        trials = read_trials(self.root / TRIALS)
        diverged = set(trials.index[trials["diverged"] == 1])
        new = [
            final
            for final in final_fits
            if not self.is_saved(final)
            and final not in self.unreadable
            and self.id(final) not in diverged
        ]
        calibrations = self._calibrate(new, cv)
        saved = 0
        for group, results in self._train(new, keep=True):
            for configuration, result in zip(group, results, strict=True):
                if result.diverged:
                    self._record([configuration], [result])
                else:
                    calibration = calibrations.get(configuration)
                    self._save(configuration, result, final_fits[configuration], calibration)
                    saved += 1
        return saved

    def _calibrate(
        self, final_fits: Sequence[HeadConfig], cv: int
    ) -> dict[HeadConfig, _Calibration]:
        """Fit temperatures to held-out logits of all images, from folds of each configuration.

        Left out are configurations with a diverged fold, and those with enough validation images.
        """
        folds = cv or min(FOLDS, most_folds(self.labels, self.groups))
        few = [f for f in final_fits if len(self.labels) * f.val_fraction < ENOUGH]
        final_of = {
            replace(final, fold=f"{number}/{folds}"): final
            for final in few
            for number in range(1, folds + 1)
        }
        logits = {final: torch.zeros(len(self.labels), len(self.classes)) for final in few}
        for group, results in self._train(list(final_of), keep=True):
            for configuration, result in zip(group, results, strict=True):
                final = final_of[configuration]
                if result.diverged:
                    logits.pop(final, None)
                elif final in logits:
                    rows, held_out = self._held_out(configuration, result)
                    logits[final][rows] = held_out
        rows = torch.arange(len(self.labels))
        return {final: self._fit_temperature(z, rows, folds) for final, z in logits.items()}

    def _held_out(self, configuration: HeadConfig, result: TrainingResult) -> tuple[Tensor, Tensor]:
        """Return the row numbers [n] of a head's validation images, and its logits [n, C]."""
        assert self.data is not None  # noqa: S101 - it was trained from them
        assert result.state is not None  # noqa: S101 - it was requested
        rows = self.data.row_numbers(self.data.split(configuration).validation)
        return rows, head_logits_of(configuration.head, result.state, self.data.rows, rows)

    def _fit_temperature(self, logits: Tensor, rows: Tensor, folds: int) -> _Calibration:
        """Fit a temperature to logits [n, C] of the images with these row numbers [n]."""
        assert self.data is not None  # noqa: S101 - the logits are of its rows
        labels, stacked = self.data.rows.labels[rows].numpy(), logits.double().numpy()[None]
        temperatures = fit_temperatures(stacked, labels)
        loss = cross_entropies(stacked, labels, temperatures)
        return _Calibration(float(temperatures[0]), folds, float(loss[0]))

    def _train(self, new: Sequence[HeadConfig], keep: bool) -> Iterator[Results]:
        if not new:
            return
        self.total += sum(c.epochs for c in new)
        views = max(c.views for c in new)
        if self.data is None or self.data.rows.views < views:
            number = {name: i for i, name in enumerate(self.classes)}
            labels = torch.tensor([number[name] for name in self.labels.values()])
            hashes = np.frombuffer(b"".join(self.labels), np.uint8).reshape(-1, 32)
            rows = labelled(self.cache, hashes, labels, len(self.classes), views)
            self.data = TrainingData(self.labels, rows, self.groups)
        yield from self.settings.trainer(new, self.data, keep, self._advance)

    def _advance(self, epochs: int) -> None:
        self.finished += epochs
        self.settings.progress(self.finished, self.total)

    def _record(self, group: Sequence[HeadConfig], results: Sequence[TrainingResult]) -> None:
        """Add trials to `trials.csv`."""
        source = {
            "cache": self.cache.folder.name,
            "dataset": self.dataset,
            "n_groups": self.n_groups,
        }
        rows = {
            self.id(configuration): source | as_trial(configuration, result)
            for configuration, result in zip(group, results, strict=True)
        }
        add_trials(self.root / TRIALS, rows)

    def _save(
        self,
        configuration: HeadConfig,
        result: TrainingResult,
        selection: Selection,
        calibration: _Calibration | None,
    ) -> None:
        """Save a head; without a calibration, fit its temperature to its validation images."""
        assert self.data is not None  # noqa: S101 - it was trained from them
        assert result.state is not None  # noqa: S101 - it was requested
        split = self.data.split(configuration)
        if calibration is None:
            rows, logits = self._held_out(configuration, result)
            calibration = self._fit_temperature(logits, rows, 0)
        info = HeadInfo(
            configuration=configuration,
            identity=self.cache.key,
            classes=self.classes,
            dataset=self.dataset,
            dataset_fingerprint=self.dataset_fingerprint,
            images_fingerprint=self.images_fingerprint,
            n_groups=self.n_groups,
            weights=self.summary.weights,
            n_training=len(split.training),
            n_validation=len(split.validation),
            training_seconds=result.seconds,
            embedding_seconds=self.summary.seconds_per_image * len(self.labels),
            curves=result.curves,
            epoch=result.epoch,
            temperature=calibration.temperature,
            selection=selection,
            calibration_folds=calibration.folds,
            calibrated_loss=calibration.loss,
        )
        save_head(self.root, info, result.state)
        self.damaged.discard(configuration)
