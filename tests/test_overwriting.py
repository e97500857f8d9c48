"""No command removes or overwrites a file that is the user's own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cache.errors import Failure, FrostlineError, ResultsError
from cache.files import check_replaceable, remove_leftovers
from cache.locks import sharing
from evaluate.predict import check_out
from evaluate.workspace.failures import write_failures
from evaluate.workspace.layout import Workspace
from frostline.cli.main import cli
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def frostline(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


OWN = (".backup.tmp/thesis.tex", ".draft.tmp", f".{'0' * 31}.tmp", f".{'A' * 32}.tmp", "a.tmp")


def test_only_our_own_temporary_names_are_removed(tmp_path: Path) -> None:
    for name in OWN:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
    before = content(tmp_path)
    (tmp_path / f".{'0' * 32}.tmp").write_bytes(b"half")
    (tmp_path / f".{'1a' * 16}.tmp").mkdir()
    remove_leftovers(tmp_path)
    assert content(tmp_path) == before
    assert not (tmp_path / f".{'1a' * 16}.tmp").exists()


def test_split_into_a_folder_with_files_of_the_user(
    few: Callable[[int, int], Path], tmp_path: Path
) -> None:
    out, ws = tmp_path / "mine", tmp_path / "ws"
    for name in (*OWN, "notes.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"mine")
    before = content(out)
    data = few(4, 0) / "dataset"
    done = frostline("split", data, "--out", out, "--workspace", ws)
    assert done.exit_code == 0, done.output
    assert before.items() <= content(out).items()


@pytest.mark.parametrize("name", ["answers.csv", "answers.json"])
def test_answers_never_replace_another_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("path,label\na.png,gel\n")
    with pytest.raises(ResultsError, match="was not written by this command"):
        check_out(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(ResultsError, match="is a folder"):
        check_out(tmp_path / name)


def test_cached_rows_never_replace_another_file(tmp_path: Path) -> None:
    from cache.segment import write_segment
    from cache.store import open_cache
    from evaluate.export.embeddings import export
    from tests.test_cache import IDENTITY, NOTE, rows

    cache = open_cache(tmp_path / "cache", IDENTITY)
    write_segment(cache.folder, IDENTITY, rows(1, 2, 3), [], NOTE)
    for suffix in (".npz", ".parquet"):
        ours = tmp_path / f"rows{suffix}"
        export([cache], {}, ours)
        first = ours.read_bytes()
        assert export([cache], {}, ours) == [ours]
        assert ours.read_bytes() == first
    np.savez(tmp_path / "mine.npz", weights=np.zeros(3))
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "mine.parquet")
    for name in ("mine.npz", "mine.parquet"):
        with pytest.raises(ResultsError, match="was not written by this command"):
            export([cache], {}, tmp_path / name)


def test_the_page_of_an_audit_never_replaces_an_image(
    few: Callable[[int, int], Path], tmp_path: Path
) -> None:
    data = few(3, 2)
    image = next((data / "dataset" / "gel").iterdir())
    before = image.read_bytes()
    where = ("--dataset", data / "dataset", "--test", data / "test_images")
    done = frostline("audit", *where, "--workspace", tmp_path / "ws", "--html", image)
    assert done.exit_code == 1
    assert "was not written by this command" in done.output
    assert image.read_bytes() == before
    for _ in range(2):  # ours may be written again
        page = ("--html", tmp_path / "audit.html")
        assert frostline("audit", *where, "--workspace", tmp_path / "ws", *page).exit_code == 0


def test_a_list_of_failures_of_the_user_stays(tmp_path: Path) -> None:
    table = tmp_path / "failures.csv"
    table.write_text("pump,date\n3,Monday\n")
    write_failures(table, [])
    assert table.read_text().startswith("pump")
    with pytest.raises(ResultsError, match=r"failures\.csv exists and was not written"):
        Workspace(tmp_path).prepare()
    table.unlink()
    write_failures(table, [Failure(bytes(32), "a.png", "cut short")])
    Workspace(tmp_path).prepare()
    write_failures(table, [])
    assert not table.exists()


def test_a_page_of_the_user_where_the_report_belongs(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("<h1>My thesis</h1>")
    with pytest.raises(ResultsError, match=r"index\.html exists and was not written"):
        Workspace(tmp_path).prepare()


def test_a_heat_map_never_replaces_an_image(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "0001-a.png")
    with pytest.raises(ResultsError, match="was not written by this command"):
        check_replaceable(tmp_path / "0001-a.png", b"Frostline", what="--heatmap")


@pytest.mark.parametrize("named", ["itself", "a link", "relative", "a package"])
def test_the_programs_own_folder_is_no_workspace(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(ROOT)
    monkeypatch.chdir(ROOT)
    folder = {
        "itself": ROOT,
        "a link": tmp_path / "link",
        "relative": Path("tests/.."),
        "a package": ROOT / "cache",
    }[named]
    with pytest.raises(FrostlineError, match="holds Frostline's own code"):
        Workspace(folder)
    done = frostline("report", "--workspace", folder)
    assert done.exit_code == 1
    assert "Choose another folder, such as --workspace out" in done.output


@pytest.mark.parametrize(
    "command",
    [
        ("report",),
        ("predict", "a.png"),
        ("export", "--format", "onnx", "--out", "a.onnx"),
        ("evaluate",),
        ("train-heads",),
        ("cache", "ls"),
    ],
)
def test_a_workspace_that_does_not_exist_is_named(command: tuple[str, ...], tmp_path: Path) -> None:
    done = frostline(*command, "--workspace", tmp_path / "typo")
    assert done.exit_code == 1
    assert "typo does not exist. Run `cli.py run` first" in done.output
    assert not (tmp_path / "typo").exists()


def test_without_workspace_everything_goes_into_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = frostline("report")
    assert "The workspace out does not exist" in done.output


def test_a_shared_folder_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / ".notes.tmp").write_bytes(b"mine")
    with sharing(tmp_path):
        pass
    assert (tmp_path / ".notes.tmp").exists()
