"""The table of what images look like, beside the caches: filled by whoever decodes them. SQLite."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple
from pathlib import Path
from types import TracebackType

from cache.atomic import check_file
from cache.errors import CacheError
from cache.progress import Progress, silent
from extract.batches import Decoded, decoded
from extract.devices import usable_cores
from extract.look import Look
from extract.scan import ImageFile

BUSY_TIMEOUT_S = 30
SAVED_EVERY = 1000  # images; what a kill can cost
AHEAD = 64  # images decoded ahead

SCHEMA = """
CREATE TABLE IF NOT EXISTS looks (
    sha256 BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    bits BLOB NOT NULL CHECK (length(bits) = 8),
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    mode TEXT NOT NULL,
    brightness REAL NOT NULL,
    contrast REAL NOT NULL
) WITHOUT ROWID
"""


class Looks:
    """Gathers looks for the table. It only saves time: if it can't be written, that is no error."""

    def __init__(self, table: Path | None) -> None:
        self.table, self.new = table, dict[bytes, Look]()

    def __enter__(self) -> "Looks":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._save()

    def add(self, image: Decoded) -> None:
        """Remember what a file looks like, if it could be decoded."""
        if image.look:
            self.note(image.sha256, image.look)

    def note(self, sha256: bytes, look: Look) -> None:
        """Remember what an image looks like."""
        if self.table:
            self.new[sha256] = look
        if len(self.new) >= SAVED_EVERY:
            self._save()

    def _save(self) -> None:
        if not self.new or not self.table:
            return
        rows = [(key, *astuple(look)) for key, look in self.new.items()]
        self.new = {}
        try:
            self.table.parent.mkdir(parents=True, exist_ok=True)
            with _open(self.table) as database:
                database.executemany("INSERT OR REPLACE INTO looks VALUES (?,?,?,?,?,?,?)", rows)
        except (sqlite3.Error, OSError):
            self.table = None  # whoever reads it will say what is wrong with it


def looks_of(
    files: Sequence[ImageFile], table: Path, progress: Progress = silent
) -> tuple[dict[bytes, Look], dict[bytes, str]]:
    """Return what files look like, by their hash; those that the table has not are decoded now.

    Also returns of each file that can't be decoded why. progress counts files.

    Raises:
        CacheError: the table can't be used.
    """
    try:
        known = _known(table)
    except OSError as error:
        raise CacheError(f"{table} can't be read: {error.strerror or error}.") from None
    except sqlite3.Error as error:
        raise CacheError(
            f"{table} can't be used ({error}): delete it, it only saves time"
        ) from None
    missing = {file.sha256: file.path for file in files if file.sha256 not in known}
    reasons = dict[bytes, str]()
    with Looks(table) as kept:
        images = decoded(missing.values(), usable_cores(), AHEAD)
        for done, (key, image) in enumerate(zip(missing, images, strict=True), start=1):
            if image.look and image.sha256 == key:
                known[key] = image.look
                kept.add(image)
            else:
                reasons[key] = "it changes while it is read" if image.look else image.failure.reason
            progress(done, len(missing))
    return {f.sha256: known[f.sha256] for f in files if f.sha256 in known}, reasons


def _known(table: Path) -> dict[bytes, Look]:
    if not table.exists():
        return {}
    check_file(table)  # SQLite does not say why it can't open a file
    with _open(table) as database:
        return {row[0]: Look(*row[1:]) for row in database.execute("SELECT * FROM looks")}


@contextmanager
def _open(table: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(table, timeout=BUSY_TIMEOUT_S)) as database, database:
        database.execute(SCHEMA)
        yield database
