"""The table of files hashed before: it saves reading, and never gives a wrong hash."""

import hashlib
import os
import sqlite3
from pathlib import Path

import pytest

from extract.dataset import OTHER_HASH, scan
from extract.sources import hash_index
from extract.sources.csv_manifest import Row, write_rows
from extract.sources.hash_index import HashIndex, known_files
from tests.killing import draw_images

OLD = 10**18  # a time of change long ago, in ns


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = draw_images(tmp_path / "images", 6)
    for path in images.glob("*/*"):
        os.utime(path, ns=(OLD, OLD))
    return images


@pytest.fixture(autouse=True)
def settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can set back the ctime of a file that was written just now."""
    monkeypatch.setattr(hash_index, "SETTLED_NS", -1)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "scan.sqlite"


def known_hashes(table: Path) -> set[bytes]:
    return {file.sha256 for file in known_files(table).values()}


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
    monkeypatch.setattr(hash_index, "SETTLED_NS", 2_000_000_000)
    (folder / "a" / "0.png").write_bytes(b"new")
    opened = Opened(monkeypatch)
    for _ in range(2):
        scan(folder, table=table)
    assert opened.count == 2 * 6


def test_files_that_were_swapped_are_read_again(folder: Path, table: Path) -> None:
    """Of equal size and time of change: the corrected labels count, not the old hashes."""
    one, other = folder / "a" / "0.png", folder / "b" / "1.png"
    for path, content in ((one, b"one"), (other, b"two")):
        path.write_bytes(content)
        os.utime(path, ns=(OLD, OLD))
    scan(folder, table=table)
    one.rename(folder / "x"), other.rename(one), (folder / "x").rename(other)
    swapped = {file.path: file.sha256 for file in scan(folder, table=table).files}
    assert swapped[one] == hashlib.sha256(b"two").digest()
    assert swapped[other] == hashlib.sha256(b"one").digest()


def test_folders_that_were_swapped_are_read_again(folder: Path, table: Path) -> None:
    """The files in them have not changed at all: their inodes tell."""
    for path in folder.glob("*/*"):
        path.rename(path.with_name(str(int(path.stem) // 2)))
    for number, path in enumerate(sorted(folder.glob("*/*"))):
        path.rename(path.with_suffix(".png")).write_bytes(bytes([number]))
        os.utime(path.with_suffix(".png"), ns=(OLD, OLD))
    scan(folder, table=table)
    a, b = folder / "a", folder / "b"
    a.rename(folder / "x"), b.rename(a), (folder / "x").rename(b)
    assert scan(folder, table=table).labels == scan(folder).labels


def test_a_change_whose_times_were_put_back_is_read(folder: Path, table: Path) -> None:
    scan(folder, table=table)
    path = folder / "a" / "0.png"
    content = path.read_bytes()[:-1] + b"?"
    path.write_bytes(content)
    os.utime(path, ns=(OLD, OLD))
    assert hashlib.sha256(content).digest() in scan(folder, table=table).labels


def test_rehash_reads_every_file(
    folder: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scan(folder, table=table)
    opened = Opened(monkeypatch)
    assert scan(folder, table=table, rehash=True).files == first.files
    assert opened.count == 6
    listed = tmp_path / "list.csv"
    wrong, *others = first.files
    rows = [Row(wrong.label, str(wrong.path), bytes(32))]
    write_rows(listed, rows + [Row(f.label, str(f.path), f.sha256) for f in others])
    assert len(scan(listed).files) == 6  # it is believed
    (named,) = scan(listed, rehash=True).unopened
    assert named.path == str(wrong.path) and named.reason.startswith(OTHER_HASH)


def test_the_table_of_earlier_versions_is_replaced(folder: Path, table: Path) -> None:
    """It knew files by size and time alone."""
    table.parent.mkdir()
    with sqlite3.connect(table) as database:
        database.execute("CREATE TABLE files (path, size, mtime_ns, sha256)")
        for path in folder.glob("*/*"):
            row = (os.fsencode(path), path.stat().st_size, OLD, bytes(32))
            database.execute("INSERT INTO files VALUES (?, ?, ?, ?)", row)
    database.close()
    found = scan(folder, table=table)
    assert found.files == scan(folder).files and not found.remarks
    assert len(known_files(table)) == 6


def test_what_is_gone_is_forgotten(folder: Path, table: Path) -> None:
    before = scan(folder, table=table)
    (folder / "a" / "0.png").unlink()
    scan(folder, table=table)
    assert known_hashes(table) < {file.sha256 for file in before.files}
    assert len(known_hashes(table)) == 5


def test_other_folders_are_remembered_beside_it(folder: Path, table: Path, tmp_path: Path) -> None:
    other = draw_images(tmp_path / "images too", 4, seed=1)
    for path in other.glob("*/*"):
        os.utime(path, ns=(OLD, OLD))
    scan(other, table=table)
    scan(folder, table=table)
    assert len(known_hashes(table)) == 10


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
            database.execute("CREATE TABLE hashes (name TEXT)")
        database.close()
    images = scan(folder, table=table)
    assert images.files == scan(folder).files
    assert images.remarks[0].startswith(f"{table} can't be used (")
    assert "delete it" in images.remarks[0]


def test_what_was_hashed_before_an_interruption_is_kept(folder: Path, table: Path) -> None:
    with pytest.raises(KeyboardInterrupt), HashIndex(folder, table) as hasher:
        hasher.sha256(str(folder / "a" / "0.png"))
        raise KeyboardInterrupt
    assert len(known_hashes(table)) == 1


def test_names_that_are_no_unicode(tmp_path: Path, table: Path) -> None:
    label = tmp_path / "images" / os.fsdecode(b"g\xe9l")
    label.mkdir(parents=True)
    (label / os.fsdecode(b"n\xe9.png")).write_bytes(b"1")
    os.utime(label / os.fsdecode(b"n\xe9.png"), ns=(OLD, OLD))
    scan(tmp_path / "images", table=table)
    assert len(known_hashes(table)) == 1
