"""Prediction: new images through the cache, calibrated, doubted, and never the end of a run."""

import csv
import json
import os
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from evaluate.leaderboard import studies
from evaluate.predict import find_model
from evaluate.workspace.layout import Workspace
from frostline.cli.main import cli
from tests.conftest import FIXTURES, ROOT

pytestmark = pytest.mark.slow

GELS = sorted((ROOT / "test_images" / "gel").iterdir())


def frostline(*arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=given)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of the sample images, measured, without any row of the test images' copies."""
    folder = tmp_path_factory.mktemp("predict") / "out"
    shutil.copytree(FIXTURES, folder / "cache")
    images = ("--dataset", ROOT / "dataset", "--test", ROOT / "test_images", "--workspace", folder)
    lite = ("--arch", "efficientnet_lite0", "--device", "cpu")
    done = frostline("run", *images, *lite, "--head", "single", "--head", "knn")
    assert done.exit_code == 0, done.output
    return folder


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text)))


class TestAnswers:
    def test_the_test_images_get_the_answers_that_evaluate_wrote(self, out: Path) -> None:
        _, saved = find_model(Workspace(out), "best")
        done = frostline("predict", ROOT / "test_images", "--workspace", out)
        assert done.exit_code == 0, done.output
        rows = table(done.stdout)
        (path,) = out.glob(f"heads/{saved.info.id}.*.openvino.csv")
        known = pd.read_csv(path).set_index("path")
        assert len(rows) == 22
        for row in rows:
            raw = known.loc[row["path"], ["p(gel)", "p(not_gel)"]].to_numpy(float)
            powers = np.power(raw, 1 / saved.info.temperature)
            chances = powers / powers.sum()
            assert float(row["p(gel)"]) == pytest.approx(chances[0], abs=1e-4)
            assert row["label"] == ("gel", "not_gel")[int(chances.argmax())]
            assert float(row["probability"]) == pytest.approx(chances.max(), abs=1e-3)
            assert row["doubt"] in ("0", "1")
            assert row["error"] == ""

    def test_what_is_no_image_has_an_error_and_the_rest_go_on(
        self, out: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "broken.png").write_bytes(b"x")
        paths = (tmp_path / "broken.png", GELS[0], tmp_path / "gone.png", GELS[0])
        done = frostline("predict", *paths, "--workspace", out)
        assert done.exit_code == 0
        rows = table(done.stdout)
        assert [row["path"] for row in rows] == [str(path) for path in paths]
        assert [bool(row["label"]) for row in rows] == [False, True, False, True]
        assert rows[0]["error"] == "not an image of a known format"
        assert rows[2]["error"] == "No such file or directory"
        assert rows[1] == rows[3]
        assert f"{tmp_path / 'broken.png'}: not an image" in done.stderr

    def test_what_is_no_file_or_of_another_format_is_named_and_not_opened(
        self, out: Path, tmp_path: Path
    ) -> None:
        os.mkfifo(tmp_path / "fifo.png")
        (tmp_path / "scan.gel").write_bytes(GELS[0].read_bytes())
        paths = f"{tmp_path}/fifo.png\n{tmp_path}/scan.gel\n{GELS[0]}\n"
        done = frostline("predict", "-", "--workspace", out, given=paths)
        assert done.exit_code == 0, done.output
        fifo, other, good = table(done.stdout)
        assert fifo["error"] == "is not a regular file"
        assert other["error"].startswith(".gel is not a supported image format. Convert it to TIFF")
        assert good["label"] and not good["error"]

    def test_nothing_readable_is_an_error(self, out: Path, tmp_path: Path) -> None:
        (tmp_path / "broken.png").write_bytes(b"x")
        done = frostline("predict", tmp_path / "broken.png", "--workspace", out)
        assert done.exit_code == 1
        assert "none of the 1 files is an image that can be read" in done.output
        done = frostline("predict", tmp_path / "none", "--workspace", out)
        assert done.exit_code == 1

    def test_new_images_go_through_the_cache(self, out: Path, tmp_path: Path) -> None:
        Image.fromarray(np.arange(4000, dtype=np.uint8).reshape(50, 80)).save(tmp_path / "new.png")
        before = len(list(out.glob("cache/*cpu-fp32*/*.h5")))
        first = frostline("predict", tmp_path / "new.png", "--workspace", out)
        again = frostline("predict", tmp_path / "new.png", "--workspace", out)
        assert first.stdout == again.stdout
        assert len(list(out.glob("cache/*cpu-fp32*/*.h5"))) == before + 1

    def test_paths_from_standard_input_into_a_json_file(self, out: Path, tmp_path: Path) -> None:
        given = "\n".join(map(str, GELS[:3])) + "\n"
        target = tmp_path / "answers.json"
        done = frostline("predict", "-", "--workspace", out, "--out", target, given=given)
        assert done.exit_code == 0, done.output
        content = json.loads(target.read_text())
        assert content["classes"] == ["gel", "not_gel"]
        assert [each["path"] for each in content["predictions"]] == list(map(str, GELS[:3]))
        for each in content["predictions"]:
            assert sum(each["probabilities"].values()) == pytest.approx(1)
            assert isinstance(each["doubt"], bool)
        refused = frostline("predict", "-", "--workspace", out, "--out", "a.txt", given=given)
        assert "ends in .csv or .json" in refused.output

    def test_heat_maps_are_pictures(self, out: Path, tmp_path: Path) -> None:
        done = frostline("predict", *GELS[:2], "--workspace", out, "--heatmap", tmp_path / "maps")
        assert done.exit_code == 0, done.output
        maps = sorted((tmp_path / "maps").iterdir())
        assert [path.name for path in maps] == [
            f"{number:04}-{path.stem}.png" for number, path in enumerate(GELS[:2], start=1)
        ]
        with Image.open(maps[0]) as image:
            assert (image.size, image.mode) == ((224, 224), "RGB")
            colours = np.asarray(image).reshape(-1, 3)
            assert (
                len(np.unique(np.ptp(colours, axis=1))) > 10
            )  # gray where nothing contributed to it

    def test_folders_by_any_path(
        self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hidden = tmp_path / ".hidden" / "images"
        shutil.copytree(ROOT / "test_images" / "gel", hidden)
        (hidden / ".thumbnails").mkdir()
        shutil.copy(GELS[0], hidden / ".thumbnails")
        monkeypatch.chdir(hidden)
        for folder in (hidden, "../images"):
            done = frostline("predict", folder, "--workspace", out)
            assert len(table(done.stdout)) == 11, done.output

    def test_paths_as_other_programs_give_them(self, out: Path, tmp_path: Path) -> None:
        for given in (f"{GELS[0]}\0{GELS[1]}\0", f"\ufeff{GELS[0]}\r\n{GELS[1]}\r\n"):
            done = frostline("predict", "-", "--workspace", out, given=given)
            assert [row["path"] for row in table(done.stdout)] == list(map(str, GELS[:2]))


class TestModel:
    def test_a_head_whose_split_divided_near_duplicates_is_not_the_best(
        self, out: Path, tmp_path: Path
    ) -> None:
        rows = pd.read_csv(out / "results.csv").drop(columns="checksum")
        best = studies(out / "results.csv")[0].best["model_id"]
        rows["n_groups"] = 5
        rows.loc[rows["model_id"] == best, "n_groups"] = 0
        place = Workspace(tmp_path)
        rows.to_csv(place.results, index=False)
        shutil.copytree(out / "heads", place.heads)
        ranked = [row["model_id"] for row in studies(place.results)[0].rows]
        assert ranked[-1] == best
        assert int(find_model(place, "best")[0]) == ranked[0]

    @pytest.mark.parametrize("name", ["val_accuracy", "evaluated_at", "n_groups"])
    def test_an_edited_table_is_an_error_that_names_it(
        self, name: str, out: Path, tmp_path: Path
    ) -> None:
        rows = pd.read_csv(out / "results.csv")
        rows.drop(columns=name).to_csv(tmp_path / "results.csv", index=False)
        done = frostline("predict", GELS[0], "--workspace", tmp_path)
        assert done.exit_code == 1
        assert f"it lacks the columns {name}" in done.output

    def test_the_best_is_the_reports(self, out: Path) -> None:
        best = studies(out / "results.csv")[0].best
        model_id, saved = find_model(Workspace(out), "best")
        assert (int(model_id), saved.info.id) == (best["model_id"], best["head_id"])

    def test_any_other_by_its_id_and_its_doubt_is_unknown(self, out: Path) -> None:
        best, _ = find_model(Workspace(out), "best")
        other = "1" if best != "1" else "2"
        done = frostline("predict", GELS[0], "--workspace", out, "--model", other)
        assert done.exit_code == 0, done.output
        assert table(done.stdout)[0]["doubt"] == ""
        assert f"No review flags for model {other}: they were never fitted" in done.stderr

    def test_one_that_is_not_there_names_those_that_are(self, out: Path) -> None:
        done = frostline("predict", GELS[0], "--workspace", out, "--model", "77")
        assert done.exit_code == 1
        assert "--model 77" in done.output
        assert "has the models 1, 2" in done.output

    def test_no_results_says_what_to_run(self, tmp_path: Path) -> None:
        done = frostline("predict", GELS[0], "--workspace", tmp_path)
        assert done.exit_code == 1
        assert "has no models: run `cli.py run` first" in done.output


def test_one_image_is_answered_without_torch_pandas_or_scikit_learn(out: Path) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from frostline.cli.main import cli;"
        f"command = ['predict', {str(GELS[1])!r}, '--workspace', {str(out)!r}];"
        "done = CliRunner().invoke(cli, command);"
        "assert done.exit_code == 0, done.output;"
        "print(sorted({'torch', 'pandas', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    for expected in (None, "[]\n"):  # the first time, torch is needed to make the engine
        for row in out.glob("cache/*cpu-fp32*/*.h5"):
            row.unlink()  # so that it must be computed
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert expected in (None, done.stdout), done.stderr
