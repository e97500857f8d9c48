"""Files of a workspace that can't be used: each costs itself, and is named with what to do."""

import ctypes
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

from evaluate.predict import find_model
from evaluate.workspace.layout import Workspace
from frostline.cli.main import cli
from heads.store import TrainedHead, find_heads
from tests.conftest import FIXTURES, ROOT

pytestmark = pytest.mark.slow

GEL = sorted((ROOT / "test_images" / "gel").iterdir())[0]
IMAGES = ("--dataset", ROOT / "dataset", "--test", ROOT / "test_images")
LITE = ("--arch", "efficientnet_lite0", "--device", "cpu", "--head", "single", "--head", "knn")


def frostline(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def measured() -> Iterator[Path]:
    """A workspace of the sample images that every user may read, written with umask 022."""
    with TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o755)
        folder = Path(temporary) / "out"
        shutil.copytree(FIXTURES, folder / "cache")
        done = frostline("run", *IMAGES, *LITE, "--workspace", folder)
        assert done.exit_code == 0, done.output
        yield folder


@pytest.fixture
def out(measured: Path) -> Iterator[Path]:
    with TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o755)
        folder = Path(shutil.copytree(measured, Path(temporary) / "out"))
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)  # shared, whoever works here
        yield folder


@pytest.fixture(scope="module")
def answer(measured: Path) -> list[str]:
    """What the whole workspace says of one image: the cells of its row."""
    return frostline("predict", GEL, "--workspace", measured).stdout.splitlines()[1].split(",")


@contextmanager
def without_root_rights() -> Iterator[None]:
    """Be bound by the permissions of files, as users are who are not root.

    Root gives up two capabilities (capabilities(7)) for a while. Another user id would not do: the
    checkout may lie in a folder that only its owner can enter.
    """
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3; this thread
    held, system = (ctypes.c_uint32 * 6)(), ctypes.CDLL(None)
    assert system.capget(header, held) == 0
    fewer = type(held).from_buffer_copy(held)
    fewer[0] &= ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert system.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert system.capset(header, held) == 0


def best(out: Path) -> TrainedHead:
    return find_model(Workspace(out), "best")[1]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)


def foreign(path: Path) -> None:
    save_file({"weight": np.zeros((2, 3), np.float32)}, path)
    path.chmod(0o644)


def nested(path: Path) -> None:
    path.write_text("[" * 100_000)


def lock(path: Path) -> None:
    path.chmod(0)


class TestTheHeadAskedFor:
    @pytest.mark.parametrize(
        ("command", "damage"),
        [*product(["predict"], [flip, foreign, nested, lock]), ("export", flip)],
    )
    def test_is_a_clear_error(
        self, command: str, damage: Callable[[Path], None], out: Path
    ) -> None:
        path = best(out).path
        damage(path)
        target = (GEL,) if command == "predict" else ("--format", "onnx", "--out", out / "m.onnx")
        with without_root_rights():
            done = frostline(command, *target, "--workspace", out)
        assert done.exit_code == 1
        assert done.stdout == ""
        assert path.name in done.stderr
        assert len(done.stderr.splitlines()) < 5
        if path.stat().st_mode & 0o777:
            assert "run train-heads again" in done.stderr
        else:
            assert "Permission denied" in done.stderr
            assert "Delete" not in done.stderr

    def test_no_other_model_is_concerned(self, out: Path, answer: list[str]) -> None:
        kept = best(out).path
        for path in out.glob("heads/*.safetensors"):
            if path != kept:
                flip(path)
        foreign(out / "heads" / "foreign.safetensors")
        after = frostline("predict", GEL, "--workspace", out)
        assert after.exit_code == 0, after.output
        assert after.stdout.splitlines()[1].split(",") == answer


