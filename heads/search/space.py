"""Which heads are to be trained: every combination of the values given, by options or in a file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from sys import float_info
from typing import Any

from cache.errors import GridError
from cache.records import RecordError, parse_toml, read_text
from heads.architectures import HEADS
from heads.config import BALANCES, NEUTRAL, NO_OPTIMIZER, HeadConfig
from heads.optimizers import OPTIMIZERS
from heads.schedules import SCHEDULES

Values = Mapping[str, Sequence[Any]]  # by field of Configuration


@dataclass(frozen=True)
class Limits:
    """What a number may be: from `low` to `high`, or above and below them where they are open."""

    low: float
    high: float | None = None
    whole: bool = False
    low_open: bool = False
    high_open: bool = False

    def allow(self, value: Any) -> bool:
        """Whether a value is such a number."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        high = float_info.max if self.high is None else self.high
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < high if self.high_open else value <= high)


MOST = 10**9  # of anything that is counted
LARGEST_SEED = 2**32 - 1  # scikit-learn's
LIMITS: dict[str, Limits] = {
    "learning_rate": Limits(0, low_open=True),
    "momentum": Limits(0, 1, high_open=True),
    "weight_decay": Limits(0),
    "gamma": Limits(0, 1, low_open=True),
    "warmup": Limits(0, MOST, whole=True),
    "epochs": Limits(1, MOST, whole=True),
    "patience": Limits(0, MOST, whole=True),
    "batch_size": Limits(1, MOST, whole=True),
    "views": Limits(0, MOST, whole=True),
    "val_fraction": Limits(0, 1, low_open=True, high_open=True),
    "seed": Limits(0, LARGEST_SEED, whole=True),
    "seeds": Limits(1, MOST, whole=True),
    "cv": Limits(2, MOST, whole=True),
    "repeats": Limits(1, MOST, whole=True),
}
WORDS: dict[str, tuple[str, ...]] = {
    "head": tuple(HEADS),
    "optimizer": tuple(OPTIMIZERS),
    "schedule": tuple(SCHEDULES),
    "balance": tuple(BALANCES),
}
FIELDS = tuple(f.name for f in dataclasses.fields(HeadConfig) if f.name not in ("seed", "fold"))
PLAN = ("seed", "seeds", "cv", "repeats")


@dataclass(frozen=True)
class SearchPlan:
    """candidates: what is compared, without their seeds. seeds: how many heads of each are trained,
    from `seed` on. cv: folds, 0 for none; each candidate is estimated by `repeats` times cv heads.
    """

    candidates: tuple[HeadConfig, ...]
    seed: int = 0
    seeds: int = 1
    cv: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.seed + max(self.seeds, self.repeats) - 1 > LARGEST_SEED:
            raise GridError(
                f"seed = {self.seed}: with all that follow it goes beyond {LARGEST_SEED}"
            )

    def final_fits(self, candidate: HeadConfig) -> list[HeadConfig]:
        """Return the heads that are kept if this candidate is chosen: one for each seed."""
        seeds = range(self.seed, self.seed + self.seeds)
        return [dataclasses.replace(candidate, seed=seed) for seed in seeds]

    def cv_fits(self, candidate: HeadConfig) -> list[HeadConfig]:
        """Return the heads by which a candidate is judged: of all folds, or else the final fits."""
        if not self.cv:
            return self.final_fits(candidate)
        return [
            dataclasses.replace(candidate, seed=self.seed + repeat, fold=f"{number}/{self.cv}")
            for repeat in range(self.repeats)
            for number in range(1, self.cv + 1)
        ]


def combinations(values: Values) -> list[HeadConfig]:
    """Return every combination once. Fitted heads take no optimizer, and their own strengths
    unless weight decays are given.

    Raises:
        GridError: a value means nothing to any of the heads, or needs another one.
    """
    found: dict[HeadConfig, None] = {}
    for head in values.get("head") or [name for name, entry in HEADS.items() if entry.standard]:
        given = {name: values[name] for name in FIELDS if values.get(name)} | {"head": [head]}
        if HEADS[head].fitted:
            strengths = HEADS[head].strengths
            given = {"weight_decay": strengths} | given | {"optimizer": [NO_OPTIMIZER]}
            if len(strengths) > 1 and 0 in given["weight_decay"]:
                raise GridError(f"weight_decay: {head} needs a number above 0")
        else:
            default = [name for name, entry in OPTIMIZERS.items() if entry.standard]
            given = {"optimizer": default} | given
            if "gamma" in given:  # a gamma alone means that it acts
                given = {"schedule": ["exponential"]} | given
        for choice in product(*given.values()):
            found[HeadConfig(**dict(zip(given, choice, strict=True)))] = None
    _check_meaning(values, list(found))
    return list(found)


def _check_meaning(values: Values, found: Sequence[HeadConfig]) -> None:
    for name in NEUTRAL:
        wanted = [value for value in values.get(name) or () if value != NEUTRAL[name]]
        able = [c for c in found if name not in c.meaningless()]
        if wanted and not able:
            raise GridError(
                f"{name} = {wanted[0]} means nothing to any of these heads: leave it out, or "
                "choose a head, optimizer or schedule that has it"
            )
    for configuration in found:
        if configuration.warmup >= configuration.epochs:
            raise GridError(
                f"warmup = {configuration.warmup} of {configuration.epochs} epochs: it must be less"
            )
        if configuration.balance == "augment" and not configuration.views:
            raise GridError(
                "balance = augment fills small classes up with augmented views: say with --views "
                "how many of each image there are (views in a grid file)"
            )


