"""Trials: the table `heads/trials.csv`, the ranking of candidates, and the effects of settings.

- The table is written whole or not at all, by one process at a time; each row has a checksum.
- Test images take no part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd

from cache.errors import HeadError
from cache.tables import (
    CHANGED,
    CHECKSUM,
    TableError,
    as_cell,
    as_flag,
    as_number,
    as_whole_number,
    checksum,
    neutral,
    read_table,
    restored,
    rewrite_table,
)
from heads.architectures import HEADS
from heads.batched.trainer import TrainingResult
from heads.config import HeadConfig
from heads.preference import Preference, preference
from heads.search.space import SearchPlan

FIELDS = tuple(field.name for field in dataclasses.fields(HeadConfig))
MEASURED = ("validation_accuracy", "validation_loss", "training_accuracy", "training_loss")
CALIBRATED = "validation_calibrated_loss"  # earlier versions did not measure it
COLUMNS: dict[str, type] = {
    "trial_id": str,
    "cache": str,
    "dataset": str,
    "n_groups": int,
    **get_type_hints(HeadConfig),
    "epoch": int,
    **dict.fromkeys((*MEASURED, CALIBRATED), float),
    "diverged": int,
    "seconds": float,
}

# How a cell is read.
READ: dict[type, Callable[[str], Any]] = {
    str: restored,
    bool: as_flag,
    int: as_whole_number,
    float: lambda cell: as_number(cell) if cell else nan,
}

Row = Mapping[Hashable, Any]  # of the table, by column


@dataclass(frozen=True)
class Score:
    """A candidate's validation metrics; NaN if any of its fits diverged.

    Attributes:
        accuracy: Mean over its fits.
        loss: Mean cross entropy.
        calibrated_loss: Mean cross entropy after temperature scaling.
        spread: Standard deviation of the accuracy; NaN for one fit.
        cv_fits: Number of fits; 0 if any diverged.
    """

    accuracy: float
    loss: float
    calibrated_loss: float
    spread: float
    cv_fits: int


@dataclass(frozen=True)
class ScoredCandidate:
    """A candidate, its score, and whether it is the best of its head and optimizer."""

    candidate: HeadConfig
    score: Score
    chosen: bool


def read_trials(path: Path) -> pd.DataFrame:
    """Return `trials.csv` with the index trial_id; empty if there is no file.

    Raises:
        HeadError: The file is damaged, or another program's.
    """
    rows = _read(path)
    return pd.DataFrame(
        {
            name: pd.Series([row[name] for row in rows], dtype=object if kind is str else kind)
            for name, kind in COLUMNS.items()
        }
    ).set_index("trial_id")


def add_trials(path: Path, trials: Mapping[str, Mapping[str, Any]]) -> None:
    """Add rows by trial_id, or replace them.

    Raises:
        HeadError: The file is damaged, or another process has locked it for a minute.
    """

    def merged() -> tuple[list[str], list[list[str]]]:
        rows = [row for row in _read(path) if row["trial_id"] not in trials]
        rows += [{"trial_id": name, **trial} for name, trial in trials.items()]
        return [*COLUMNS, CHECKSUM], [_cells(row) for row in rows]

    try:
        rewrite_table(path, merged)
    except TableError as error:
        raise HeadError(str(error)) from None


def _cells(row: Mapping[str, Any]) -> list[str]:
    values = {name: kind(row[name]) for name, kind in COLUMNS.items()}
    cells = [neutral(v) if isinstance(v, str) else as_cell(v) for v in values.values()]
    return [*cells, checksum(cells)]


def _read(path: Path) -> list[dict[str, Any]]:
    """Return typed rows. Raises HeadError."""
    try:
        table = read_table(path, [name for name in COLUMNS if name != CALIBRATED])
        return [_typed(row, line) for line, row in zip(table.lines, table.rows, strict=True)]
    except FileNotFoundError:
        return []
    except TableError as error:
        raise HeadError(
            f"{path} can't be read ({error}). Delete it; the search is then trained again."
        ) from None


def _typed(cells: Mapping[str, str], line: int) -> dict[str, Any]:
    try:
        row = {name: READ[kind](cells.get(name, "")) for name, kind in COLUMNS.items()}
        if not row["trial_id"] or row["diverged"] not in (0, 1):
            raise ValueError("trial_id is empty, or diverged is neither 0 nor 1")
    except ValueError as error:
        raise TableError(f"line {line}: {error}") from None
    if cells.get(CHECKSUM) and cells[CHECKSUM] != checksum(_cells(row)[:-1]):
        raise TableError(f"line {line}: {CHANGED}")
    return row


def as_trial(configuration: HeadConfig, result: TrainingResult) -> dict[str, Any]:
    """Return a trial's row without `trial_id` and the columns of the data."""
    measured = {name: result.curves[name][result.epoch] for name in MEASURED}
    return {
        **dataclasses.asdict(configuration),
        "epoch": result.epoch + 1,
        **measured,
        CALIBRATED: result.calibrated_loss,
        "diverged": int(result.diverged),
        "seconds": round(result.seconds, 6),
    }


