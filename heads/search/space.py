"""The search space: every combination of the given values, from options or a grid file.

- Each configuration comes once.
- A value that has no effect, contradicts another one or is out of range is an error; in a grid
  file, the error names its line.
"""

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

Values = Mapping[str, Sequence[Any]]  # by field of HeadConfig


@dataclass(frozen=True)
class Limits:
    """The range of a number, from `low` to `high`; where it is open, the end is excluded."""

    low: float
    high: float | None = None
    whole: bool = False
    low_open: bool = False
    high_open: bool = False

    def allow(self, value: Any) -> bool:
        """Return whether a value is a number in this range."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        high = float_info.max if self.high is None else self.high
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < high if self.high_open else value <= high)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"{'above' if self.low_open else 'from'} {self.low:g}"
        high = (
            "" if self.high is None else f"{'below' if self.high_open else 'up to'} {self.high:g}"
        )
        return f"{kind} {low} {high}".rstrip()


MOST = 10**9  # of any count
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
    """Candidates, and how they are compared.

    Attributes:
        candidates: The configurations, without their seeds.
        seed: The first seed.
        seeds: Heads that are trained of each selected candidate.
        cv: Folds of cross-validation; 0: candidates are compared on the validation images.
        repeats: Repetitions of cross-validation, each with another seed.
    """

    candidates: tuple[HeadConfig, ...]
    seed: int = 0
    seeds: int = 1
    cv: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.seed + max(self.seeds, self.repeats) - 1 > LARGEST_SEED:
            raise GridError(
                f"seed = {self.seed}: the last seed goes beyond {LARGEST_SEED}. Choose a smaller "
                "one."
            )

    def final_fits(self, candidate: HeadConfig) -> list[HeadConfig]:
        """Return the heads that are saved if this candidate is selected: one for each seed."""
        seeds = range(self.seed, self.seed + self.seeds)
        return [dataclasses.replace(candidate, seed=seed) for seed in seeds]

    def cv_fits(self, candidate: HeadConfig) -> list[HeadConfig]:
        """Return the heads that a candidate is compared by: its folds, or else its final fits."""
        if not self.cv:
            return self.final_fits(candidate)
        return [
            dataclasses.replace(candidate, seed=self.seed + repeat, fold=f"{number}/{self.cv}")
            for repeat in range(self.repeats)
            for number in range(1, self.cv + 1)
        ]


def combinations(values: Values) -> list[HeadConfig]:
    """Return every combination once.

    Heads in closed form have no optimizer, and their own strengths if no weight decay is given.

    Raises:
        GridError: A value has no effect on any of the heads, or needs another one.
    """
    configurations: dict[HeadConfig, None] = {}
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
            if "gamma" in given:  # without a schedule, a gamma asks for this one
                given = {"schedule": ["exponential"]} | given
        for choice in product(*given.values()):
            configurations[HeadConfig(**dict(zip(given, choice, strict=True)))] = None
    _check_effects(values, list(configurations))
    return list(configurations)


def _check_effects(values: Values, configurations: Sequence[HeadConfig]) -> None:
    for name in NEUTRAL:
        wanted = [value for value in values.get(name) or () if value != NEUTRAL[name]]
        if wanted and all(name in c.unused_fields() for c in configurations):
            raise GridError(
                f"{name} = {wanted[0]} has no effect on the selected heads and optimizers. Remove "
                "it, or choose a head, optimizer or schedule that uses it."
            )
    for configuration in configurations:
        if configuration.warmup >= configuration.epochs:
            raise GridError(
                f"warmup = {configuration.warmup} of {configuration.epochs} epochs: it must be less"
            )
        if configuration.balance == "augment" and not configuration.views:
            raise GridError(
                "balance = augment oversamples small classes with augmented views. Give their "
                "number with --views (views in a grid file)."
            )


def _check_comparable(configurations: Sequence[HeadConfig]) -> None:
    """Raise GridError if candidates are not validated by the same images in the same way."""
    if len({configuration.val_fraction for configuration in configurations}) > 1:
        raise GridError("val_fraction: heads validated on different images can't be compared")
    if len({c.patience for c in configurations if not HEADS[c.head].fitted}) > 1:
        raise GridError(
            "patience: it chooses the epoch by the images that compare heads, so that heads of "
            "different patience can't be compared"
        )


def plan_from_options(choices: Mapping[str, Any]) -> SearchPlan:
    """Return the search plan of options of the command line, by name.

    Raises:
        GridError: They contradict one another, or the grid file can't be used.
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
        raise GridError("--repeats is the number of repetitions of --cv: give --cv too")
    candidates = combinations(values)
    _check_comparable(candidates)
    return SearchPlan(
        tuple(candidates), choices["seed"], plan["seeds"], plan["cv"] or 0, plan["repeats"]
    )


