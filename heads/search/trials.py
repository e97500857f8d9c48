"""What was tried, and how well it did on validation: `heads/trials.csv`, and the choice from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd
from filelock import FileLock, Timeout

from cache.errors import HeadError
from cache.files import replacing
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
    open_table,
    read_table,
    restored,
    write_table,
)
from heads.architectures import HEADS
from heads.batched.trainer import TrainingResult
from heads.config import HeadConfig
from heads.preference import Preference, preference
from heads.search.space import SearchPlan

LOCK_TIMEOUT_S = 60
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
    """How a candidate did on validation: mean accuracy, loss and loss after temperature scaling
    over its judges, the standard deviation of the accuracy (NaN for one judge), and how many they
    are. A candidate of which any head diverged has NaN.
    """

    accuracy: float
    loss: float
    calibrated_loss: float
    spread: float
    cv_fits: int


@dataclass(frozen=True)
class ScoredCandidate:
    """A candidate, its score, and whether it was chosen among those of its head and optimizer."""

    candidate: HeadConfig
    score: Score
    chosen: bool


def read_trials(path: Path) -> pd.DataFrame:
    """Read `trials.csv`, by trial_id; empty where there is none.

    Raises:
        HeadError: it is damaged, or not ours.
    """
    rows = _read(path)
    return pd.DataFrame(
        {
            name: pd.Series([row[name] for row in rows], dtype=object if kind is str else kind)
            for name, kind in COLUMNS.items()
        }
    ).set_index("trial_id")


def add_trials(path: Path, trials: Mapping[str, Mapping[str, Any]]) -> None:
    """Add rows by trial_id; written whole or not at all, one process at a time.

    Raises:
        HeadError: it is damaged, or another process holds it for a minute.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT_S):
            rows = [row for row in _read(path) if row["trial_id"] not in trials]
            rows += [{"trial_id": name, **trial} for name, trial in trials.items()]
            with replacing(path) as temporary, open_table(temporary) as file:
                write_table(file, [*COLUMNS, CHECKSUM], map(_cells, rows))
    except Timeout:
        raise HeadError(
            f"{path} is being written by another process: wait for it and try again"
        ) from None


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
            f"{path} can't be read ({error}). Delete it, and the sweeps are trained again."
        ) from None


def _typed(cells: Mapping[str, str], line: int) -> dict[str, Any]:
    try:
        row = {name: READ[kind](cells.get(name, "")) for name, kind in COLUMNS.items()}
        if not row["trial_id"] or row["diverged"] not in (0, 1):
            raise ValueError("trial_id or diverged has no such value")
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


def rank(sweep: SearchPlan, trials: Mapping[HeadConfig, Row]) -> list[ScoredCandidate]:
    """Judge all candidates, the best first; the first of each head and optimizer is chosen.

    By the means over their judges, see `preference`; those that are equal in all of it keep the
    order of the sweep. A candidate of which a head diverged is last, and never chosen.
    """
    scored = [(c, _score([trials[judge] for judge in sweep.cv_fits(c)])) for c in sweep.candidates]
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
    """What a factor's level is worth: mean accuracy of the candidates that have it, over those
    combinations of all other factors that occur with every level; how many these are.
    """

    factor: str
    level: object
    accuracy: float
    candidates: int


def effects(ranked: Sequence[ScoredCandidate]) -> list[Effect]:
    """Return the main effect of each factor that varies, over matched candidates of those to which
    it means anything.
    """
    table = pd.DataFrame([_levels(r.candidate) | {"accuracy": r.score.accuracy} for r in ranked])
    found = []
    for factor in FIELDS:
        having = table[table[factor].notna()]
        varying = [name for name in FIELDS if having[name].nunique(dropna=False) > 1]
        if factor not in varying or any(
            _follows(having, factor, other) and not _follows(having, other, factor)
            for other in varying
        ):
            continue  # nothing to compare, or the other factor says all that there is to say
        others = [o for o in varying if o != factor and not _follows(having, o, factor)]
        there = having["accuracy"].notna()  # without the diverged
        if others:
            counts = having.groupby(others, dropna=False)["accuracy"].transform("count")
            there = counts == having[factor].nunique()
        for level, group in having[there].groupby(factor):
            found.append(Effect(factor, level, group["accuracy"].mean(), len(group)))
    return found


def _levels(candidate: HeadConfig) -> dict[str, object]:
    """Return the fields of a candidate, None where they mean nothing; but no optimizer, no schedule
    and the gamma of 1 that comes to the same are levels too.
    """
    levels = dataclasses.asdict(candidate) | dict.fromkeys(candidate.meaningless())
    levels |= {"optimizer": candidate.optimizer, "schedule": candidate.schedule}
    if candidate.schedule == "constant" and not HEADS[candidate.head].fitted:
        levels["gamma"] = candidate.gamma
    return levels


def _follows(table: pd.DataFrame, one: str, other: str) -> bool:
    """Whether each level of the other has its one level of this, as a gamma its schedule."""
    if one == other:
        return False
    counts = table.groupby(other, dropna=False)[one].nunique(dropna=False)
    return bool((counts == 1).all())
