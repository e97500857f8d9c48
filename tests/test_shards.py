"""A data set as a stream of shards, wherever it lies; each file fetched, or the reason why not."""

import os
import shutil
import tracemalloc
import unicodedata
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cache.errors import DatasetError
from extract.dataset import scan
from extract.distributed.shards import Fetched, Shard, fetch_files, list_shards
from extract.sources.csv_manifest import write_list
from extract.sources.file_names import ListingNotes
from extract.sources.image_file import to_path
from tests.conftest import ROOT
from tests.killing import draw_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_images(tmp_path / "images", 10)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def put(files: Any, folder: Path, name: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            files.pipe_file(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def as_zip(images: Path) -> Path:
    return Path(shutil.make_archive(str(images.parent / "gels"), "zip", images))


def as_tar(images: Path) -> Path:
    return Path(shutil.make_archive(str(images.parent / "gels"), "tar", images))


def as_list(images: Path) -> Path:
    write_list(images.parent / "gels.csv", scan(images).files)
    return images.parent / "gels.csv"


def as_part_of_zip(images: Path) -> Path:
    whole = shutil.make_archive(
        str(images.parent / "gels"), "zip", images.parent, base_dir=images.name
    )
    return Path(whole) / images.name


FORMS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda images: images, "zip": as_zip, "part of zip": as_part_of_zip,
    "tar": as_tar, "list": as_list,
}  # fmt: skip


def everything(source: Path, size: int, scratch: Path) -> list[Fetched]:
    return [
        file
        for shard in list_shards(source, size)
        for file in fetch_files(shard, scratch / str(shard.number))
    ]


def contents(files: Iterable[Fetched]) -> set[tuple[str, bytes]]:
    return {(file.label, file.path.read_bytes()) for file in files if file.path}


def those_of(images: Path) -> set[tuple[str, bytes]]:
    return {(path.parent.name, path.read_bytes()) for path in images.glob("*/*.png")}


@pytest.mark.parametrize("form", FORMS)
def test_all_images_of_a_source_with_their_classes(form: str, images: Path, scratch: Path) -> None:
    source = FORMS[form](images)
    some = list(list_shards(source, 4))
    assert [shard.number for shard in some] == list(range(len(some)))
    if form != "tar":
        assert [len(shard.paths) for shard in some] == [4, 4, 2]
    files = everything(source, 4, scratch)
    assert contents(files) == those_of(images)
    assert [file.size for file in files] == [f.path.stat().st_size for f in files if f.path]
    assert all(file.mtime_ns > 0 for file in files)
    assert len({file.name for file in files}) == 10


@pytest.mark.parametrize("form", FORMS)
def test_and_behind_a_url(form: str, images: Path, scratch: Path, memory: Any) -> None:
    source = FORMS[form](images)
    put(memory, images.parent, "/bucket")
    url = to_path("memory://bucket/" + source.relative_to(images.parent).as_posix())
    files = everything(url, 4, scratch)
    assert contents(files) == those_of(images)
    assert all(file.name.startswith("memory://bucket/") for file in files)
    assert all(file.path and file.path.is_relative_to(scratch) for file in files)


def test_real_images(scratch: Path) -> None:
    found = everything(ROOT / "test_images", 5, scratch)
    assert [file.path for file in found] == [Path(file.name) for file in found]
    labels = {str(file.path): file.label for file in scan(ROOT / "test_images").files}
    assert {file.name: file.label for file in found} == labels


def test_names_are_those_that_users_know(images: Path, scratch: Path) -> None:
    for source in (as_zip(images), as_tar(images)):
        names = {file.name for file in everything(source, 4, scratch / source.suffix)}
        inside = {path.relative_to(images).as_posix() for path in images.glob("*/*")}
        assert names == {f"{source}/{name}" for name in inside}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_known_is_left_out(form: str, images: Path, scratch: Path) -> None:
    (shard,) = list_shards(FORMS[form](images), 100)
    first, *others = fetch_files(shard, scratch / "all")
    known = [file.name for file in others]
    (left,) = fetch_files(shard, scratch / "one", known)
    assert (left.name, left.label, left.size) == (first.name, first.label, first.size)
    if form != "list" and form != "folder":
        assert len(list((scratch / "one").iterdir())) == 1


class TestFolders:
    def test_the_same_files_as_a_scan_finds(self, images: Path, scratch: Path) -> None:
        deep = images / "a" / "deep" / "er"
        deep.mkdir(parents=True)
        shutil.copy(images / "a" / "0.png", deep / "X.PNG")
        (deep / "back").symlink_to(images / "a")
        (images / "c").symlink_to(images / "b")
        for name in ("a/notes.txt", "loose.png", "a/.hidden.png", ".thumbs/a.png"):
            (images / name).parent.mkdir(exist_ok=True)
            (images / name).write_bytes(b"x")
        notes = ListingNotes()
        some = list(list_shards(images, 3, notes))
        (images / "c").unlink()
        assert notes.machine_made == {"hidden": 1, ".thumb* (thumbnails)": 1}
        assert (notes.others, notes.unclassed) == ({".txt": 1}, 1)
        assert notes.nested == {"a/deep": 1}
        paths = [path for shard in some for path in shard.paths]
        assert sorted(paths) == sorted(str(file.path) for file in scan(images).files)

    def test_accents_are_the_same_however_they_are_written(self, tmp_path: Path) -> None:
        folder = tmp_path / unicodedata.normalize("NFD", "gelé")
        shutil.copytree(ROOT / "test_images" / "gel", folder)
        (shard,) = list_shards(tmp_path, 100)
        assert set(shard.labels) == {unicodedata.normalize("NFC", "gelé")}

    def test_a_file_that_is_gone_costs_itself(self, images: Path, scratch: Path) -> None:
        (shard,) = list_shards(images, 100)
        Path(shard.paths[3]).unlink()
        files = fetch_files(shard, scratch)
        assert [file.name for file in files] == list(shard.paths)
        assert (files[3].path, files[3].reason) == (None, "No such file or directory")
        assert all(file.path and not file.reason for file in files if file is not files[3])

    def test_what_is_behind_a_url_too(self, images: Path, scratch: Path, memory: Any) -> None:
        put(memory, images, "/bucket")
        (shard,) = list_shards(to_path("memory://bucket"), 100)
        memory.rm("/bucket/a/0.png")
        lost = [file for file in fetch_files(shard, scratch) if not file.path]
        assert [(f.name, f.reason) for f in lost] == [
            ("memory://bucket/a/0.png", "is not there: check its name")
        ]
        assert all(size > 0 for size in shard.sizes)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda folder: None, "is not a folder"),
            (lambda folder: folder.mkdir(), "no subfolders"),
            (lambda folder: (folder / "c").mkdir(parents=True), r"no image file in class\(es\) c"),
        ],
    )
    def test_no_class_or_no_image(
        self, tmp_path: Path, make: Callable[[Path], None], message: str
    ) -> None:
        make(tmp_path / "x")
        with pytest.raises(DatasetError, match=message):
            next(list_shards(tmp_path / "x", 4))

    def test_none_behind_a_url(self, memory: Any) -> None:
        with pytest.raises(DatasetError, match="memory://gone is not there"):
            next(list_shards(to_path("memory://gone"), 4))
        memory.pipe("/bucket/a/notes.txt", b"x")
        with pytest.raises(DatasetError, match="memory://bucket: no image in it"):
            next(list_shards(to_path("memory://bucket"), 4))


