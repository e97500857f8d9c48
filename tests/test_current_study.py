"""Which images a command takes, and which study is the current one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from cache.errors import ResultsError
from evaluate.predict import find_model
from evaluate.results import read_results
from evaluate.workspace.current_study import read_current
from evaluate.workspace.layout import Workspace
from extract.backbones import BACKBONES
from extract.dataset import scan
from extract.embedding_spec import LoadedBackbone
from extract.sources.csv_manifest import read_list
from frostline.cli.main import cli
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

HOW = ("--arch", "resnet18", "--weights", "random", "--engine", "torch", "--device", "cpu")
ONE = ("--head", "single", "--optimizer", "adam", "--epochs", "2")


@pytest.fixture(autouse=True)
def toy_as_resnet18(toy: LoadedBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "resnet18", BACKBONES["toy"])


def frostline(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def spoken(*arguments: object) -> str:
    done = frostline(*arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def other_classes(folder: Path) -> Path:
    """Other samples, under other class names."""
    for part, source in (("train", "dataset"), ("test", "test_images")):
        for label in ("gel", "not_gel"):
            (folder / part / f"other {label}").mkdir(parents=True)
            for path in sorted((ROOT / source / label).iterdir())[5:9]:
                shutil.copy(path, folder / part / f"other {label}")
    return folder


@pytest.mark.parametrize("command", ["run", "evaluate", "baseline", "audit"])
@pytest.mark.parametrize(
    ("given", "words"),
    [("dataset", "No test images given. Use --test DIR"), ("test", "No training images given")],
)
def test_one_of_the_two_sets_is_never_joined_by_a_sample(
    command: str, given: str, words: str, few: Callable[[int, int], Path], tmp_path: Path
) -> None:
    (tmp_path / "ws" / "cache").mkdir(parents=True)
    extra = {"baseline": ("--mode", "scratch", *HOW[:2]), "audit": ("--fail-on", "leak")}
    folder = few(3, 0) / "dataset"
    done = frostline(
        command, f"--{given}", folder, "--workspace", tmp_path / "ws", *extra.get(command, ())
    )
    assert done.exit_code == 1
    assert words in done.output
    if (command, given) == ("run", "dataset"):
        assert "or --test-fraction 0.2 to hold out a part" in done.output


def test_extract_and_audit_take_the_one_that_is_given(
    few: Callable[[int, int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # where the samples are
    given = ("--dataset", few(3, 0) / "dataset", "--workspace", tmp_path / "ws")
    assert "6 image(s) computed" in spoken("extract", *given, *HOW)
    assert "test:" not in spoken("audit", *given)


class TestHeldOut:
    def test_a_part_is_held_out_the_same_each_time(
        self, few: Callable[[int, int], Path], tmp_path: Path
    ) -> None:
        data, ws = few(10, 0) / "dataset", tmp_path / "ws"
        run = ("run", "--dataset", data, "--test-fraction", "0.3", "--workspace", ws, *HOW, *ONE)
        spoken(*run)
        (before,) = ws.glob("split/*/test.csv")
        held_out = {Path(path).name for _, path in read_list(before)}
        assert "0 image(s) computed" in spoken(*run)
        (again,) = ws.glob("split/*/test.csv")
        assert {Path(path).name for _, path in read_list(again)} == held_out
        training, testing = scan(before.with_name("train.csv")), scan(before)
        assert not training.labels.keys() & testing.labels.keys()
        assert training.labels.keys() | testing.labels.keys() == scan(data).labels.keys()
        row = read_results(ws / "results.csv").iloc[0]
        assert row["n_test"] + row["n_leaked"] == len(testing.unique)
        assert set(testing.labels.values()) == {"gel", "not_gel"}

    def test_the_other_commands_take_the_same_images(
        self, few: Callable[[int, int], Path], tmp_path: Path
    ) -> None:
        data, ws = few(10, 0) / "dataset", tmp_path / "ws"
        given = ("--dataset", data, "--test-fraction", "0.3", "--workspace", ws)
        spoken("run", *given, *HOW, *ONE)
        before = read_results(ws / "results.csv")
        said = spoken("evaluate", "--workspace", ws, "--engine", "torch", "--weights", "random")
        assert "Images of the study run last" in said
        after = read_results(ws / "results.csv")
        assert list(after["test_fingerprint"]) == list(before["test_fingerprint"])
        assert "Best: Model 1" in spoken("report", "--workspace", ws)

    def test_it_needs_no_test_folder(self, tmp_path: Path) -> None:
        sets = ("--dataset", tmp_path, "--test", tmp_path, "--test-fraction", "0.2")
        done = frostline("run", *sets, "--workspace", tmp_path / "ws")
        assert "--test and --test-fraction exclude each other" in done.output

    def test_it_comes_before_the_recipes_own(
        self, few: Callable[[int, int], Path], tmp_path: Path
    ) -> None:
        data, ws = few(10, 0) / "dataset", tmp_path / "ws"
        recipe = tmp_path / "mine.toml"
        recipe.write_text("[split]\nsource = 'nowhere'\ntest-fraction = 0.1\n")
        given = ("--recipe", recipe, "--dataset", data, "--test-fraction", "0.4")
        spoken("run", *given, "--workspace", ws, *HOW, *ONE)
        assert len(read_list(ws / "split" / "test.csv")) == pytest.approx(8, abs=2)


class TestCurrent:
    @pytest.fixture
    def ws(self, few: Callable[[int, int], Path], tmp_path: Path) -> Path:
        """A workspace in which A was run, then B, then A again."""
        a, b, ws = few(4, 2), other_classes(tmp_path / "b"), tmp_path / "ws"
        for train, test in (
            (a / "dataset", a / "test_images"),
            (b / "train", b / "test"),
            (a / "dataset", a / "test_images"),
        ):
            sets = ("--dataset", train, "--test", test, "--workspace", ws)
            self.said = spoken("run", *sets, *HOW, *ONE)
        return ws

    def test_the_study_run_last_is_the_current_one(self, ws: Path, tmp_path: Path) -> None:
        rows = read_results(ws / "results.csv")
        (of_a,) = rows.loc[rows["classes"] == '["gel", "not_gel"]', "model_id"]
        best = [line for line in self.said.splitlines() if line.startswith("Best: ")]
        assert len(best) == 2
        assert best[-1].startswith(f"Best: Model {of_a},")
        assert find_model(Workspace(ws), "best")[0] == str(of_a)
        image = next((ROOT / "test_images" / "gel").iterdir())
        done = frostline("predict", image, "--workspace", ws, "--engine", "torch")
        assert done.exit_code == 0, done.output
        assert "(gel, not_gel), tested on data/test_images" in done.stderr
        page = (ws / "report" / "index.html").read_text()
        assert page.index("data/dataset") < page.index("b/train")

    def test_without_a_record_different_classes_are_not_chosen_from(self, ws: Path) -> None:
        (ws / "study.json").unlink()
        with pytest.raises(ResultsError, match=r"--model 1 \(trained on data/dataset.*--model 2"):
            find_model(Workspace(ws), "best")
        rows = pd.read_csv(ws / "results.csv")
        rows[rows["model_id"] == 2].to_csv(ws / "results.csv", index=False)
        assert find_model(Workspace(ws), "best")[0] == "2"

    def test_a_study_without_results_is_not_replaced_by_another(self, ws: Path) -> None:
        rows = pd.read_csv(ws / "results.csv")
        rows[rows["model_id"] == 2].to_csv(ws / "results.csv", index=False)
        with pytest.raises(ResultsError, match=r"has no results.*Run `cli\.py evaluate`.*--model"):
            find_model(Workspace(ws), "best")

    @pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"format": 1}'])
    def test_a_damaged_record_is_named(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "study.json").write_text(text)
        with pytest.raises(ResultsError, match=r"study\.json can't be used"):
            read_current(Workspace(tmp_path))
