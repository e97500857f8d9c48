"""A folder in a zip archive → a folder, once; nothing dangerous is unpacked."""

import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from cache.errors import DatasetError
from extract.dataset import scan
from extract.sources import zip_archive
from extract.sources.local_copy import make_local
from tests.conftest import ROOT
from tests.killing import draw_images

Zipped = Callable[..., Path]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_images(tmp_path / "images", 6)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "out" / "images"


@pytest.fixture
def zipped(images: Path, tmp_path: Path) -> Zipped:
    """Pack images into `gels.zip`, in the folder `train`, and other members by name."""

    def pack(
        *others: str | zipfile.ZipInfo, content: bytes = b"x", method: int = zipfile.ZIP_STORED
    ) -> Path:
        path = tmp_path / "gels.zip"
        with zipfile.ZipFile(path, "w", method) as file:
            for image in sorted(images.glob("*/*")):
                file.write(image, Path("train") / image.relative_to(images))
            for other in others:
                file.writestr(other, content)
        return path

    return pack


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_in_an_archive_is_that_folder(zipped: Zipped, images: Path, root: Path) -> None:
    found = scan(make_local(zipped("test/a/1.png") / "train", root))
    assert found.labels == scan(images).labels
    assert found.name == "gels/train"
    assert files(root) == {".lock"} | {
        f.path.relative_to(root).as_posix() for f in found.files
    }  # and nothing of test/


def test_a_whole_archive_is_a_folder_too(images: Path, tmp_path: Path, root: Path) -> None:
    whole = shutil.make_archive(str(tmp_path / "gels"), "zip", images)
    found = scan(make_local(Path(whole), root))
    assert (found.name, found.labels) == ("gels", scan(images).labels)


def test_parts_of_a_data_set_are_no_classes(zipped: Zipped, root: Path) -> None:
    path = zipped("test/a/1.png")
    with pytest.raises(DatasetError, match=f"called test and train.*--dataset {path}/train --test"):
        make_local(path, root)
    assert files(root) == set()


def test_what_is_no_archive_stays_as_it_is(images: Path, tmp_path: Path, root: Path) -> None:
    (tmp_path / "folder.zip").mkdir()
    for path in (images, tmp_path / "folder.zip", tmp_path / "gone.zip" / "train", Path("../x")):
        assert make_local(path, root) == path
    assert not root.exists()


def test_it_is_unpacked_once_and_anew_when_it_changes(zipped: Zipped, root: Path) -> None:
    seen: list[tuple[int, int]] = []
    first = make_local(zipped() / "train", root, lambda *at: seen.append(at))
    assert seen == [(6, 6)]
    assert make_local(first.parents[3] / "gels.zip" / "train", root) != first
    again = make_local(root.parents[1] / "gels.zip" / "train", root, lambda *at: seen.append(at))
    assert (again, seen) == (first, [(6, 6)])
    changed = make_local(zipped("train/a/new.png") / "train", root)
    assert changed != first
    assert "a/new.png" in files(changed)


KILLED = """
import os, signal, sys
from pathlib import Path
from extract.sources import zip_archive
from extract.sources.local_copy import make_local

zip_archive._rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
make_local(*map(Path, sys.argv[1:]))
"""


def test_a_kill_leaves_no_half(zipped: Zipped, root: Path) -> None:
    path = zipped() / "train"
    done = subprocess.run([sys.executable, "-c", KILLED, path, root], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    (half,) = root.glob(".*.tmp")
    assert len(scan(make_local(path, root)).files) == 6
    assert not half.exists()


def test_several_at_once_do_no_harm(zipped: Zipped, root: Path) -> None:
    path, found = zipped() / "train", list[Path]()
    several = [
        threading.Thread(target=lambda: found.append(make_local(path, root))) for _ in range(4)
    ]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(scan(found[0]).files) == 6
    assert list(root.glob(".*.tmp")) == []


def test_other_files_are_told_and_hidden_ones_left_out(zipped: Zipped, root: Path) -> None:
    told: list[str] = []
    hidden = ("train/a/.x.png", "train/__MACOSX/a/._0.png", "train/a/@eaDir/0.png/THUMB.jpg")
    path = zipped("train/notes.txt", "train/readme.md", *hidden) / "train"
    for _ in range(2):  # told each time, though it is unpacked once
        told.clear()
        folder = make_local(path, root, report=told.append)
        assert len(scan(folder).files) == len(files(folder)) == 6
        assert told == [
            f"{path}: 3 file(s) ignored because they are hidden or made by a system: 1 hidden, "
            "1 __MACOSX (macOS), 1 @eaDir (Synology)",
            f"{path}: 2 file(s) ignored because they are not images: 1 .txt, 1 .md, such as "
            "train/notes.txt",
        ]


def test_a_class_of_another_format_is_an_error_as_in_folders(zipped: Zipped, root: Path) -> None:
    folder = make_local(zipped("train/c/1.gel", "train/c/2.gel") / "train", root)
    with pytest.raises(DatasetError, match=r"no readable image file in class\(es\) c"):
        scan(folder)


def test_an_empty_class_is_an_error_as_in_folders(zipped: Zipped, root: Path) -> None:
    folder = make_local(zipped("train/c/") / "train", root)
    with pytest.raises(DatasetError, match=r"no readable image file in class\(es\) c"):
        scan(folder)


def test_separators_of_windows(zipped: Zipped, root: Path) -> None:
    assert "c/1.png" in files(make_local(zipped("train\\c\\1.png") / "train", root))


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("train/a/link.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("train/../../../evil.png", "would be unpacked elsewhere"),
        ("train\\..\\..\\evil.png", "would be unpacked elsewhere"),
        ("/train/evil.png", "would be unpacked elsewhere"),
        ("train/C:/evil.png", "would be unpacked elsewhere"),
        ("train/C:evil.png", "would be unpacked elsewhere"),
        (link(), "link.png is a link"),
        ("train/a/./0.png", "in it twice"),
        ("train/a/0.png/1.png", "a name that is taken"),
    ],
)
def test_what_is_dangerous_or_twice_is_refused_and_nothing_is_left(
    zipped: Zipped, root: Path, member: str | zipfile.ZipInfo, message: str
) -> None:
    before = files(root.parents[1]) | {"gels.zip", "out/images/.lock"}
    with pytest.raises(DatasetError, match=f"gels.zip: .*{message}"):
        make_local(zipped(member) / "train", root)
    assert files(root.parents[1]) <= before


