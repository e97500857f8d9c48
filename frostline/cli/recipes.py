"""Recipes: a study on one page, as a TOML file with the options of the commands that make it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from sys import float_info
from typing import Any

import click

from cache.errors import GridError
from cache.records import RecordError, parse_toml, read_text
from extract.imaging.preprocessing import AUTO
from frostline.cli.param_types import FullScale

Values = dict[str, Any]  # of a command's options, by parameter name

# What a command of a recipe takes from `run`: always, and where its table says nothing.
ALWAYS = {
    "split": ("workspace",),
    "baseline": ("dataset", "test", "workspace"),
    "report": ("workspace",),
}
ELSE = {
    "split": ("full_scale",),
    "baseline": (
        *("per_class", "test_per_class"),
        *("fit", "normalize", "full_scale", "seed", "no_group"),
    ),
    "report": (),
}
# By table of a recipe: whether there may be several.
TABLES = {"split": False, "run": False, "baseline": True, "report": False}


@dataclass(frozen=True)
class Recipe:
    """Options of each command that a study is made by.

    Attributes:
        split, report: None if it has no such table.
        baselines: In their order.
    """

    path: Path
    run: Values
    split: Values | None
    baselines: tuple[Values, ...]
    report: Values | None


def read_recipe(path: Path, commands: Mapping[str, click.Command]) -> Recipe:
    """Read a recipe: tables `[split]`, `[run]`, `[[baseline]]` and `[report]`, each with options of
    the command of this name, without their dashes in front.

    Args:
        commands: Of these names.

    Raises:
        GridError: it can't be read, or has a table, an option or a kind of value that there is not.
    """
    try:
        content = parse_toml(read_text(path), Values)
    except (RecordError, FileNotFoundError) as error:
        raise GridError(f"{path} can't be used: {error}. Correct it.") from None
    if unknown := sorted(content.keys() - TABLES):
        raise GridError(
            f"{path}: {', '.join(unknown)} is not a table of a recipe. Its tables are "
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
    return Recipe(path, run or {}, split, tuple(found["baseline"]), report)


def check_recipe(recipe: Recipe, run: click.Context) -> None:
    """Make sure that every command of a recipe takes its values, before the first one works.

    Raises:
        GridError: one doesn't.
    """
    tables = [("baseline", given) for given in recipe.baselines]
    tables += [("report", recipe.report or {})]
    if recipe.split is not None:
        tables.append(("split", cut_by(recipe.split, run)))
    for name, given in tables:
        try:
            context_of(_command(run, name), given, run).close()
        except click.UsageError as error:
            raise GridError(f"{recipe.path}: [{name}] {error.format_message()}") from None


def cut_by(given: Values, run: click.Context) -> Values:
    """Return the options of a recipe's `split`. Of `run`, `--dataset` says what is cut.

    Raises:
        GridError: `--test` is given, which is cut out of it.
    """
    if _is_given(run, "test"):
        raise GridError(
            "--test: the recipe cuts the test set out of [split]'s source: leave it out"
        )
    source = {"source": run.params["dataset"]} if _is_given(run, "dataset") else {}
    fraction = run.params.get("hold_out")
    share = {} if fraction is None else {"test_fraction": fraction}
    return {"out": Path(run.params["workspace"]) / "split"} | given | source | share


def invoke(command: click.Command, given: Values, run: click.Context) -> Any:
    """Run another command with these options, and with those of `run` that matter to it."""
    with context_of(command, given, run) as context:
        return command.invoke(context)


def context_of(command: click.Command, given: Values, run: click.Context) -> click.Context:
    """Return the context in which a command of a recipe works.

    Args:
        given: What its table says.
    """
    from PIL.Image import MAX_IMAGE_PIXELS

    name = str(command.name)
    ours = {key: run.params[key] for key in ELSE[name] if run.params.get(key) is not None}
    ours["also"] = [f"{key}={folder}" for key, folder in run.params["also"].items()]
    ours["max_pixels"] = MAX_IMAGE_PIXELS
    if len(run.params["device"]) == 1:
        ours["device"] = run.params["device"][0]
    typed = {key: value for key, value in ours.items() if _is_given(run, key)}
    always = {key: run.params[key] for key in ALWAYS[name]}
    defaults = ours | given | typed | always
    return command.make_context(name, [], run.parent, default_map=defaults)


def _command(run: click.Context, name: str) -> click.Command:
    group = run.find_root().command
    assert isinstance(group, click.Group)  # noqa: S101 - `run` is a command of it
    return group.commands[name]


def _is_given(run: click.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    return run.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _options(path: Path, table: str, given: Mapping[str, Any], command: click.Command) -> Values:
    options = {
        flag.removeprefix("--"): parameter
        for parameter in command.params
        for flag in parameter.opts
        if parameter.name != "recipe" and parameter.name not in ALWAYS.get(table, ())
    }
    found = {}
    for key, value in given.items():
        if key not in options:
            raise GridError(
                f"{path}: [{table}] has no option {key}; `cli.py {table} --help` shows them"
                + (", and [run] says it for all" if key in ALWAYS.get(table, ()) else "")
            )
        parameter = options[key]
        several = getattr(parameter, "multiple", False)
        values = value if isinstance(value, list) and several else [value]
        if not all(_is_of_kind(each, parameter) for each in values):
            raise GridError(f"{path}: [{table}] {key} = {value} is no value of --{key}")
        found[str(parameter.name)] = values if several else value
    return found


def _is_of_kind(value: Any, parameter: click.Parameter) -> bool:
    """Whether a value of TOML is what an option takes: click takes 2.7 for 2, and `true` for 1."""
    if getattr(parameter, "is_flag", False):
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if isinstance(parameter.type, FullScale) and value == AUTO:
        return True
    if isinstance(parameter.type, click.types.IntParamType):
        return isinstance(value, int)
    if isinstance(parameter.type, click.types.FloatParamType):
        return isinstance(value, int | float) and abs(value) <= float_info.max
    return isinstance(value, str) and "\0" not in value
