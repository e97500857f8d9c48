"""Sweeps from the command line, on the committed caches."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from frostline.cli.main import cli
from heads.search.trials import add_trials
from heads.store import find_heads
from heads.training import TRIALS
from tests.conftest import FIXTURES, ROOT, require_or_skip

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURES, tmp_path / "cache")
    return tmp_path


def train(place: Path, *options: object) -> Result:
    where = ("--dataset", ROOT / "dataset", "--workspace", place, "--device", "cpu")
    return CliRunner().invoke(cli, [str(item) for item in ("train-heads", *where, *options)])


def test_a_grid_file_prints_the_best_and_what_each_choice_is_worth(place: Path) -> None:
    grid = place / "grid.toml"
    grid.write_text(
        "seeds = 2\n[grid]\nhead = 'single'\noptimizer = ['sgd', 'adam']\nepochs = 4\n"
        "learning_rate = [0.1, 0.001]\nweight_decay = [0, 0.1, 0.01]\n"
    )
    done = train(place, "--grid", grid)
    assert done.exit_code == 0, done.output
    assert "24 tried, 4 head(s) trained" in done.output
    assert "Best of 12 configurations on validation" in done.output
    best, worth = done.output.split("What each choice is worth")
    assert best.count("│ single") == 10  # five of each optimizer
    for factor in ("optimizer", "learning rate", "weight decay"):
        assert factor in worth
    again = train(place, "--grid", grid)
    assert "0 head(s) trained, 4 already" in again.output
    assert "tried" not in again.output


def test_repeated_options_are_a_grid(place: Path) -> None:
    done = train(place, "--head", "ridge", "--head", "single", "--optimizer", "sgd", "--lr", 0.1,
                 "--lr", 0.01, "--epochs", 2)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert len(pd.read_csv(place / "heads" / TRIALS)) == 2 + 6
    assert {saved.info.configuration.head for saved in find_heads(place / "heads")[0]} == {
        "ridge",
        "single",
    }


def test_folds_are_told(place: Path) -> None:
    done = train(place, "--head", "prototype", "--cv", 5, "--repeats", 2)
    assert "10 tried, 1 head(s) trained" in done.output
    assert "spread" in done.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--cv", 47), "fewer images than folds in class gel (46), not_gel (46)"),
        (("--repeats", 2), "give --cv too"),
        (("--optimizer", "adam", "--nesterov"), "nesterov = True has no effect"),
        (("--val-fraction", 0.1, "--val-fraction", 0.2), "can't be compared"),
        (("--views", 2), "run extract --views 2"),
        (("--lr", 0), "not in the range x>0"),
        (("--head", "multi", "--lr", 1e30), "every training diverged; give a smaller --lr"),
        (("--grid", ROOT / "recipes" / "gel24.toml", "--cv", 5), "leave out cv"),
    ],
)
def test_what_can_not_be_trained_is_said(
    options: tuple[object, ...], said: str, place: Path
) -> None:
    done = train(place, *options)
    assert done.exit_code in (1, 2)
    assert said in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_heads_can_be_trained_on_another_device(place: Path) -> None:
    """In a process of its own: torch computes no gradients on XLA after some on the CPU."""
    require_or_skip("xla-cpu")
    options = ("--head", "single", "--train-on", "xla-cpu", "--epochs", "2", "--device", "cpu")
    where = ("--dataset", str(ROOT / "dataset"), "--workspace", str(place))
    command = [sys.executable, str(ROOT / "cli.py"), "train-heads", *where, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "2 head(s) trained" in done.stdout, done.stderr


def test_what_was_tried_survives_a_stop(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[int]()

    def stopped(path: Path, rows: dict[str, dict[str, object]]) -> None:
        add_trials(path, rows)
        calls.append(len(rows))
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("heads.training.add_trials", stopped)
    options = ("--head", "single", "--lr", 0.1, "--lr", 0.01, "--seeds", 3, "--epochs", 2)
    first = train(place, *options)
    assert first.exit_code == 130
    monkeypatch.undo()
    assert f"{12 - sum(calls)} tried" in train(place, *options).output
