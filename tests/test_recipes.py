"""Recipes: a study's options in a file, which come after those of the command line."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cache.errors import GridError
from cli import cli
from evaluate.recipes import TABLES, read_recipe
from tests.conftest import ROOT

COMMANDS = {name: cli.commands[name] for name in TABLES}
FILES = sorted((ROOT / "recipes").glob("*.toml"))
RECIPES = [path for path in FILES if "[run]" in path.read_text()]


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_holds_what_its_commands_take(path: Path) -> None:
    """Every value goes through the type of its option, as on the command line."""
    recipe = read_recipe(path, COMMANDS)
    tables = [("run", recipe.run), *(("baseline", given) for given in recipe.baselines)]
    tables += [("split", recipe.split or {})] if recipe.split is not None else []
    tables += [("report", recipe.report or {})]
    for name, given in tables:
        extra = {"split": {"out": "-"}}.get(name, {})
        with COMMANDS[name].make_context(name, [], default_map=extra | given) as context:
            for key, value in given.items():
                found = context.params[key]
                assert found == value or str(found) == str(value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_how_it_is_called(path: Path) -> None:
    text = path.read_text()
    assert f"cli.py run --recipe recipes/{path.name}" in text
    assert text.count("\n") < 40, "a page"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[run]\narchitecture = 'resnet18'", r"\[run\] has no option architecture.*run --help"),
        ("[[run]]\n[[run]]", r"run must be a table"),
        ("[train]\nlr = 1", r"train means nothing in a recipe.*split, run, baseline, report"),
        ("run = 3", r"run must be a table"),
        ("[run\n", r"mine\.toml"),
        ("[run]\nrecipe = 'mine.toml'", r"no option recipe"),
    ],
)
def test_what_can_not_be_followed_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(GridError, match=words):
        read_recipe(written(tmp_path, text), COMMANDS)


def test_options_given_come_before_the_recipe(tmp_path: Path) -> None:
    @click.command()
    @click.pass_context
    def shown(context: click.Context) -> None:
        click.echo(json.dumps({k: str(v) for k, v in context.params.items()}))

    command = click.Command("run", params=COMMANDS["run"].params, callback=None)
    path = written(tmp_path, "[run]\nlr = [0.1, 0.2]\nepochs = 3\nhead = 'knn'")
    group = click.Group("cli", commands=cli.commands)
    with group.make_context("cli", ["run"]) as outer:
        given = ["--recipe", str(path), "--epochs", "7"]
        with command.make_context("run", given, parent=outer) as context:
            assert context.params["learning_rate"] == [0.1, 0.2]
            assert context.params["epochs"] == [7]
            assert context.params["head"] == ["knn"]


def test_a_wrong_value_is_named_by_its_option(tmp_path: Path) -> None:
    path = written(tmp_path, "[run]\nepochs = -1")
    done = CliRunner().invoke(cli, ["run", "--recipe", str(path)])
    assert done.exit_code == 2
    assert "--epochs" in done.output