def test_encrypted_images_are_refused(zipped: Zipped, root: Path) -> None:
    path = zipped()
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # the flag in the first entry of the directory
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"0\.png is encrypted: unpack it yourself"):
        make_local(path, root)


def test_rare_compression_is_refused(zipped: Zipped, root: Path) -> None:
    with pytest.raises(DatasetError, match="compressed in a way not known here"):
        make_local(zipped(method=zipfile.ZIP_LZMA), root)


def test_a_bomb_is_refused_before_it_grows(
    zipped: Zipped, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped("train/a/b.png", content=bytes(2_000_000), method=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(zip_archive, "HARMLESS_BYTES", 10**6)
    with pytest.raises(DatasetError, match="would become 2,00"):
        make_local(path / "train", root)
    assert not root.exists()


def test_no_more_comes_out_than_is_stated(zipped: Zipped, root: Path) -> None:
    path = zipped("train/a/b.png", content=bytes(2_000_000), method=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2")
    content[entry + 24 : entry + 28] = struct.pack("<I", 1000)  # what it says its size is
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="damaged"):
        make_local(path / "train", root)
    assert files(root) == {".lock"}


def test_too_little_room_is_told_before(
    zipped: Zipped, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(root.parents[1])._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(DatasetError, match="where 100 are free: make room"):
        make_local(zipped() / "train", root)
    assert files(root) == set()


@pytest.mark.parametrize("inner", ["test", "train/a/0.png", "train/a/b"])
def test_a_folder_that_is_not_there(zipped: Zipped, root: Path, inner: str) -> None:
    with pytest.raises(DatasetError, match=f"no folder {inner} .*at its top there is train"):
        make_local(zipped() / inner, root)


def test_an_archive_without_images(tmp_path: Path, root: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w"):
        pass
    with pytest.raises(DatasetError, match=r"x\.zip has no images in it: at its top there is noth"):
        make_local(tmp_path / "x.zip", root)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_of_the_same_size_and_time_is_unpacked_again(
    kind: str, images: Path, root: Path
) -> None:
    """Two images lay in the wrong class; corrected, the archive looks as before."""
    one, other = images / "a" / "0.png", images / "b" / "1.png"
    one.write_bytes(b"1"), other.write_bytes(b"2")
    packed = images.with_suffix(f".{kind}")

    def labels() -> dict[bytes, str]:
        shutil.make_archive(str(images), kind, images)
        os.utime(packed, ns=(10**18, 10**18))
        return scan(make_local(packed, root)).labels

    first, size = labels(), packed.stat().st_size
    one.write_bytes(b"2"), other.write_bytes(b"1")
    second = labels()
    assert packed.stat().st_size == size
    key = sha256(b"1").digest()
    assert (first[key], second[key]) == ("a", "b")


def test_rehash_unpacks_again(zipped: Zipped, root: Path) -> None:
    """As where somebody has written into what was unpacked."""
    archive = zipped()
    folder = make_local(archive / "train", root)
    whole = files(folder)
    next(folder.glob("a/*")).unlink()
    assert files(make_local(archive / "train", root)) < whole
    assert files(make_local(archive / "train", root, rehash=True)) == whole


def test_damage_anywhere_is_an_error_that_says_so(zipped: Zipped, root: Path) -> None:
    """Bytes changed and ends cut off: unpacked to the same images, or refused."""
    path = zipped(method=zipfile.ZIP_DEFLATED)
    whole, pick = path.read_bytes(), random.Random(0)
    right = {f.sha256 for f in scan(make_local(path / "train", root)).files}
    refused = 0
    for trial in range(150):
        content = bytearray(whole)
        if trial % 10 == 0:
            del content[pick.randrange(len(content)) :]
        else:
            content[pick.randrange(len(content))] ^= 1 << pick.randrange(8)
        path.write_bytes(content)
        os.utime(path, ns=(trial, trial))
        try:
            folder = make_local(path / "train", root)
        except DatasetError as error:
            refused += "gels.zip" in str(error)
        else:
            assert {f.sha256 for f in scan(folder).files} <= right
    assert refused > 30


def test_real_photographs_in_an_archive(gel: Path, tmp_path: Path, root: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for path in (gel / "test_images").glob("*/*"):
            file.write(path, path.relative_to(gel))
    found = scan(make_local(tmp_path / "x.zip" / "test_images", root))
    assert found.labels == scan(gel / "test_images").labels
    with Image.open(found.files[0].path) as image:
        image.load()