class TestArchives:
    def test_of_a_folder_of_tars_each_is_a_shard_and_not_opened(self, tmp_path: Path) -> None:
        for name in ("2.tar", "1.tar", "3.tgz", ".4.tar", "index.json"):
            (tmp_path / name).write_bytes(b"no tar archive")
        some = list(list_shards(tmp_path, 4))
        assert [(s.number, s.archive, s.paths) for s in some] == [
            (n, str(tmp_path / name), ()) for n, name in enumerate(("1.tar", "2.tar", "3.tgz"))
        ]
        with pytest.raises(DatasetError, match=r"1\.tar is no tar archive or is damaged"):
            fetch_files(some[0], tmp_path / "scratch")

    def test_a_member_that_is_damaged_costs_itself(self, images: Path, scratch: Path) -> None:
        path = as_zip(images)
        (shard,) = list_shards(path, 100)
        content = bytearray(path.read_bytes())
        content[content.index(b"a/0.png") + 60] ^= 1  # in what follows its name
        path.write_bytes(content)
        bad = [file for file in fetch_files(shard, scratch) if not file.path]
        assert [file.name for file in bad] == [f"{path}/a/0.png"]
        assert bad[0].reason.startswith("is damaged (")

    def test_an_archive_that_changes_meanwhile(self, images: Path, scratch: Path) -> None:
        path = as_zip(images)
        (shard,) = list_shards(path, 100)
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(shard.paths[0], b"another")
        reasons = [file.reason for file in fetch_files(shard, scratch)]
        assert reasons[0] == "has changed since it was listed"
        assert set(reasons[1:]) == {"is gone since it was listed"}

    def test_nothing_leads_out_of_the_scratch_folder(self, images: Path, scratch: Path) -> None:
        with zipfile.ZipFile(as_zip(images), "a") as file:
            file.writestr("a/../../../evil.png", b"x")
        with pytest.raises(DatasetError, match="would be unpacked elsewhere"):
            list(list_shards(images.parent / "gels.zip", 4))
        shard = Shard(0, f"{images.parent}/gels.zip", ("a/../../../evil.png",), ("a",), (1,), (1,))
        (file_,) = fetch_files(shard, scratch)
        assert (file_.path, "would be unpacked elsewhere" in file_.reason) == (None, True)


