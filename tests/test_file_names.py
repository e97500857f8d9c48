"""What is an image: one answer from folders, archives, lists, shards and `predict`."""

import os
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.errors import DatasetError
from evaluate.predict import listed
from extract.dataset import scan
from extract.distributed.shards import fetch_files, list_shards
from extract.sources.file_names import ListingNotes, machine_made, why_no_image
from extract.sources.local_copy import make_local
from tests.killing import draw_images

pytestmark = pytest.mark.slow

MADE = (
    *("@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/._0.png", "lost+found/1.png", "._0.png"),
    *("#recycle/2.png", "$RECYCLE.BIN/$R1.png", ".ipynb_checkpoints/0-checkpoint.png", "Thumbs.db"),
    *(".@__thumb/0.png", "@Recycle/0.png", "System Volume Information/x.png", "desktop.ini"),
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_images(tmp_path / "images", 6)


def litter(images: Path) -> None:
    """Add machine-made files beside the classes and in a class."""
    for folder in (images, images / "a"):
        for name in MADE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(images / "b" / "1.png", folder / name)


def as_zip(images: Path) -> Path:
    return make_local(Path(shutil.make_archive(str(images), "zip", images)), images.parent / "out")


def as_tar(images: Path) -> Path:
    return make_local(Path(shutil.make_archive(str(images), "tar", images)), images.parent / "out")


@pytest.mark.parametrize("form", [lambda images: images, as_zip, as_tar])
def test_machine_made_files_are_left_out(form: Callable[[Path], Path], images: Path) -> None:
    before = scan(images).labels
    litter(images)
    assert scan(form(images)).labels == before


def test_and_counted_in_one_remark_by_every_reader(images: Path) -> None:
    litter(images)
    notes = ListingNotes()
    assert sum(len(shard.paths) for shard in list_shards(images, 4, notes)) == 6
    made = f"{images}: {2 * len(MADE)} file(s) ignored because they are hidden or made by a system"
    paths, of_predict = listed([images])
    assert len(paths) == 6
    for remarks in (scan(images).remarks, notes.remarks(images), of_predict):
        assert [remark[: len(made)] for remark in remarks] == [made]
        assert remarks[0].endswith(" and 7 more")


@pytest.mark.parametrize("name", ["x.png", "eaDir", "trash", "lost", "thumbs", "tmp", "_x", ".."])
def test_names_that_users_give_are_not_machine_made(name: str) -> None:
    assert machine_made(name) is None


class TestOtherFormats:
    @pytest.fixture
    def vendor(self, images: Path) -> Path:
        for number in range(3):
            (images / "a" / f"{number}.gel").write_bytes(b"II*\0")
        (images / "b" / "x.DCM").write_bytes(b"x")
        (images / "b" / "x.tif.gz").write_bytes(b"x")
        return images

    def test_all_entry_points_skip_and_name_them(self, vendor: Path) -> None:
        told: list[str] = []
        whole = Path(shutil.make_archive(str(vendor), "zip", vendor))
        make_local(whole, vendor.parent / "out", report=told.append)
        notes = ListingNotes()
        list(list_shards(vendor, 100, notes))
        for remarks in (scan(vendor).remarks, told, notes.remarks(vendor), listed([vendor])[1]):
            assert "5 file(s) skipped: 3 .gel, 1 .dcm, 1 .tif.gz are not supp" in remarks[0]

    def test_a_set_of_nothing_else_says_so(self, vendor: Path) -> None:
        for path in vendor.glob("*/*.png"):
            path.unlink()
        with pytest.raises(
            DatasetError, match=r"(?s)in class\(es\) a, b: .*5 file\(s\) skipped: 3"
        ):
            scan(vendor)

    def test_a_file_given_by_name_too(self) -> None:
        assert why_no_image("scan.gel").startswith(".gel is not a supported image format")
        assert why_no_image("upload").startswith("is not an image by its name")
        assert why_no_image("x.TIFF") == ""


class TestNoRegularFile:
    @pytest.fixture
    def odd(self, images: Path) -> Path:
        os.mkfifo(images / "a" / "fifo.png")
        (images / "a" / "device.png").symlink_to("/dev/zero")
        (images / "a" / "loop.png").symlink_to("loop.png")
        (images / "a" / "gone.png").symlink_to("nowhere")
        with socket.socket(socket.AF_UNIX) as one:
            here = Path.cwd()
            os.chdir(images / "a")  # the path of a socket is short
            try:
                one.bind("socket.png")
            finally:
                os.chdir(here)
        return images

    def test_it_is_named_and_never_opened(self, odd: Path) -> None:
        found = scan(odd)
        assert len(found.files) == 6
        assert {Path(f.path).name: f.reason for f in found.unopened} == {
            **dict.fromkeys(("fifo.png", "device.png", "socket.png"), "is not a regular file"),
            "loop.png": "Too many levels of symbolic links",
            "gone.png": "No such file or directory",
        }

    def test_nor_on_a_cluster(self, odd: Path, tmp_path: Path) -> None:
        (shard,) = list_shards(odd, 100)
        lost = [file for file in fetch_files(shard, tmp_path / "scratch") if not file.path]
        assert len(lost) == 5

    def test_nor_in_a_list(self, odd: Path) -> None:
        names = sorted(
            p.relative_to(odd).as_posix() for p in odd.glob("*/*") if "gone" not in p.name
        )
        (odd / "a" / "folder.png").mkdir()
        rows = "".join(f"{name},{name[0]}\n" for name in [*names, "a/folder.png"])
        (odd / "l.csv").write_text(f"path,label\n{rows}")
        found = scan(odd / "l.csv")
        assert len(found.files) == 6
        assert sum(" is not a regular file (line " in f" {f.reason}" for f in found.unopened) == 3
        assert found.unopened[-1].reason == "is a folder (line 12)"


def test_a_class_whose_folder_is_empty_but_for_folders_is_named(images: Path) -> None:
    (images / "c" / "deep").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"no readable image file in class\(es\) c: add"):
        scan(images)


def test_a_class_folder_of_an_archive_that_is_machine_made(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("__MACOSX/a/._1.png", b"x")
    with pytest.raises(DatasetError, match=r"(?s)has no images in it.*1 __MACOSX \(macOS\)"):
        make_local(tmp_path / "x.zip", tmp_path / "out")