class TestTheOtherHeads:
    @pytest.fixture
    def damaged(self, out: Path) -> list[Path]:
        """One flipped, one foreign, one that may not be read."""
        kept = best(out).path
        one = next(path for path in out.glob("heads/*.safetensors") if path != kept)
        others = [out / "heads" / f"{name}.safetensors" for name in ("foreign", "locked")]
        flip(one)
        foreign(others[0])
        foreign(others[1])
        others[1].chmod(0)
        return [one, *others]

    def test_are_measured_without_them(self, damaged: list[Path], out: Path) -> None:
        with without_root_rights():
            found, remarks = find_heads(Workspace(out).heads)
        assert best(out) in found
        assert damaged[0] not in [saved.path for saved in found]
        assert all(any(path.name in remark for remark in remarks) for path in damaged)
        assert sum("Permission denied" in remark for remark in remarks) == 1

    def test_report_names_them(self, damaged: list[Path], out: Path) -> None:
        done = frostline("report", "--workspace", out)
        assert done.exit_code == 0, done.output
        assert damaged[0].name in done.stderr
        assert "Best: " in done.stdout


class TestReviewScores:
    @pytest.mark.parametrize(
        ("suffix", "damage"),
        [
            *product((".doubt.json", ".doubt.npz"), (flip, nested, lock)),
            (".doubt.npz", Path.unlink),
        ],
    )
    def test_answers_come_without_marks(
        self, suffix: str, damage: Callable[[Path], None], out: Path, answer: list[str]
    ) -> None:
        path = out / "heads" / f"{best(out).info.id}{suffix}"
        damage(path)
        with without_root_rights():
            done = frostline("predict", GEL, "--workspace", out)
        assert done.exit_code == 0, done.output
        assert "No review marks: " in done.stderr
        assert path.name in done.stderr
        cells = done.stdout.splitlines()[1].split(",")
        assert (cells[:3], cells[3:5], cells[5:]) == (answer[:3], ["", ""], answer[5:])


@pytest.mark.parametrize(
    ("command", "pattern"),
    [
        ("predict", "results.csv"),
        ("predict", "heads"),
        ("predict", "cache/efficientnet*-cpu-fp32-*/*.h5"),
        ("report", "results.csv"),
        ("report", "heads/*.csv"),
        ("report", "heads/*.maps.npz"),
        ("report", "audit/*.json"),
        ("audit", "cache/looks.sqlite"),
        ("audit", "cache/scan.sqlite"),
        ("cache verify", "cache"),
        ("cache verify", "cache/*/*.h5"),
        ("cache ls", "cache/*/*.h5"),
    ],
)
def test_what_may_not_be_read_is_neither_damaged_nor_gone(
    command: str, pattern: str, out: Path
) -> None:
    for path in out.glob(pattern):
        lock(path)
    given = {"predict": (GEL,), "audit": IMAGES}.get(command, ())
    with without_root_rights():
        done = frostline(*command.split(), *given, "--workspace", out)
    for path in out.glob(pattern):
        path.chmod(0o777)
    assert "Permission denied" in done.stderr, done.output
    assert not re.search("[Dd]elete|No such file|[Rr]emove|run extract", done.stderr)


def test_run_makes_again_what_can_t_be_used(out: Path) -> None:
    kept = best(out)
    head = next(path for path in out.glob("heads/*.safetensors") if path != kept.path)
    others = [path for path in out.glob("heads/*.openvino.csv") if kept.info.id not in path.name]
    answers = next(path for path in others if head.stem not in path.name)
    for path in (head, answers, kept.path.with_suffix(".doubt.npz")):
        flip(path)
    assert {head.name, answers.name} <= told(frostline("report", "--workspace", out))
    done = frostline("run", *IMAGES, *LITE, "--workspace", out)
    assert done.exit_code == 0, done.output
    assert "1 head(s) trained, 2 already" in done.stdout
    assert "2 model(s) measured before" in done.stdout
    assert f"Trained again: {head}" in done.stderr
    assert "Measured again: " in done.stderr
    assert told(frostline("report", "--workspace", out)) == set()
    assert "No review marks" not in frostline("predict", GEL, "--workspace", out).stderr


def told(done: Result) -> set[str]:
    """Return the names of files that a report leaves out."""
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stderr.splitlines() if "Left out" in line]
    return {Path(line.split(" can't be ")[0]).name for line in lines}


def test_whatever_is_written_can_be_read_by_all_whom_the_umask_allows(measured: Path) -> None:
    closed = [
        path
        for path in measured.rglob("*")
        if not path.is_symlink() and not stat.S_IMODE(path.stat().st_mode) & 0o044
    ]
    assert closed == []
