"""Images behind URLs: listed, fetched and kept as they are there, over the real protocol of S3."""

import os
import shutil
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cache.errors import DatasetError
from extract.dataset import scan
from extract.sources.csv_manifest import Row, read_list, write_rows
from extract.sources.image_file import is_remote, to_path
from extract.sources.local_copy import make_local
from extract.sources.url import _time, describe_file, fetch_all, list_below, list_top, open_file
from tests.conftest import ROOT
from tests.killing import draw_images

OLD = 10**18  # ns; long before any test


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket `gels`, empty, which credentials in the environment lead to."""
    for name, value in (
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    if files.exists("gels"):
        files.rm("gels", recursive=True)
    files.mkdir("gels")
    return files


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_images(tmp_path / "images", 6)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "out" / "images"


def put(files: Any, folder: Path, name: str) -> None:
    """Copy the files of a folder behind a URL."""
    for path in folder.rglob("*"):
        if path.is_file():
            files.pipe_file(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())


class TestS3:
    def test_a_folder_of_classes_is_that_folder_here(
        self, s3: Any, images: Path, root: Path
    ) -> None:
        put(s3, images, "gels/train")
        seen: list[tuple[int, int]] = []
        found = scan(make_local(to_path("s3://gels/train/"), root, lambda *at: seen.append(at)))
        assert found.labels == scan(images).labels
        assert found.name == "gels/train"
        assert seen == [(6, 6)]

    def test_real_images_of_the_repository(self, s3: Any, root: Path) -> None:
        for label in ("gel", "not_gel"):
            put(s3, ROOT / "test_images" / label, f"gels/{label}")
        assert (
            scan(make_local(to_path("s3://gels"), root)).labels == scan(ROOT / "test_images").labels
        )

    def test_only_what_changed_is_fetched_again(self, s3: Any, images: Path, root: Path) -> None:
        put(s3, images, "gels/train")
        first = make_local(to_path("s3://gels/train"), root)
        kept, gone = first / "a" / "2.png", first / "a" / "0.png"
        now = kept.stat()
        kept.write_bytes(bytes(now.st_size))  # a change that does not show
        os.utime(kept, ns=(now.st_mtime_ns, now.st_mtime_ns))
        gone.unlink()
        s3.pipe_file("gels/train/b/1.png", (images / "a" / "0.png").read_bytes() + b"x")
        s3.rm("gels/train/b/3.png")
        s3.pipe_file("gels/train/b/new.png", (images / "b" / "3.png").read_bytes())
        assert make_local(to_path("s3://gels/train"), root) == first
        assert not any(kept.read_bytes())
        assert gone.read_bytes() == (images / "a" / "0.png").read_bytes()
        assert (first / "b" / "1.png").read_bytes().endswith(b"x")
        assert {path.name for path in (first / "b").iterdir()} == {"1.png", "5.png", "new.png"}
        assert list(root.glob("*/.*.tmp")) == []

    def test_pages_of_a_listing(self, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(7):
            s3.pipe_file(f"gels/train/a/deep/{number}.png", b"x" * number)
        s3.pipe_file("gels/train/a/.hidden/0.png", b"")
        s3.touch("gels/train/a/")  # as some programs mark folders
        folder = to_path("s3://gels/train")
        files: Any = folder
        monkeypatch.setitem(files.fs.req_kw, "MaxKeys", 3)
        found = list(list_below(folder, "a"))
        assert [file.path for file in found] == [
            f"s3://gels/train/a/deep/{number}.png" for number in range(7)
        ]
        assert [file.size for file in found] == list(range(7))
        assert all(file.mtime_ns > OLD for file in found)
        assert found[3] == describe_file(to_path(found[3].path))

    def test_a_file_that_is_gone_costs_itself(self, s3: Any, tmp_path: Path) -> None:
        s3.pipe_file("gels/a/1.png", b"x")
        targets = [tmp_path / "0", tmp_path / "1"]
        gone, there = fetch_all(["s3://gels/a/gone.png", "s3://gels/a/1.png"], targets)
        assert gone == "is not there: check its name"
        assert there == ""
        assert [path.exists() for path in targets] == [False, True]

    def test_no_bucket(self, s3: Any, root: Path) -> None:
        with pytest.raises(DatasetError, match="s3://nowhere/train is not there"):
            make_local(to_path("s3://nowhere/train"), root)

    def test_no_credentials(
        self, s3: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        fsspec.filesystem("s3").clear_instance_cache()
        with pytest.raises(DatasetError, match=r"may not be read .* give credentials"):
            make_local(to_path("s3://gels/train"), root)
        fsspec.filesystem("s3").clear_instance_cache()

    def test_archives_and_lists(self, s3: Any, images: Path, root: Path, tmp_path: Path) -> None:
        put(s3, images, "gels/train")
        for kind in ("zip", "tar"):
            made = shutil.make_archive(str(tmp_path / "gels"), kind, images)
            s3.pipe_file(f"gels/packed/gels.{kind}", Path(made).read_bytes())
        names = [path.relative_to(images).as_posix() for path in images.glob("*/*")]
        rows = [Row(name[0], f"../train/{name}", None) for name in names]
        write_rows(tmp_path / "l.csv", rows)
        s3.pipe_file("gels/packed/l.csv", (tmp_path / "l.csv").read_bytes())
        for name, called in (("gels.zip", "gels"), ("gels.tar", "gels"), ("l.csv", "packed/l")):
            found = scan(make_local(to_path(f"s3://gels/packed/{name}"), root))
            assert found.labels == scan(images).labels, name
            assert found.name == called
            assert found.remarks == []


class TestLists:
    def test_urls_in_a_local_list(
        self, memory: Any, images: Path, root: Path, tmp_path: Path
    ) -> None:
        put(memory, images, "/bucket")
        rows = [Row("a", "memory://bucket/a/0.png", None), Row("b", "images/b/1.png", None)]
        write_rows(tmp_path / "l.csv", rows)
        found = scan(make_local(tmp_path / "l.csv", root))
        assert [file.label for file in found.files] == ["a", "b"]
        assert [file.sha256 for file in found.files] == [
            sha256((images / name).read_bytes()).digest() for name in ("a/0.png", "b/1.png")
        ]
        assert found.files[1].path == images / "b" / "1.png"

    def test_what_is_known_by_hash_is_not_fetched_unless_it_will_be_opened(
        self, memory: Any, images: Path, root: Path, tmp_path: Path
    ) -> None:
        write_rows(tmp_path / "l.csv", [Row("a", "memory://gone/0.png", bytes(32))])
        assert make_local(tmp_path / "l.csv", root, opened=False) == tmp_path / "l.csv"
        (file,) = scan(tmp_path / "l.csv").files
        assert (str(file.path), file.sha256) == ("memory://gone/0.png", bytes(32))
        assert is_remote(file.path)
        assert not root.exists()
        put(memory, images, "/bucket")
        write_rows(tmp_path / "l.csv", [Row("a", "memory://bucket/a/0.png", bytes(32))])
        (file,) = scan(make_local(tmp_path / "l.csv", root)).files
        assert file.path.read_bytes() == (images / "a" / "0.png").read_bytes()

    def test_one_that_is_gone_costs_itself_and_is_told(
        self, memory: Any, images: Path, root: Path, tmp_path: Path
    ) -> None:
        put(memory, images, "/bucket")
        rows = [Row("a", f"memory://bucket/a/{name}.png", None) for name in ("0", "2", "gone")]
        write_rows(tmp_path / "l.csv", rows)
        told: list[str] = []
        found = scan(make_local(tmp_path / "l.csv", root, report=told.append))
        assert len(found.files) == 2
        assert "gone.png can't be opened" in found.remarks[0]
        assert told == [
            f"{tmp_path}/l.csv: 1 of 3 file(s) could not be fetched",
            "memory://bucket/a/gone.png is not there: check its name",
        ]

    def test_no_name_leads_out(self, root: Path, tmp_path: Path) -> None:
        write_rows(tmp_path / "l.csv", [Row("a", "memory://b/../../../../evil.png", None)])
        with pytest.raises(DatasetError, match="can't be the name of a file on this machine"):
            make_local(tmp_path / "l.csv", root)

    def test_a_remote_list_of_what_lies_beside_it(self, memory: Any, images: Path) -> None:
        memory.pipe("/bucket/lists/l.csv", b"path,label\n../a/0.png,a\nb/1.png,b\n/tmp/x.png,b\n")
        paths = [path for _, path in read_list(to_path("memory://bucket/lists/l.csv"))]
        assert paths == ["memory://bucket/a/0.png", "memory://bucket/lists/b/1.png", "/tmp/x.png"]  # noqa: S108


class TestAnyFileSystem:
    def test_it_is_walked_folder_by_folder(self, memory: Any) -> None:
        for name in ("a/1.png", "a/deep/2.png", "a/.hidden/3.png", "a/.4.png", "b/5.png"):
            memory.pipe(f"/bucket/{name}", name.encode())
        memory.pipe("/bucket/loose.png", b"")
        classes, loose = list_top(to_path("memory://bucket"))
        assert classes == ["a", "b"]
        assert [file.path for file in loose] == ["memory://bucket/loose.png"]
        assert [file.path for file in list_below(to_path("memory://bucket"), "a")] == [
            "memory://bucket/a/1.png", "memory://bucket/a/deep/2.png"
        ]  # fmt: skip

    def test_what_is_new_is_seen(self, memory: Any) -> None:
        for number in range(2):
            memory.pipe(f"/bucket/a/{number}.png", b"x")
            assert len(list(list_below(to_path("memory://bucket"), "a"))) == number + 1

    def test_a_lost_file_stops_a_folder_and_the_rest_stays(
        self, memory: Any, images: Path, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(memory, images, "/bucket/train")
        whole, get = type(memory).get_file, type(memory).get_file

        def breaking(files: Any, name: str, *rest: Any, **named: Any) -> None:
            if name.endswith("a/0.png"):
                raise TimeoutError("no answer")
            get(files, name, *rest, **named)

        monkeypatch.setattr(type(memory), "get_file", breaking)
        with pytest.raises(DatasetError, match=r"1 of 6 .*0.png can't be read \(TimeoutError: no"):
            make_local(to_path("memory://bucket/train"), root)
        monkeypatch.setattr(type(memory), "get_file", whole)
        (there,) = root.glob("*/bucket/train/a/2.png")
        before = there.stat().st_ino
        found = scan(make_local(to_path("memory://bucket/train"), root))
        assert found.labels == scan(images).labels
        assert there.stat().st_ino == before

    def test_a_folder_without_classes(self, memory: Any, root: Path) -> None:
        memory.pipe("/bucket/loose.png", b"")
        with pytest.raises(DatasetError, match="memory://bucket has no folders"):
            make_local(to_path("memory://bucket"), root)

    def test_an_empty_class_is_an_error_as_in_folders(self, memory: Any, root: Path) -> None:
        memory.pipe("/bucket/a/0.png", b"x")
        memory.pipe("/bucket/b/notes.txt", b"x")
        with pytest.raises(DatasetError, match=r"no readable image file in class\(es\) b"):
            scan(make_local(to_path("memory://bucket"), root))

    def test_a_time_of_its_version_where_there_is_no_other(self) -> None:
        first, second = (_time({"name": "x", "ETag": tag}) for tag in ("one", "two"))
        assert first != second
        assert {first % 10**9, second % 10**9} == {0}
        assert 0 < max(first, second) < OLD * 1.1  # long past
        assert _time({"name": "x", "mtime": 2.5}) == 2_500_000_000

    def test_two_versions_of_one_time_differ(self) -> None:
        one, two = (_time({"name": "x", "ETag": tag, "mtime": 2.5}) for tag in ("one", "two"))
        assert one != two and one // 10**9 == two // 10**9 == 2
        assert _time({"name": "x"}) == -1


class TestPlaces:
    def test_local_ones_stay_paths(self) -> None:
        assert to_path("a/b") == Path("a/b")
        assert to_path("file:///a/b") == Path("/a/b")
        assert to_path("C:/a") == Path("C:/a")
        assert not is_remote(to_path("file:///a/b"))

    def test_urls_work_as_paths_do(self) -> None:
        path = to_path("s3://bucket/train/")
        assert is_remote(path)
        assert (str(path), path.name, str(path.parent)) == (
            "s3://bucket/train", "train", "s3://bucket/"
        )  # fmt: skip

    def test_an_unknown_scheme(self) -> None:
        with pytest.raises(DatasetError, match=r"nosuch://x: .*give a folder or file"):
            to_path("nosuch://x")

    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "upath", None)
        with pytest.raises(DatasetError, match=r"pip install universal-pathlib"):
            to_path("s3://bucket")

    def test_a_missing_file_system_is_named(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "adlfs", None)
        with pytest.raises(DatasetError, match=r"adlfs.*pip install universal-pathlib"):
            make_local(to_path("abfs://container/train"), root)

    def test_any_place_of_a_file_can_be_read(self, memory: Any) -> None:
        memory.pipe("/bucket/x", b"0123456789")
        with open_file(to_path("memory://bucket/x")) as file:
            file.seek(-3, os.SEEK_END)
            assert file.read() == b"789"
