"""Recipes: a study's options in a file, which come after those of the command line."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cache.errors import GridError
from frostline.cli.main import cli
from frostline.cli.recipes import TABLES, context_of, cut_by, read_recipe
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

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
        ("[train]\nlr = 1", r"train is not a table of a recipe.*split, run, baseline, report"),
        ("run = 3", r"run must be a table"),
        ("[run\n", r"mine\.toml"),
        ("[run]\nrecipe = 'mine.toml'", r"no option recipe"),
        ("[[baseline]]\ndataset = 'mine'", r"no option dataset.*\[run\] says it for all"),
        ("[run]\ndataset = 5", r"\[run\] dataset = 5 is no value of --dataset"),
        ("[run]\ndataset = ['a', 'b']", r"is no value of --dataset"),
        ("[run.dataset]\na = 1", r"is no value of --dataset"),
        ("[run]\nlr = [{a = 1}]", r"is no value of --lr"),
        ("[run]\nlr = '0.1'", r"is no value of --lr"),
        ("[run]\nepochs = 2.7", r"epochs = 2.7 is no value of --epochs"),
        ("[run]\npatience = true", r"is no value of --patience"),
        ("[run]\nnesterov = 1", r"is no value of --nesterov"),
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[baseline]]\nmode = 'finetun'\narch = 'basic_cnn'", "[baseline] Invalid value for"),
        ("[[baseline]]\nmode = 'scratch'", "--arch"),
        ("[report]\nmax-latency-ms = -1", "[report]"),
        ("[split]\ntest-fraction = 0.2", "[split]"),
        ("[split]\nsource = 'x'\ntest-fraction = 2.0", "[split]"),
    ],
)
def test_all_of_it_is_looked_at_before_anything_is_done(
    tmp_path: Path, text: str, words: str
) -> None:
    path, out = written(tmp_path, text), tmp_path / "out"
    done = CliRunner().invoke(cli, ["run", "--recipe", str(path), "--workspace", str(out)])
    assert done.exit_code == 1
    assert words in done.output
    assert str(path) in done.output
    assert not out.exists()


def test_what_is_given_beside_it_reaches_its_tables(tmp_path: Path) -> None:
    """Unless a table of the recipe says otherwise; what stands on the command line comes first."""
    text = "[run]\nfit = 'pad'\n[[baseline]]\nmode = 'scratch'\narch = 'basic_cnn'\nseed = 3"
    recipe = read_recipe(written(tmp_path, text), COMMANDS)

    def seen(*given: str) -> dict[str, object]:
        with cli.make_context("cli", ["run"]) as outer:
            begun = ["--recipe", str(tmp_path / "mine.toml"), *given]
            with cli.commands["run"].make_context("run", begun, parent=outer) as run:
                (table,) = recipe.baselines
                with context_of(cli.commands["baseline"], table, run) as context:
                    return context.params

    assert [seen()[name] for name in ("fit", "seed", "device")] == ["pad", 3, None]
    typed = seen("--seed", "4", "--device", "cpu", "--workspace", "w", "--also", "o=x")
    assert (typed["seed"], typed["device"], typed["workspace"]) == (4, "cpu", Path("w"))
    assert typed["also"] == {"o": Path("x")}
    several = seen("--device", "cpu", "--device", "xla-cpu")
    assert several["device"] is None


def test_a_cut_takes_its_source_from_the_command_line(tmp_path: Path) -> None:
    path = written(tmp_path, "[split]\nsource = 'mine'")
    recipe = read_recipe(path, COMMANDS)
    with cli.make_context("cli", ["run"]) as outer:
        for given, source in (([], "mine"), (["--dataset", "theirs"], Path("theirs"))):
            with cli.commands["run"].make_context("run", [*given], parent=outer) as run:
                assert cut_by(recipe.split or {}, run)["source"] == source
        run = cli.commands["run"].make_context("run", ["--test", "x"], parent=outer)
        with run, pytest.raises(GridError, match="--test: the recipe cuts"):
            cut_by(recipe.split or {}, run)