def _check_comparable(found: Sequence[HeadConfig]) -> None:
    """Make sure that candidates can be judged by the same images in the same way."""
    if len({configuration.val_fraction for configuration in found}) > 1:
        raise GridError("val_fraction: validated on different images, heads can't be compared")
    patient = {c.patience for c in found if not HEADS[c.head].fitted}
    if len(patient) > 1:
        raise GridError(
            "patience: it chooses the epoch by the very images that judge a head, so that heads of "
            "different patience can't be compared"
        )


def asked(choices: Mapping[str, Any]) -> SearchPlan:
    """Return what the options of the command line ask for: values by name, `seed`, `seeds`, `cv`,
    `repeats`, and `grid`, a file that says it all.

    Raises:
        GridError: they contradict one another, or the file can't be used.
    """
    values = {name: choices[name] for name in FIELDS if choices[name]}
    if choices["nesterov"]:
        values["nesterov"] = [True]
    plan = {name: choices[name] for name in ("seeds", "cv", "repeats")}
    if grid := choices["grid"]:
        given = [*values, *(name for name, value in plan.items() if value not in (None, 1))]
        if given:
            raise GridError(f"--grid {grid} says what to train: leave out {', '.join(given)}")
        return read_grid(grid, choices["seed"])
    if plan["repeats"] > 1 and not plan["cv"]:
        raise GridError("--repeats says how often --cv divides the images: give --cv too")
    candidates = combinations(values)
    _check_comparable(candidates)
    return SearchPlan(
        tuple(candidates), choices["seed"], plan["seeds"], plan["cv"] or 0, plan["repeats"]
    )


def read_grid(path: Path, seed: int = 0) -> SearchPlan:
    """Read a sweep from a TOML file: tables `[grid]` or `[[grid]]` of values or lists of values,
    all combined within a table; above them `seed` (else this one), `seeds`, `cv` and `repeats`.

    Raises:
        GridError: it can't be read, is empty, or a key or value is wrong; the line is named.
    """
    try:
        text = read_text(path)
        content = parse_toml(text, dict[str, Any])
    except (RecordError, FileNotFoundError) as error:
        raise GridError(f"{path} can't be used: {error}. Correct it.") from None
    grids = content.pop("grid", None)
    grids = [grids] if isinstance(grids, dict) else grids
    if not isinstance(grids, list) or not all(isinstance(grid, dict) and grid for grid in grids):
        raise GridError(f"{path} has no [grid] with values in it: see recipes/ for examples")
    for name, value in content.items():
        _check(path, text, name, [value], PLAN, 0)
    candidates: list[HeadConfig] = []
    for number, grid in enumerate(grids):
        values = {name: v if isinstance(v, list) else [v] for name, v in grid.items()}
        for name, given in values.items():
            _check(path, text, name, given, FIELDS, number)
        try:
            candidates += combinations(values)
            _check_comparable(candidates)
        except GridError as error:
            key = str(error).partition(":")[0].partition(" ")[0]
            raise GridError(f"{path}, line {_line(text, key, number)}: {error}") from None
    if seed and "seed" in content:
        raise GridError(
            f"{path}, line {_line(text, 'seed', -1)}: it says the seed: leave out --seed"
        )
    if "repeats" in content and "cv" not in content:
        raise GridError(f"{path}, line {_line(text, 'repeats', 0)}: repeats needs cv")
    return SearchPlan(tuple(dict.fromkeys(candidates)), **{"seed": seed, **content})


def _check(
    path: Path, text: str, name: str, values: Sequence[Any], known: Sequence[str], number: int
) -> None:
    where = f"{path}, line {_line(text, name, number)}: {name}"
    if name not in known:
        raise GridError(f"{where} is no key that is known here: {', '.join(known)}")
    if not values:
        raise GridError(f"{where} is an empty list: give at least one value")
    for value in values:
        if name in WORDS and value not in WORDS[name]:
            raise GridError(f"{where} = {value!r}: choose of {', '.join(WORDS[name])}")
        if name in LIMITS and not LIMITS[name].allow(value):
            raise GridError(f"{where} = {value!r}: it must be {_in_words(LIMITS[name])}")
        if name == "nesterov" and not isinstance(value, bool):
            raise GridError(f"{where} = {value!r}: it must be true or false")


def _in_words(limits: Limits) -> str:
    kind = "a whole number" if limits.whole else "a number"
    low = f"{'above' if limits.low_open else 'from'} {limits.low:g}"
    high = (
        ""
        if limits.high is None
        else f" {'below' if limits.high_open else 'up to'} {limits.high:g}"
    )
    return f"{kind} {low}{high}"


def _line(text: str, key: str, number: int) -> int:
    """Find the line of a key in the grid of this number, or else above all grids."""
    lines, grids, found = text.splitlines(), -1, 1
    for line, content in enumerate(lines, start=1):
        grids += bool(re.match(r"\s*\[\[?\s*grid\s*\]", content))
        if re.match(rf"\s*['\"]?{re.escape(key)}['\"]?\s*=", content) and grids in (-1, number):
            found = line
    return found
