"""The table of files hashed before: it saves reading, and never gives a wrong hash."""

import hashlib
import os
import sqlite3
from pathlib import Path

import pytest

from extract import hashes
from extract.hashes import Hasher
from extract.scan import scan
from tests.killing import draw_images

OLD = 10**18  # a time of change long ago, in ns


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = draw_images(tmp_path / "images", 6)
    for path in images.glob("*/*"):
        os.utime(path, ns=(OLD, OLD))
    return images


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "scan.sqlite"


class Opened:
    """Counts the files that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = hashlib.file_digest

        def counted(file: object, name: str) -> object:
            self.count += 1
            return original(file, name)  # type: ignore[arg-type]

        monkeypatch.setattr(hashlib, "file_digest", counted)


def test_unchanged_files_are_not_read_again(
    folder: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(monkeypatch)
    first = scan(folder, table=table)
    assert opened.count == 6
    assert scan(folder, table=table).files == first.files
    assert opened.count == 6


@pytest.mark.parametrize("change", ["content", "time", "size", "name"])
def test_whatever_changes_is_read_again(
    folder: Path, table: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(folder, table=table)
    path = folder / "a" / "0.png"
    data = path.read_bytes()
    if change == "content":
        path.write_bytes(data[:-1] + b"?")
    elif change == "time":
        os.utime(path, ns=(OLD, OLD + 1))
    elif change == "size":
        path.write_bytes(data + b"?")
        os.utime(path, ns=(OLD, OLD))
    else:
        path.rename(path.with_name("other.png"))
    opened = Opened(monkeypatch)
    again = scan(folder, table=table)
    assert opened.count == 1
    assert again.files == scan(folder).files


def test_a_file_changed_just_now_is_read_again(
    folder: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next change could fall into the same tick of the file system's clock."""
    (folder / "a" / "0.png").write_bytes(b"new")
    opened = Opened(monkeypatch)
    for _ in range(2):
        scan(folder, table=table)
    assert opened.count == 6 + 1


def test_what_is_gone_is_forgotten(folder: Path, table: Path) -> None:
    before = scan(folder, table=table)
    (folder / "a" / "0.png").unlink()
    scan(folder, table=table)
    assert len(hashes.still_there(table)) == 5
    assert hashes.still_there(table) < {file.sha256 for file in before.files}


def test_what_clusters_hashed_elsewhere_counts_as_there(tmp_path: Path, table: Path) -> None:
    """Behind URLs nobody is asked; an archive is as it was, or all that lay in it is gone."""
    archive = tmp_path / "images.zip"
    archive.write_bytes(b"1")
    os.utime(archive, ns=(OLD, OLD))
    names = ("s3://bucket/a/0.png", f"{archive}/a/0.png", f"{tmp_path}/gone.zip/a/0.png")
    hashed = [
        hashes.Hashed(hashes.key_of(name), 1, OLD, bytes([number]) * 32)
        for number, name in enumerate(names)
    ]
    hashes.remember(table, hashed)
    assert hashes.still_there(table) == {bytes(32), b"\1" * 32}
    os.utime(archive, ns=(OLD + 1, OLD + 1))
    assert hashes.still_there(table) == {bytes(32)}


def test_other_folders_are_remembered_beside_it(folder: Path, table: Path, tmp_path: Path) -> None:
    other = draw_images(tmp_path / "images too", 4, seed=1)
    for path in other.glob("*/*"):
        os.utime(path, ns=(OLD, OLD))
    scan(other, table=table)
    scan(folder, table=table)
    assert len(hashes.still_there(table)) == 10


def test_the_folder_may_be_named_in_any_way(
    folder: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(folder, table=table)
    opened = Opened(monkeypatch)
    monkeypatch.chdir(folder)
    for name in (".", "../images", str(folder)):
        assert len(scan(Path(name), table=table).files) == 6
    assert opened.count == 0


@pytest.mark.parametrize("damage", ["no database", "other columns"])
def test_a_damaged_table_costs_time_only_and_says_so(
    folder: Path, table: Path, damage: str
) -> None:
    table.parent.mkdir()
    if damage == "no database":
        table.write_bytes(b"not a database, but long enough to be looked at" * 100)
    else:
        with sqlite3.connect(table) as database:
            database.execute("CREATE TABLE files (name TEXT)")
        database.close()
    images = scan(folder, table=table)
    assert images.files == scan(folder).files
    assert images.remarks[0].startswith(f"{table} can't be used (")
    assert "delete it" in images.remarks[0]


def test_what_was_hashed_before_an_interruption_is_kept(folder: Path, table: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Hasher(folder, table) as hasher:
        hasher.sha256(str(folder / "a" / "0.png"))
        raise KeyboardInterrupt
    assert len(hashes.still_there(table)) == 1


def test_names_that_are_no_unicode(tmp_path: Path, table: Path) -> None:
    label = tmp_path / "images" / os.fsdecode(b"g\xe9l")
    label.mkdir(parents=True)
    (label / os.fsdecode(b"n\xe9.png")).write_bytes(b"1")
    os.utime(label / os.fsdecode(b"n\xe9.png"), ns=(OLD, OLD))
    scan(tmp_path / "images", table=table)
    assert len(hashes.still_there(table)) == 1
