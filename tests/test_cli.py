"""The command line as people use it: real images, real backbone, and what goes wrong."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from cache.store import find_caches, summarize
from frostline.cli.main import cli
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

Few = Callable[[int, int], Path]
LITE = ("--arch", "efficientnet_lite0", "--device", "cpu")


def frostline(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def folders(data: Path, workspace: Path) -> list[str]:
    return [
        *("--dataset", str(data / "dataset")),
        *("--test", str(data / "test_images")),
        *("--workspace", str(workspace)),
    ]


class TestRun:
    def test_two_commands_later_there_is_a_report(self, few: Few, tmp_path: Path) -> None:
        data, out = few(6, 2), tmp_path / "out"
        first = frostline("run", *LITE, *folders(data, out))
        assert first.exit_code == 0, first.output
        assert "16 image(s) computed, 0 already" in first.output
        assert "4 whole model(s) measured" in first.output
        assert f"Report: {out / 'report' / 'index.html'}" in first.output
        assert (out / "report" / "index.html").is_file()
        assert sorted(p.name for p in out.iterdir() if not p.name.endswith(".lock")) == [
            *("audit", "cache", "heads", "report", "results.csv", "study.json")
        ]
        table = pd.read_csv(out / "results.csv")
        again = frostline("run", *LITE, *folders(data, out))
        assert "0 image(s) computed, 16 already" in again.output
        assert "0 head(s) trained, 4 already" in again.output
        assert "4 model(s) measured before" in again.output
        assert pd.read_csv(out / "results.csv").equals(table)

    def test_step_by_step_is_the_same(self, few: Few, tmp_path: Path) -> None:
        data, out = few(4, 1), tmp_path / "out"
        place = folders(data, out)
        extracted = frostline("extract", *LITE, *place)
        assert extracted.exit_code == 0, extracted.output
        trained = frostline("train-heads", *place[:2], *place[4:], "--head", "single")
        assert "2 head(s) trained" in trained.output
        assert frostline("evaluate", *place).exit_code == 0
        reported = frostline("report", "--workspace", out)
        assert "Best: Model" in reported.output
        assert pd.read_csv(out / "results.csv")["classifier_head"].tolist() == ["single"] * 2

    def test_one_more_image_computes_one_and_a_second_extract_none(
        self, few: Few, tmp_path: Path, gel: Path
    ) -> None:
        data, out = few(3, 1), tmp_path / "out"
        frostline("extract", *LITE, *folders(data, out))
        assert (
            "0 image(s) computed, 8 already"
            in frostline("extract", *LITE, *folders(data, out)).output
        )
        shutil.copy(gel / "dataset" / "gel" / "gel_20.png", data / "dataset" / "gel" / "new.png")
        grown = frostline("extract", *LITE, *folders(data, out))
        assert "1 image(s) computed, 8 already" in grown.output

    def test_another_data_set_adds_rows(self, few: Few, tmp_path: Path) -> None:
        data, out = few(4, 1), tmp_path / "out"
        frostline("run", *LITE, "--head", "single", *folders(data, out))
        next((data / "dataset" / "gel").iterdir()).unlink()
        frostline("run", *LITE, "--head", "single", *folders(data, out))
        table = pd.read_csv(out / "results.csv")
        assert table["model_id"].tolist() == [1, 2, 3, 4]
        assert table["dataset_fingerprint"].nunique() == 2

    def test_a_row_of_another_workspace_is_no_measurement_of_this_one(
        self, few: Few, tmp_path: Path
    ) -> None:
        """Results handed on, predictions lost, another engine: each is measured again."""
        data, out = few(4, 1), tmp_path / "out"
        command = ("run", *LITE, "--head", "single", *folders(data, out))
        assert "2 whole model(s) measured" in frostline(*command).output
        assert "2 model(s) measured before" in frostline(*command).output
        for path in (out / "heads").iterdir():
            path.unlink()
        assert "2 whole model(s) measured" in frostline(*command).output
        again = frostline(*command, "--engine", "torch")
        assert "2 whole model(s) measured" in again.output
        assert (
            pd.read_csv(out / "results.csv")["engine"].tolist() == ["openvino"] * 2 + ["torch"] * 2
        )

    def test_an_option_said_twice_counts_once(self, few: Few, tmp_path: Path) -> None:
        twice = ("--arch", "efficientnet_lite0", "--head", "single", "--head", "single")
        done = frostline("run", *LITE, *twice, *folders(few(4, 1), tmp_path / "out"))
        assert "2 whole model(s) measured" in done.output
        assert done.output.count("efficientnet_lite0 on cpu: ") == 1

    def test_names_that_are_no_unicode(self, few: Few, tmp_path: Path) -> None:
        data, out = few(4, 1), tmp_path / "out"
        for part in ("dataset", "test_images"):
            folder = data / part / "gel"
            folder.rename(data / part / os.fsdecode(b"g\xe9l"))
        image = next((data / "test_images" / os.fsdecode(b"g\xe9l")).iterdir())
        image.rename(image.with_name(os.fsdecode(b"n\xe9.jpg")))
        (image.with_name(os.fsdecode(b"bad\xe9.jpg"))).touch()
        done = frostline("run", *LITE, "--head", "single", *folders(data, out))
        assert done.exit_code == 0, done.output
        assert "bad?.jpg: the file is empty" in done.output
        assert len(pd.read_csv(out / "results.csv")) == 2

    def test_settings_reach_the_results(self, few: Few, tmp_path: Path) -> None:
        data, out = few(4, 1), tmp_path / "out"
        settings = "--lr 0.01 --momentum 0.5 --epochs 3 --batch-size 4 --val-fraction 0.5 --seed 7"
        done = frostline(
            "run",
            *LITE,
            "--head",
            "single",
            "--precision",
            "bf16",
            *settings.split(),
            *folders(data, out),
        )
        assert done.exit_code == 0, done.output
        row = pd.read_csv(out / "results.csv").set_index("opt_alg").loc["sgd"]
        assert row["learning_rate"] == 0.01
        assert row["momentum"] == 0.5
        assert (row["epochs"], row["batch_size"], row["seed"], row["n_validation"]) == (3, 4, 7, 4)
        assert row["numeric_precision"] == "bf16"

    def test_the_reference_studys_alias(self, few: Few, tmp_path: Path) -> None:
        done = frostline(
            *("extract", "--arch", "mobilenet-v3", "--device", "cpu", "--weights", "random"),
            *folders(few(1, 1), tmp_path / "out"),
        )
        assert "mobilenet_v3_large on cpu: 4 image(s) computed" in done.output


class TestRealGels:
    def test_the_models_with_real_weights_know_a_gel(self, gel: Path, tmp_path: Path) -> None:
        done = frostline("run", *LITE, *folders(gel, tmp_path))
        assert done.exit_code == 0, done.output
        table = pd.read_csv(tmp_path / "results.csv")
        adam = table[table["opt_alg"] == "adam"]
        assert len(adam) == 2
        assert (adam["accuracy"] >= 0.95).all()
        assert set(table["weights"]) == {"imagenet"}
        assert (table["cached_difference"] < 1e-4).all()
        # One of that study's test images is also in its training folder.
        assert (table["n_leaked"] == 1).all()
        left_out = "Left out of every score, being copies or near duplicates of training images"
        assert f"{left_out}: 1 of 22 test images" in done.output
        assert (table["n_groups"] == 19).all()


class TestBadInput:
    """One clear line, an exit code, and no traceback."""

    def refused(self, *arguments: object) -> str:
        done = frostline(*arguments)
        assert done.exit_code != 0
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.output

    @pytest.mark.parametrize("command", ["run", "extract", "evaluate"])
    def test_missing_folder(self, command: str, tmp_path: Path) -> None:
        (tmp_path / "cache").mkdir()
        assert "nowhere is not a folder" in self.refused(
            command, "--dataset", tmp_path / "nowhere", "--test", tmp_path, "--workspace", tmp_path
        )

    def test_a_test_folder_that_was_asked_for_must_exist(self, few: Few, tmp_path: Path) -> None:
        place = folders(few(1, 1), tmp_path / "out")
        place[3] = str(tmp_path / "gone")
        assert "gone is not a folder" in self.refused("extract", *LITE, *place)

    def test_empty_folder(self, tmp_path: Path) -> None:
        assert "no subfolders" in self.refused("run", "--dataset", tmp_path, "--test", tmp_path)

    def test_one_class_only_stops_before_any_work(self, few: Few, tmp_path: Path) -> None:
        data = few(2, 1)
        shutil.rmtree(data / "dataset" / "not_gel")
        assert "one class only (gel)" in self.refused("run", *folders(data, tmp_path / "out"))
        assert not list((tmp_path / "out").glob("*/*/"))  # hashes are kept, nothing is computed

    def test_a_class_only_in_test_stops_before_any_work(self, few: Few, tmp_path: Path) -> None:
        data = few(2, 1)
        (data / "test_images" / "gel").rename(data / "test_images" / "jelly")
        assert "jelly, which training has not" in self.refused(
            "run", *folders(data, tmp_path / "out")
        )
        assert not list((tmp_path / "out").glob("*/*/"))  # hashes are kept, nothing is computed

    def test_unreadable_images_cost_themselves(self, few: Few, tmp_path: Path) -> None:
        data = few(4, 1)
        (data / "dataset" / "gel" / "empty.png").touch()
        (data / "dataset" / "gel" / "letter.png").write_text("Dear colleague")
        (data / "test_images" / "gel" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
        done = frostline("run", *LITE, "--head", "single", *folders(data, tmp_path / "out"))
        assert done.exit_code == 0, done.output
        assert "3 of 13 images could not be read: see" in done.output
        assert "empty.png: the file is empty" in done.output
        assert "2 of 10 images could not be read: left out" in done.output
        assert (pd.read_csv(tmp_path / "out" / "results.csv")["n_unreadable"] == 1).all()

    def test_unknown_names(self) -> None:
        assert "'resnet19' is not one of 'resnet18'" in self.refused(
            "extract", "--arch", "resnet19"
        )
        assert "is not one of" in self.refused("run", "--device", "abacus")
        assert "is not one of" in self.refused("train-heads", "--head", "septic")

    @pytest.mark.parametrize(
        "option",
        [
            "--lr=0",
            "--lr=-1",
            "--epochs=0",
            "--batch-size=0",
            "--val-fraction=1",
            "--seed=-1",
            "--lr=nan",
            f"--seed={2**32}",
        ],
    )
    def test_settings_out_of_range(self, option: str) -> None:
        assert "is not in the range" in self.refused("train-heads", option)

    def test_a_file_of_weights_fits_one_backbone(self, few: Few, tmp_path: Path) -> None:
        place = folders(few(2, 1), tmp_path / "out")
        assert "name it with --arch" in self.refused("run", "--weights", "my.pth", *place)

    def test_steps_out_of_order(self, few: Few, tmp_path: Path) -> None:
        place = folders(few(2, 1), tmp_path / "out")
        for command in (["train-heads", *place[:2], *place[4:]], ["evaluate", *place]):
            assert "does not exist. Run `cli.py run` first" in self.refused(*command)
        (tmp_path / "out" / "cache").mkdir(parents=True)
        assert "run train-heads first" in self.refused("evaluate", *place)
        assert "run evaluate first" in self.refused("report", *place[4:])

    def test_a_device_that_is_not_there(
        self, few: Few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        place = folders(few(1, 1), tmp_path / "out")
        assert "--device cuda: no NVIDIA GPU" in self.refused("extract", "--device", "cuda", *place)

    def test_an_incomplete_cache_is_told_and_left(self, few: Few, tmp_path: Path) -> None:
        data, out = few(4, 1), tmp_path / "out"
        frostline("extract", *LITE, *folders(data, out))
        extra = data / "dataset" / "gel" / "extra.png"
        shutil.copy(ROOT / "dataset" / "gel" / "gel_20.jpg", extra)
        refused = self.refused("train-heads", "--dataset", data / "dataset", "--workspace", out)
        assert "lacks 1 of 9 images" in refused

    def test_a_damaged_segment_names_itself(self, few: Few, tmp_path: Path) -> None:
        data, out = few(2, 1), tmp_path / "out"
        frostline("extract", *LITE, *folders(data, out))
        segment = find_caches(out / "cache")[0].segments[0]
        segment.write_bytes(segment.read_bytes()[:1000])
        refused = self.refused("extract", *LITE, *folders(data, out))
        assert segment.name in refused
        assert "Delete this file" in refused
        segment.unlink()
        assert "6 image(s) computed" in frostline("extract", *LITE, *folders(data, out)).output

    def test_a_workspace_that_cannot_be_written_fails_before_any_work(
        self, few: Few, tmp_path: Path
    ) -> None:
        (tmp_path / "cache").write_text("a file")
        refused = self.refused("extract", *LITE, *folders(few(1, 1), tmp_path))
        assert "cache" in refused
        assert "choose another folder" in refused

    def test_a_disk_that_is_full(
        self, few: Few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("extract.writer.write_segment", full)
        refused = self.refused("extract", *LITE, *folders(few(1, 1), tmp_path / "out"))
        assert "No space left on device. Fix this" in refused


def test_ctrl_c_keeps_what_was_finished_and_says_so(tmp_path: Path) -> None:
    """A real process and a real signal, while the first engine is being built."""
    command = [sys.executable, str(ROOT / "cli.py"), "extract", "--weights", "random"]
    command += ["--arch", "resnet18", "--device", "cpu"]
    with subprocess.Popen(
        [*command, *folders(ROOT, tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Whoever starts the tests in the background of a script has it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as run:
        while not list(tmp_path.glob("cache/engines/resnet18-fp32-*")):  # its first batch waits
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=60)
    assert run.returncode == 130, output
    assert "run the same command again to resume" in output
    assert "Traceback" not in output
    assert not list(tmp_path.rglob("*.tmp"))
    assert "Stopping after this batch" in output
    kept = len(summarize(find_caches(tmp_path / "cache")[0]).stored)
    assert 0 < kept <= 32  # of one batch
    assert f"{114 - kept} image(s) computed, {kept} already" in subprocess.check_output(
        [*command, *folders(ROOT, tmp_path)], text=True
    )


@pytest.mark.parametrize("command", [[], ["run"], ["extract"], ["train-heads"], ["doctor"]])
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    """So that it answers at once; measured by what is imported, not by the clock."""
    code = (
        "import sys; from frostline.cli.main import cli\n"
        "try: cli(sys.argv[1:] + ['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'h5py', 'pandas', 'rich', 'PIL'}\n"
        "print('HEAVY', sorted(heavy & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "Usage:" in done.stdout
    assert "HEAVY []" in done.stdout


def test_the_doctor_speaks() -> None:
    done = frostline("doctor")
    assert done.exit_code == 0
    assert "efficientnet_lite0" in done.output