class Endless(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A file system with as many files in one folder as are asked for, listed one by one."""

    protocol = "endless"
    count = 0

    def ls(self, path: str, detail: bool = True, **_: Any) -> Iterable[dict[str, Any]]:
        if path.strip("/") == "data":
            return [{"name": "data/a", "type": "directory", "size": 0}]
        return (
            {"name": f"data/a/{number}.png", "type": "file", "size": 1, "mtime": 1.0}
            for number in range(self.count)
        )


def peak(source: Path, count: int) -> int:
    """Return how many bytes a listing needs at most."""
    found = 0
    tracemalloc.start()
    for shard in list_shards(source, 256):
        found += len(shard.paths)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == count
    return most


@pytest.mark.filterwarnings("ignore:UPath 'endless' filesystem not explicitly")
@pytest.mark.parametrize("kind", ["list", "folder behind a URL"])
def test_memory_does_not_grow_with_the_files(
    kind: str, tmp_path: Path, soak: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million files need what a thousand do (with --soak; else 20,000)."""
    fsspec.register_implementation("endless", Endless, clobber=True)
    most = []
    for count in (1_000, 1_000, 1_000_000 if soak else 20_000):  # at first, imports need some
        if kind == "list":
            source = tmp_path / "l.csv"
            with source.open("w") as file:
                file.write("path,label\n")
                file.writelines(f"images/{number}.png,a\n" for number in range(count))
        else:
            monkeypatch.setattr(Endless, "count", count)
            source = to_path("endless://data")
        most.append(peak(source, count))
    assert most[2] < 1.2 * most[1]


def test_and_not_of_a_folder_here(tmp_path: Path) -> None:
    most = []
    for number in range(5_000):
        (tmp_path / "a").mkdir(exist_ok=True)
        os.close(os.open(tmp_path / "a" / f"{number}.png", os.O_CREAT))
        if number + 1 in (1_000, 1_001, 5_000):
            most.append(peak(tmp_path, number + 1))
    assert most[2] < 1.2 * most[1]
