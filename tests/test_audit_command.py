"""The audit on the command line, and what training and evaluation make of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from frostline.cli.main import cli

pytestmark = pytest.mark.slow

Few = Callable[[int, int], Path]
LITE = ("--arch", "efficientnet_lite0", "--device", "cpu", "--head", "single")


def frostline(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def flawed(few: Few) -> Path:
    """Samples with one picture exported twice in training, and again in test."""
    data = few(5, 3)
    first = min((data / "dataset" / "gel").iterdir())
    with Image.open(first) as image:
        gray = image.convert("L")
    gray.save(data / "dataset" / "gel" / "zz_again.bmp")
    gray.resize((190, 200)).save(data / "test_images" / "gel" / "zz_leaked.png")
    return data


def folders(data: Path, out: Path) -> list[object]:
    return [
        *("--dataset", data / "dataset", "--test", data / "test_images"),
        *("--workspace", out),
    ]


def test_it_needs_no_cache_and_says_what_it_found(flawed: Path, tmp_path: Path) -> None:
    done = frostline("audit", *folders(flawed, tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert "training: 6 gel, 5 not_gel" in done.stdout
    assert "no embeddings: none are there" in done.stdout
    assert "1 test images that are in training too" in done.stdout
    assert "1 groups of training images that show the same" in done.stdout
    assert "zz_leaked.png" in done.stdout


def test_json_for_programs_and_a_page_for_people(flawed: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    command = ("audit", *folders(flawed, tmp_path / "out"), "--format", "json", "--html", page)
    done = frostline(*command)
    content = json.loads(done.stdout)
    assert [len(group) for group in content["groups"]] == [2]
    assert [Path(pair["paths"][1]).name for pair in content["leaks"]] == ["zz_leaked.png"]
    assert "zz_leaked.png" in page.read_text()
    assert "data:image/" in page.read_text()


@pytest.mark.parametrize(
    ("findings", "code"), [(("leak",), 1), (("conflict",), 0), (("conflict", "duplicate"), 1)]
)
def test_it_fails_on_what_it_is_told_to(
    findings: tuple[str, ...], code: int, flawed: Path, tmp_path: Path
) -> None:
    asked = [part for name in findings for part in ("--fail-on", name)]
    done = frostline("audit", *folders(flawed, tmp_path / "out"), *asked)
    assert done.exit_code == code
    assert ("--fail-on" in done.stderr) == bool(code)


def test_without_a_test_folder_training_is_audited(flawed: Path, tmp_path: Path) -> None:
    shutil.rmtree(flawed / "test_images")
    place = folders(flawed, tmp_path / "out")
    assert frostline("audit", *place).exit_code == 1  # it was asked for
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(flawed)  # whose test_images, the default, is gone
        done = frostline("audit", "--workspace", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "0 test images" in done.stdout


def test_a_leak_can_only_be_missed_where_it_was_looked_for(
    flawed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(flawed / "test_images")
    monkeypatch.chdir(flawed)
    done = frostline("audit", "--workspace", tmp_path / "out", "--fail-on", "leak")
    assert done.exit_code == 1
    assert "test_images is not a folder" in done.output


def test_a_run_leaves_leaks_out_and_keeps_groups_together(flawed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = frostline("run", *LITE, *folders(flawed, out))
    assert done.exit_code == 0, done.output
    told = "dataset: 1 test images that are in training too; 1 groups of training images"
    assert told in done.stderr
    table = pd.read_csv(out / "results.csv")
    assert table[["n_test", "n_leaked", "n_groups"]].drop_duplicates().to_numpy().tolist() == [
        [6, 1, 1]
    ]
    plain = frostline("run", *LITE, *folders(flawed, out), "--no-group")
    assert plain.exit_code == 0, plain.output
    assert "2 head(s) trained" in plain.output
    table = pd.read_csv(out / "results.csv")
    assert table["n_groups"].tolist() == [1, 1, 0, 0]
    assert table["n_leaked"].tolist() == [1, 1, 0, 0]  # the leak is no exact copy
    assert "Not all models were scored on the same test images" in plain.stderr


def test_doubt_that_was_not_measured_is_measured_later(few: Few, tmp_path: Path) -> None:
    data, out = few(5, 2), tmp_path / "out"
    assert frostline("run", *LITE, *folders(data, out)).exit_code == 0
    (path,) = out.glob("heads/*.doubt.json")
    path.unlink()  # as after Ctrl-C
    again = frostline("run", *LITE, *folders(data, out))
    assert "model(s) measured before" in again.output
    assert path.exists()


def test_folds_that_divide_near_duplicates_stand_beside(flawed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = frostline("run", *LITE, *folders(flawed, out), "--cv", "2", "--optimizer", "adam")
    assert done.exit_code == 0, done.output
    assert "ungrouped" in done.stdout
    table = pd.read_csv(out / "results.csv")
    assert table["cv_accuracy_ungrouped"].notna().all()
