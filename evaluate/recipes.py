"""Recipes: a study on one page, as a TOML file with the options of the commands that make it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cache.errors import GridError

Values = dict[str, Any]  # of a command's options, by parameter name

# By table of a recipe: whether there may be several.
TABLES = {"split": False, "run": False, "baseline": True, "report": False}


@dataclass(frozen=True)
class Recipe:
    """Options of each command that a study is made by. split, report: None if it has no such table.
    baselines: in their order.
    """

    run: Values
    split: Values | None
    baselines: tuple[Values, ...]
    report: Values | None


def read_recipe(path: Path, commands: Mapping[str, click.Command]) -> Recipe:
    """Read a recipe: tables `[split]`, `[run]`, `[[baseline]]` and `[report]`, each with options of
    the command of this name, without their dashes in front.

    commands: of these names.

    Raises:
        GridError: it can't be read, or has a table or an option that there is not.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GridError(f"{path}: {error}") from None
    if unknown := sorted(content.keys() - TABLES):
        raise GridError(
            f"{path}: {', '.join(unknown)} means nothing in a recipe; its tables are "
            f"{', '.join(TABLES)}"
        )
    found: dict[str, list[Values]] = {}
    for name, several in TABLES.items():
        tables = content.get(name, [])
        tables = tables if isinstance(tables, list) else [tables]
        too_many = len(tables) > 1 and not several
        if too_many or not all(isinstance(table, dict) for table in tables):
            raise GridError(f"{path}: {name} must be a table, [{name}]")
        found[name] = [_options(path, name, table, commands[name]) for table in tables]
    run, split, report = (next(iter(found[name]), None) for name in ("run", "split", "report"))
    return Recipe(run or {}, split, tuple(found["baseline"]), report)


def _options(path: Path, table: str, given: Mapping[str, Any], command: click.Command) -> Values:
    options = {
        flag.removeprefix("--"): parameter
        for parameter in command.params
        for flag in parameter.opts
        if parameter.name != "recipe"
    }
    found = {}
    for key, value in given.items():
        if key not in options:
            raise GridError(
                f"{path}: [{table}] has no option {key}; `cli.py {table} --help` shows them"
            )
        parameter = options[key]
        several = getattr(parameter, "multiple", False) and not isinstance(value, list)
        found[str(parameter.name)] = [value] if several else value
    return found
