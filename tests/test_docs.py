"""The documents name every command, option and table entry, and every file that there is."""

import re
import subprocess
from pathlib import Path

import click
import pytest

from evaluate.audit.findings import FINDINGS
from evaluate.baseline.modes import MODES
from evaluate.export.formats import FORMATS
from evaluate.metrics import METRICS
from evaluate.results import COLUMNS
from evaluate.uncertainty.corruptions import CORRUPTIONS
from evaluate.uncertainty.scores import SCORES
from extract.backbones import ALIASES, BACKBONES
from extract.backends.backend import ENGINES
from extract.dataset_statistics.normalization import NORMALIZATIONS
from extract.devices import DEVICES
from extract.imaging.augmentation import POLICIES
from extract.imaging.preprocessing import FITS
from frostline.cli.cache import caches
from frostline.cli.main import cli
from heads.architectures import HEADS
from heads.config import BALANCES
from heads.optimizers import OPTIMIZERS
from heads.schedules import SCHEDULES
from tests.conftest import ROOT

COMMANDS: dict[str, click.Command] = {
    **{name: command for name, command in cli.commands.items() if not hasattr(command, "commands")},
    **{f"cache {name}": command for name, command in caches.commands.items()},
}
README = (ROOT / "README.md").read_text()
BELIEVE = (ROOT / "docs" / "believe.md").read_text()
TABLES = (
    *(BACKBONES, ALIASES, DEVICES, ENGINES, HEADS, OPTIMIZERS, SCHEDULES, BALANCES, METRICS),
    *(FINDINGS, FORMATS, FITS, NORMALIZATIONS, POLICIES, MODES),
)


@pytest.mark.parametrize("name", [name for table in TABLES for name in table])
def test_every_table_entry_is_in_the_readme(name: str) -> None:
    assert f"`{name}`" in README


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_in_the_readme(name: str) -> None:
    assert f"python cli.py {name}" in README
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert f"`{parameter.opts[0]}" in README, parameter.opts


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_explains_itself(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts


def test_the_embedding_lengths_are_in_the_readme() -> None:
    for name, backbone in BACKBONES.items():
        assert f"| `{name}` | {backbone.dim} |" in README


def test_the_summaries_are_in_the_readme() -> None:
    for table in (HEADS, OPTIMIZERS, MODES):
        for name, entry in table.items():
            assert f"| `{name}` | {entry.summary} |" in README


def test_how_results_are_checked_is_explained() -> None:
    for table in (FINDINGS, SCORES, CORRUPTIONS):
        for name, entry in table.items():
            assert f"| `{name}` | {entry.summary} |" in BELIEVE


def test_every_column_of_the_results_is_documented() -> None:
    text = (ROOT / "docs" / "results.md").read_text()
    for name, meaning in COLUMNS.items():
        assert f"| `{name}` | {meaning} |" in text


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Every file of the project: those git knows, and those it would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(name) for name in done.stdout.splitlines()]


TREE = README.split("## What lies where")[1].split("```")[1]
MODULES = (ROOT / "docs" / "architecture.md").read_text().split("## Modules")[1].split("```")[1]


def test_the_file_tree_is_whole(files: list[Path]) -> None:
    for path in files:
        if path.parts[0] != ".gitignore":
            assert f"\n{path.parts[0]}" in TREE, path
        if path.suffix == ".py" and path.parts[0] != "tests" and path.name != "__init__.py":
            assert re.search(rf"^ *{re.escape(path.name)} ", TREE + MODULES, re.MULTILINE), path


def test_the_file_tree_is_true(files: list[Path]) -> None:
    there = {part for path in files for part in path.parts}
    for line in filter(None, (TREE + MODULES).splitlines()):
        assert line.split()[0].rstrip("/") in there, line
