"""The table of files hashed before, so that an unchanged file is not read again. SQLite.

A file is unchanged if its path, size, time of change (mtime), time of the last change to it or its
name (ctime) and inode are those that it had when it was hashed. The last two can't be set by
programs: they tell apart files that were swapped, or whose times were put back.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType

from cache.files import check_file, check_regular
from extract.sources.image_file import is_url

BUSY_TIMEOUT_S = 30
SAVED_EVERY = 1000  # files; what a kill can cost
ASKED_AT_ONCE = 1000  # of SQLite's 32766
# A file changed twice within one tick of its file system's clock would keep its time; FAT ticks
# every 2 s. So a file that was changed this short a time ago is hashed again at the next scan.
SETTLED_NS = 2_000_000_000
LARGEST = 2**63 - 1  # of SQLite's integers; some file systems number files with 64 bits

SCHEMA = """
CREATE TABLE IF NOT EXISTS hashes (
    path BLOB PRIMARY KEY,  -- absolute, as the file system spells it
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
    ctime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL
) WITHOUT ROWID
"""
EARLIER = "files"  # the table of versions that knew a file by path, size and mtime alone


@dataclass(frozen=True)
class Hashed:
    """A file as it was when its bytes were hashed.

    Attributes:
        path: Absolute, or a URL; in an archive, ARCHIVE/member.
        size: Bytes.
        mtime_ns: Time of change. Of a file behind a URL or in an archive as listed
            (`extract/sources/url.py`); -1 where no listing says it.
        sha256: Of the bytes.
        ctime_ns: Of a local file; else 0.
        inode: Of a local file; else 0.
    """

    path: bytes
    size: int
    mtime_ns: int
    sha256: bytes
    ctime_ns: int = 0
    inode: int = 0

    @property
    def stamp(self) -> tuple[int, ...]:
        """What is equal as long as the file is unchanged, besides its path."""
        return self.size, self.mtime_ns, self.ctime_ns, self.inode

    def settled(self, now_ns: int) -> bool:
        """Return whether a change to the file at this time or later shows in its times."""
        return now_ns - max(self.mtime_ns, self.ctime_ns) > SETTLED_NS


def stamp_of(status: os.stat_result) -> tuple[int, int, int, int]:
    """Return size, mtime_ns, ctime_ns and inode of a file of this machine; see `Hashed.stamp`."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino & LARGEST