def rank(plan: SearchPlan, trials: Mapping[HeadConfig, Row]) -> list[ScoredCandidate]:
    """Return all candidates, the best first; the first of each head and optimizer is chosen.

    They are ranked by means over their fits, see `preference`; equal candidates keep the plan's
    order. A candidate with a diverged fit is last, and never chosen.
    """
    scored = [(c, _score([trials[fit] for fit in plan.cv_fits(c)])) for c in plan.candidates]
    scored.sort(key=lambda pair: _preference(*pair))
    ranked, groups = [], set[tuple[str, str]]()
    for candidate, score in scored:
        group = (candidate.head, candidate.optimizer)
        chosen = group not in groups and score.accuracy == score.accuracy
        groups |= {group} if chosen else set()
        ranked.append(ScoredCandidate(candidate, score, chosen))
    return ranked


def _preference(candidate: HeadConfig, score: Score) -> Preference:
    # Hidden units stand for parameters, whose number depends on the embedding too.
    units = sum(HEADS[candidate.head].hidden)
    return preference(score.accuracy, score.calibrated_loss, candidate.weight_decay, units)


def _score(rows: Sequence[Row]) -> Score:
    if any(row["diverged"] for row in rows):
        return Score(nan, nan, nan, nan, 0)
    table = pd.DataFrame(rows)
    accuracy = table["validation_accuracy"].astype(float)
    losses = table["validation_loss"].mean(), table[CALIBRATED].mean()
    return Score(accuracy.mean(), *losses, accuracy.std(), len(rows))


@dataclass(frozen=True)
class Effect:
    """The effect of one level of a factor.

    Attributes:
        factor: Field of the configuration.
        level: Its value.
        accuracy: Mean of the candidates with it, over the combinations of all other factors that
            occur with every level.
        candidates: How many these are.
    """

    factor: str
    level: object
    accuracy: float
    candidates: int


def effects(ranked: Sequence[ScoredCandidate]) -> list[Effect]:
    """Return the main effect of each factor that varies, over matched candidates that use it."""
    table = pd.DataFrame([_levels(r.candidate) | {"accuracy": r.score.accuracy} for r in ranked])
    results = []
    for factor in FIELDS:
        users = table[table[factor].notna()]
        varying = [name for name in FIELDS if users[name].nunique(dropna=False) > 1]
        if factor not in varying or any(
            _follows(users, factor, other) and not _follows(users, other, factor)
            for other in varying
        ):
            continue  # nothing to compare, or another factor determines this one
        others = [o for o in varying if o != factor and not _follows(users, o, factor)]
        matched = users["accuracy"].notna()  # without the diverged
        if others:
            counts = users.groupby(others, dropna=False)["accuracy"].transform("count")
            matched = counts == users[factor].nunique()
        for level, group in users[matched].groupby(factor):
            results.append(Effect(factor, level, group["accuracy"].mean(), len(group)))
    return results


def _levels(candidate: HeadConfig) -> dict[str, object]:
    """Return the fields of a candidate, None if it does not use them.

    No optimizer, no schedule, and the gamma of 1 that is the same, are levels too.
    """
    levels = dataclasses.asdict(candidate) | dict.fromkeys(candidate.unused_fields())
    levels |= {"optimizer": candidate.optimizer, "schedule": candidate.schedule}
    if candidate.schedule == "constant" and not HEADS[candidate.head].fitted:
        levels["gamma"] = candidate.gamma
    return levels


def _follows(table: pd.DataFrame, factor: str, other: str) -> bool:
    """Return whether the other factor determines this one, as a gamma its schedule."""
    if factor == other:
        return False
    counts = table.groupby(other, dropna=False)[factor].nunique(dropna=False)
    return bool((counts == 1).all())