def read_grid(path: Path, seed: int = 0) -> SearchPlan:
    """Read a search plan from a TOML file.

    It has tables `[grid]` or `[[grid]]` of values or lists of values, all combined within a table,
    and above them `seed` (default: the parameter), `seeds`, `cv` and `repeats`.

    Raises:
        GridError: It can't be read, is empty, or a key or value is wrong; names the line.
    """
    text, content, grids = _tables(path)

    def error_at(key: str, number: int, message: object) -> GridError:
        return GridError(f"{path}, line {_line(text, key, number)}: {message}")

    for name, value in content.items():
        if message := _problem(name, [value], PLAN):
            raise error_at(name, -1, message)
    candidates: list[HeadConfig] = []
    for number, grid in enumerate(grids):
        for name, given in grid.items():
            if message := _problem(name, given, FIELDS):
                raise error_at(name, number, message)
        try:
            candidates += combinations(grid)
            _check_comparable(candidates)
        except GridError as error:
            key = str(error).partition(":")[0].partition(" ")[0]
            raise error_at(key, number, error) from None
    if seed and "seed" in content:
        raise error_at("seed", -1, "the file has a seed: leave out --seed")
    if "repeats" in content and "cv" not in content:
        raise error_at("repeats", -1, "repeats needs cv")
    return SearchPlan(tuple(dict.fromkeys(candidates)), **{"seed": seed, **content})


def _tables(path: Path) -> tuple[str, dict[str, Any], list[dict[str, list[Any]]]]:
    """Return a file's text, the values above its grids, and lists of values by key of each grid."""
    try:
        text = read_text(path)
        content = parse_toml(text, dict[str, Any])
    except (RecordError, FileNotFoundError) as error:
        raise GridError(f"{path} can't be used: {error}. Correct it.") from None
    grids = content.pop("grid", None)
    grids = [grids] if isinstance(grids, dict) else grids
    if not isinstance(grids, list) or not all(isinstance(grid, dict) and grid for grid in grids):
        raise GridError(f"{path} has no [grid] with values in it: see recipes/ for examples")
    lists = [
        {name: value if isinstance(value, list) else [value] for name, value in grid.items()}
        for grid in grids
    ]
    return text, content, lists


def _problem(name: str, values: Sequence[Any], known: Sequence[str]) -> str:
    """Return what is wrong with a key or its values, or an empty text."""
    if name not in known:
        return f"{name} is not a known key. Known keys: {', '.join(known)}"
    if not values:
        return f"{name} is an empty list: give at least one value"
    for value in values:
        if name in WORDS and value not in WORDS[name]:
            return f"{name} = {value!r}: choose from {', '.join(WORDS[name])}"
        if name in LIMITS and not LIMITS[name].allow(value):
            return f"{name} = {value!r}: it must be {LIMITS[name]}"
        if name == "nesterov" and not isinstance(value, bool):
            return f"{name} = {value!r}: it must be true or false"
    return ""


def _line(text: str, key: str, number: int) -> int:
    """Return the line of a key in the grid of this number, or above all grids."""
    grids, position = -1, 1
    for line, content in enumerate(text.splitlines(), start=1):
        grids += bool(re.match(r"\s*\[\[?\s*grid\s*\]", content))
        if re.match(rf"\s*['\"]?{re.escape(key)}['\"]?\s*=", content) and grids in (-1, number):
            position = line
    return position