class HashIndex:
    """Hashes files, except those that the table knows as they are.

    The table only saves time: if it cannot be used, every file is hashed.

    Attributes:
        folder: Where all files are; files that the table has there and that are not asked for are
            forgotten. None: they are anywhere, and nothing is forgotten.
        table: The SQLite file; None: nothing is remembered.
        rehash: Hash all files.
        trouble: Why the table cannot be used; None if it can.
    """

    def __init__(self, folder: Path | None, table: Path | None, rehash: bool = False) -> None:
        self.folder, self.table, self.rehash = folder, table, rehash
        self.given, self.absolute = str(folder), os.path.abspath(folder or "")  # noqa: PTH100
        self.trouble: str | None = None
        self.known: dict[bytes, Hashed] = {}
        self.met: set[bytes] = set()
        self.new: list[Hashed] = []

    def __enter__(self) -> "HashIndex":
        if self.table and self.table.exists():
            self._careful(lambda table: self.known.update(self._known(table)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        gone = self.known.keys() - self.met if kind is None and self.folder else ()
        if self.new or gone:
            self._careful(lambda table: remember(table, self.new, gone))

    def sha256(self, path: str) -> bytes:
        """Return the SHA-256 of a file's bytes. Raises OSError."""
        if self.folder:
            key = os.fsencode(self.absolute + path[len(self.given) :])
        else:
            key = os.fsencode(os.path.abspath(path))  # noqa: PTH100
        self.met.add(key)
        started = time.time_ns()
        status = os.stat(path)  # noqa: PTH116 - a Path for each of 100,000 files takes its time
        check_regular(status)
        now = stamp_of(status)
        known = None if self.rehash else self.known.get(key)
        if known and known.stamp == now:
            return known.sha256
        with Path(path).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").digest()
        size, mtime_ns, ctime_ns, inode = now
        hashed = Hashed(key, size, mtime_ns, sha256, ctime_ns, inode)
        if hashed.settled(started) and now == stamp_of(os.stat(path)):  # noqa: PTH116
            self.new.append(hashed)
        if len(self.new) >= SAVED_EVERY:
            self._careful(lambda table: remember(table, self.new))
            self.new = []
        return sha256

    def _known(self, table: Path) -> dict[bytes, Hashed]:
        return known_below(table, Path(self.absolute)) if self.folder else known_files(table)

    def _careful(self, use: Callable[[Path], None]) -> None:
        if self.table and not self.trouble:
            try:
                if self.table.exists():
                    check_file(self.table)  # SQLite does not say why it can't open a file
                use(self.table)
            except PermissionError as error:
                self.trouble = (
                    f"{self.table} can't be read: {error.strerror}. Every file was read and hashed."
                )
            except sqlite3.Error as error:
                self.trouble = (
                    f"{self.table} can't be used ({error}): every file was read and hashed; "
                    "delete it, it only saves time"
                )


def known_files(table: Path) -> dict[bytes, Hashed]:
    """Return all that the table has, by path. Raises sqlite3.Error."""
    with _open(table) as database:
        return {row[0]: Hashed(*row) for row in database.execute("SELECT * FROM hashes")}


def key_of(name: str) -> bytes:
    """Return what the table knows a file by: its absolute path, or its URL."""
    return os.fsencode(name if is_url(name) else os.path.abspath(name))  # noqa: PTH100


def known_among(table: Path, names: Sequence[str]) -> dict[str, Hashed]:
    """Return what the table has of some files, by name. Raises sqlite3.Error."""
    if not table.exists():
        return {}
    names_of, found = {key_of(name): name for name in names}, dict[str, Hashed]()
    keys = iter(names_of)
    with _open(table) as database:
        while some := list(islice(keys, ASKED_AT_ONCE)):
            places = ",".join("?" * len(some))
            query = f"SELECT * FROM hashes WHERE path IN ({places})"  # noqa: S608 - question marks
            found |= {names_of[row[0]]: Hashed(*row) for row in database.execute(query, some)}
    return found


def known_below(table: Path, folder: Path) -> dict[bytes, Hashed]:
    """Return what the table has of the files below an absolute folder, by path.

    Raises sqlite3.Error.
    """
    first = os.fsencode(folder / "x")[:-1]
    last = first[:-1] + bytes([first[-1] + 1])
    with _open(table) as database:
        found = database.execute("SELECT * FROM hashes WHERE path > ? AND path < ?", (first, last))
        return {row[0]: Hashed(*row) for row in found}


def remember(table: Path, hashed: Iterable[Hashed], gone: Iterable[bytes] = ()) -> None:
    """Enter files, replacing what was known of them, and forget others.

    Those that were changed just now are left out. Raises sqlite3.Error.
    """
    now = time.time_ns()
    table.parent.mkdir(parents=True, exist_ok=True)
    with _open(table) as database:
        database.executemany("DELETE FROM hashes WHERE path = ?", [(path,) for path in gone])
        database.executemany(
            "INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?, ?)",
            [astuple(h) for h in hashed if h.settled(now)],
        )


@contextmanager
def _open(table: Path) -> Iterator[sqlite3.Connection]:
    """Open the table in one transaction, made if need be; other processes wait for each other."""
    with closing(sqlite3.connect(table, timeout=BUSY_TIMEOUT_S)) as database, database:
        database.execute(SCHEMA)
        database.execute(f"DROP TABLE IF EXISTS {EARLIER}")
        yield database
