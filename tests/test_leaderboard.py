"""The commands of whole studies: split, baseline, independent sets, limits, recipes."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from evaluate.results import read_results
from extract.backbones import BACKBONES
from extract.embedding_spec import LoadedBackbone
from frostline.cli.main import cli
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_brief")]
Few = Callable[[int, int], Path]
HOW = ("--weights", "random", "--engine", "torch")
ARCH = ("--arch", "resnet18")  # which here is the toy
OTHER = f"other={ROOT / 'test_images'}"


@pytest.fixture(autouse=True)
def toy_as_resnet18(toy: LoadedBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line's choices were made before the toy was in the table."""
    monkeypatch.setitem(BACKBONES, "resnet18", BACKBONES["toy"])


@pytest.fixture
def place(few: Few, tmp_path: Path) -> list[object]:
    """Options that name a few images, and a workspace that has a model of them."""
    data = few(4, 2)
    options: list[object] = ["--dataset", data / "dataset", "--test", data / "test_images"]
    options += ["--workspace", tmp_path / "out"]
    spoken("run", *options, *ARCH, *HOW, "--head", "single", "--optimizer", "adam")
    return options


def frostline(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def spoken(*arguments: object) -> str:
    done = frostline(*arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def refused(*arguments: object) -> str:
    done = frostline(*arguments)
    assert isinstance(done.exception, SystemExit), (done.output, done.exception)
    assert done.exit_code
    return done.output


def results(place: list[object]) -> pd.DataFrame:
    return read_results(Path(str(place[-1])) / "results.csv")


WHOLE = (*ARCH, *HOW, "--mode", "scratch", "--epochs", 2)


class TestBaseline:
    def test_a_whole_network_is_a_model_like_any_other(self, place: list[object]) -> None:
        said = spoken("baseline", *place, *WHOLE)
        assert "resnet18, scratch, single head: trained in" in said
        row = results(place).iloc[-1]
        assert (row["mode"], row["augmentation"], row["n_test"]) == ("scratch", "gentle", 4)
        assert row["weights"] == "random:0"
        out = Path(str(place[-1]))
        assert len(list((out / "networks").glob("resnet18-scratch-*.safetensors"))) == 1
        report = spoken("report", "--workspace", out)
        assert "scratch" in report
        assert "Frozen against trained as a whole" in (out / "report" / "index.html").read_text()
        answer = spoken("predict", ROOT / "test_images" / "gel", "--workspace", out,
                        "--model", row["model_id"], "--engine", "torch")  # fmt: skip
        assert "11 image(s) classified" in answer
        spoken("evaluate", *place, *HOW)
        assert len(results(place)) == 2

    def test_it_is_trained_once(self, place: list[object]) -> None:
        spoken("baseline", *place, *WHOLE)
        before = results(place)
        assert "was there already" in spoken("baseline", *place, *WHOLE)
        pd.testing.assert_frame_equal(results(place), before)
        spoken("baseline", *place, *WHOLE, "--seed", 1)
        assert results(place)["seed"].tolist() == [0, 0, 1]

    def test_every_combination_is_trained(self, place: list[object]) -> None:
        spoken("baseline", *place, *WHOLE, "--mode", "transfer", "--lr", 0.1, "--lr", 0.01)
        found = results(place).iloc[1:][["mode", "learning_rate"]].to_numpy().tolist()
        assert found == [[m, lr] for m in ("scratch", "transfer") for lr in (0.1, 0.01)]

    def test_what_can_not_be_trained_so_is_refused(self, place: list[object]) -> None:
        assert "choose --mode scratch" in refused(
            "baseline", *place, *ARCH, "--weights", "random", "--mode", "finetune"
        )
        knn = ("--head", "knn")
        assert "--head knn is fitted at once" in refused("baseline", *place, *WHOLE, *knn)
        assert "--mode" in refused("baseline", *place, *ARCH)
        assert "--arch" in refused("baseline", *place, "--mode", "scratch")


class TestIndependentSets:
    def test_the_drop_is_told_and_the_study_stays(self, place: list[object]) -> None:
        said = spoken("evaluate", *place, *HOW, "--also", OTHER)
        table = results(place)
        assert table["also"].tolist() == ["-", "other"]
        assert table["n_test"].tolist()[0] == 4
        out = place[-1]
        report = spoken("report", "--workspace", out)
        assert "other" in report
        assert report.count("Best:") == 1
        assert "On other images" in (Path(str(out)) / "report" / "index.html").read_text()
        assert "Model 1" in spoken("predict", ROOT / "test_images" / "gel", "--workspace", out,
                                   "--engine", "torch")  # fmt: skip
        assert "measured on" in said

    def test_run_measures_it_once(self, place: list[object]) -> None:
        given = (*ARCH, *HOW, "--head", "single", "--optimizer", "adam", "--also", OTHER)
        spoken("run", *place, *given)
        before = results(place)
        assert before["also"].tolist() == ["-", "other"]
        spoken("run", *place, *given)
        pd.testing.assert_frame_equal(results(place), before)

    @pytest.mark.parametrize("given", ["other", "=x", "other=", "-=x"])
    def test_a_name_is_needed(self, place: list[object], given: str) -> None:
        assert "NAME=DIR" in refused("evaluate", *place, "--also", given)

    def test_unknown_classes_are_refused(self, place: list[object], tmp_path: Path) -> None:
        (tmp_path / "foreign" / "cat").mkdir(parents=True)
        image = next((ROOT / "dataset" / "gel").iterdir())
        (tmp_path / "foreign" / "cat" / image.name).write_bytes(image.read_bytes())
        said = refused("evaluate", *place, *HOW, "--also", f"cats={tmp_path / 'foreign'}")
        assert "cat" in said
        assert len(results(place)) == 1


def test_limits_name_what_fits(place: list[object]) -> None:
    out = place[-1]
    assert "Within 5,000 ms and 100 MB: model 1" in spoken(
        "report", "--workspace", out, "--max-latency-ms", 5000, "--max-size-mb", 100
    )
    assert "No model fits" in spoken("report", "--workspace", out, "--max-size-mb", 1e-6)


def test_fewer_images_are_another_study(place: list[object]) -> None:
    given = (*ARCH, *HOW, "--head", "single", "--optimizer", "adam")
    spoken("run", *place, *given, "--per-class", 3, "--test-per-class", 1)
    table = results(place)
    assert (table["n_training"] + table["n_validation"]).tolist() == [8, 6]
    assert table["n_test"].tolist() == [4, 2]
    spoken("evaluate", *place, *HOW, "--per-class", 3, "--test-per-class", 1)
    assert len(results(place)) == 2


class TestSplit:
    @pytest.mark.parametrize("how", ["--list", "--copy"])
    def test_its_parts_are_data_sets(self, how: str, tmp_path: Path) -> None:
        out, workspace = tmp_path / "cut", tmp_path / "out"
        cut = (ROOT / "test_images", "--out", out, how, "--workspace", workspace)
        said = spoken("split", *cut, "--test-fraction", 0.3)
        assert "Reusing the existing split" in spoken("split", *cut, "--test-fraction", 0.3)
        end = ".csv" if how == "--list" else ""
        assert f"To train on: {out / f'train{end}'}" in said
        spoken("run", "--dataset", out / f"train{end}", "--test", out / f"test{end}",
               "--workspace", workspace, *ARCH, *HOW, "--head", "single")  # fmt: skip
        table = read_results(workspace / "results.csv")
        counts = table[["n_training", "n_validation", "n_test", "n_leaked"]].sum(axis=1)
        assert (counts == 22).all()

    def test_another_cut_never_overwrites_one(self, tmp_path: Path) -> None:
        cut = ("split", ROOT / "test_images", "--out", tmp_path / "cut", "--workspace", tmp_path)
        spoken(*cut)
        before = (tmp_path / "cut" / "train.csv").read_bytes()
        refused(*cut, "--seed", 1)
        assert (tmp_path / "cut" / "train.csv").read_bytes() == before


def test_a_recipe_is_a_whole_study(tmp_path: Path) -> None:
    recipe, out = tmp_path / "study.toml", tmp_path / "out"
    recipe.write_text(
        f"""
        [split]
        source = "{ROOT / "test_images"}"
        test-fraction = 0.3

        [run]
        arch = "resnet18"
        weights = "random"
        engine = "torch"
        normalize = "dataset"
        head = "single"
        optimizer = ["adam", "sgd"]

        [[baseline]]
        mode = ["scratch", "transfer"]
        arch = "resnet18"
        weights = "random"
        epochs = 2

        [report]
        max-size-mb = 10
        """
    )
    said = spoken("run", "--recipe", recipe, "--workspace", out, "--optimizer", "adam")
    assert "Within 10 MB" in said
    table = read_results(out / "results.csv")
    assert table["mode"].tolist() == ["frozen", "scratch", "transfer"]
    assert table["normalization"].tolist() == ["dataset"] * 3
    assert table["dataset_fingerprint"].nunique() == table["test_fingerprint"].nunique() == 1
    before = (out / "results.csv").read_bytes()
    spoken("run", "--recipe", recipe, "--workspace", out, "--optimizer", "adam")
    assert (out / "results.csv").read_bytes() == before
