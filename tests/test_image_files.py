"""Pictures of images are found by hash, wherever the command is run; or counted as missing."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from evaluate.workspace.image_files import ImageFiles
from evaluate.workspace.layout import Workspace
from extract.backbones import BACKBONES
from extract.dataset import scan
from extract.embedding_spec import LoadedBackbone
from frostline.cli.main import cli

pytestmark = pytest.mark.slow

HOW = ("--arch", "resnet18", "--weights", "random", "--engine", "torch", "--device", "cpu")
ONE = ("--head", "single", "--optimizer", "adam", "--epochs", "2")


def spoken(*arguments: object) -> str:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def body(page: Path) -> str:
    return page.read_text()


@pytest.fixture
def place(
    few: Callable[[int, int], Path],
    tmp_path: Path,
    toy: LoadedBackbone,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with images and a workspace, run with relative paths; the command is run in /."""
    monkeypatch.setitem(BACKBONES, "resnet18", BACKBONES["toy"])
    data = few(5, 4)
    monkeypatch.chdir(data)
    given = ("--dataset", "dataset", "--test", "test_images", "--workspace", "ws")
    spoken("run", *given, *HOW, *ONE)
    monkeypatch.chdir("/")
    return data


def test_from_another_folder_the_page_is_the_same(place: Path) -> None:
    page = place / "ws" / "report" / "index.html"
    before = body(page)
    assert before.count("data:image/webp") > 8
    said = spoken("report", "--workspace", place / "ws")
    assert "not found" not in said
    assert body(page) == before


@pytest.mark.parametrize("table", [True, False])
def test_moved_together_with_the_workspace(place: Path, tmp_path: Path, table: bool) -> None:
    before = body(place / "ws" / "report" / "index.html").count("data:image/webp")
    place.rename(tmp_path / "elsewhere")
    ws = tmp_path / "elsewhere" / "ws"
    if not table:
        (ws / "cache" / "scan.sqlite").unlink(missing_ok=True)  # files just made are not in it
    assert "not found" not in spoken("report", "--workspace", ws)
    assert body(ws / "report" / "index.html").count("data:image/webp") == before


def test_a_file_that_moved_within_its_folder_is_found(place: Path) -> None:
    key = scan(place / "test_images").files[0]
    (place / "test_images" / "gel" / "deep").mkdir()
    shutil.move(key.path, place / "test_images" / "gel" / "deep")
    files = ImageFiles(Workspace(place / "ws"))
    assert files.read(key.path, key.sha256)
    assert files.remark is None


def test_what_is_gone_is_counted_on_the_page_and_the_terminal(place: Path) -> None:
    said = spoken("report", "--workspace", place / "ws")
    gone = sorted((place / "test_images" / "gel").iterdir())[:3]
    for path in gone:
        path.unlink()
    said = spoken("report", "--workspace", place / "ws")
    words = "3 of 18 images were not found, or have changed, and are not shown: first "
    assert words in said
    assert words in body(place / "ws" / "report" / "index.html")


def test_another_picture_of_the_same_name_is_never_shown(place: Path) -> None:
    one, other = sorted((place / "test_images" / "gel").iterdir())[:2]
    key = next(f for f in scan(place / "test_images").files if f.path == one)
    shutil.copy(other, one)
    files = ImageFiles(Workspace(place / "ws"))
    assert files.read(one, key.sha256) is None
    assert files.remark is not None
    assert str(one) in files.remark


def test_export_and_audit_find_the_images_too(place: Path, tmp_path: Path) -> None:
    page = tmp_path / "audit.html"
    said = spoken("audit", "--workspace", place / "ws", "--html", page)
    assert "not found" not in said
    done = spoken("export", "--workspace", place / "ws", "--format", "openvino", "--out",
                  tmp_path / "m.xml", "--weights", "random")  # fmt: skip
    assert "outputs match on" in done
    (tmp_path / "n.bin").write_bytes(b"mine")
    refused = CliRunner().invoke(cli, ["export", "--workspace", str(place / "ws"), "--format",
              "openvino", "--out", str(tmp_path / "n.xml"), "--weights", "random"])  # fmt: skip
    assert "n.bin exists and is no exported model" in refused.output
    assert (tmp_path / "n.bin").read_bytes() == b"mine"
