"""The data sets whose images have rows in a workspace: what `cache prune` goes by. SQLite.

Unlike the table of hashes, it must not be deleted: without it nobody knows which images are gone.
A record that was begun when rows were there already is not complete, and stays marked so.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cache.errors import CacheError
from extract.sources.image_file import is_remote

FILE = "datasets.sqlite"  # beside the caches
BUSY_TIMEOUT_S = 30
COMPLETE, BEGAN_LATE = 1, 2  # of SQLite's user_version

SCHEMA = """
CREATE TABLE IF NOT EXISTS roots (root BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (
    sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
    root BLOB NOT NULL,
    PRIMARY KEY (sha256, root)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class KnownDatasets:
    """The data sets of a workspace.

    Attributes:
        roots: Where they are, as absolute paths or URLs.
        images: SHA-256 of all they ever held.
    """

    roots: tuple[str, ...]
    images: frozenset[bytes]


def root_of(source: Path) -> str:
    """Return what a data set is recorded as: its absolute path, or URL."""
    return str(source) if is_remote(source) else os.path.abspath(source)  # noqa: PTH100


def record(caches: Path, source: Path | None = None, images: Iterable[bytes] = ()) -> None:
    """Note that a data set and its images have rows below `caches`, before these are written.

    Without a source, only begin. Nothing is recorded of caches behind a URL.

    Raises:
        CacheError: the record can't be used.
    """
    if is_remote(caches):
        return
    caches.mkdir(parents=True, exist_ok=True)
    state = COMPLETE if next(caches.glob("*/*.h5"), None) is None else BEGAN_LATE
    root = os.fsencode(root_of(source)) if source is not None else None
    with _opened(caches) as database:
        if database.execute("PRAGMA user_version").fetchone() == (0,):
            database.execute(f"PRAGMA user_version = {state}")
        if root is not None:
            database.execute("INSERT OR IGNORE INTO roots VALUES (?)", (root,))
            rows = ((sha256, root) for sha256 in images)
            database.executemany("INSERT OR IGNORE INTO images VALUES (?, ?)", rows)


def known_sets(caches: Path) -> KnownDatasets:
    """Return what is recorded.

    Raises:
        CacheError: nothing is, or not from the beginning, or the record is damaged.
    """
    if (caches / FILE).is_file():
        with _opened(caches) as database:
            (state,) = database.execute("PRAGMA user_version").fetchone()
            roots = tuple(os.fsdecode(row[0]) for row in database.execute("SELECT * FROM roots"))
            images = frozenset(row[0] for row in database.execute("SELECT sha256 FROM images"))
        if state == COMPLETE:
            return KnownDatasets(roots, images)
    raise CacheError(
        f"{caches / FILE} does not name every data set with rows here: an earlier version wrote "
        "them, or the file was deleted. Nobody knows which images are gone, so no row is dropped. "
        "To drop rows all the same, delete the caches and run extract again."
    )


def forget(caches: Path, roots: Iterable[str]) -> None:
    """Remove data sets that are gone for good from the record. Raises CacheError."""
    with _opened(caches) as database:
        rows = [(os.fsencode(root),) for root in roots]
        database.executemany("DELETE FROM roots WHERE root = ?", rows)


@contextmanager
def _opened(caches: Path) -> Iterator[sqlite3.Connection]:
    path = caches / FILE
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as database, database:
            database.executescript(SCHEMA)
            yield database
    except sqlite3.Error as error:
        raise CacheError(
            f"{path} can't be used ({error}). It records whose images have rows here. Move it away "
            "and run the same command again; `cache prune` then refuses to drop rows."
        ) from error
