"""The table of what images look like, beside the caches: filled by whoever decodes them. SQLite."""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple
from itertools import islice
from pathlib import Path
from types import TracebackType

from cache.errors import CacheError
from cache.files import check_file
from cache.progress import Progress, silent
from extract.devices import usable_cores
from extract.imaging.image_stats import ImageStats
from extract.imaging.preprocessing import FULL_SCALE, Preprocessing
from extract.loader import Decoded, decode_files
from extract.sources.image_file import ImageFile

BUSY_TIMEOUT_S = 30
SAVED_EVERY = 1000  # images; what a kill can cost
AHEAD = 64  # images decoded ahead
ASKED_AT_ONCE = 1000  # of SQLite's 32766

# An older table, `looks`, lacks the last three columns.
SCHEMA = """
CREATE TABLE IF NOT EXISTS image_stats (
    sha256 BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    bits BLOB NOT NULL CHECK (length(bits) = 8),
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    mode TEXT NOT NULL,
    brightness REAL NOT NULL,
    contrast REAL NOT NULL,
    full_scale INTEGER NOT NULL,
    largest INTEGER NOT NULL,
    white INTEGER NOT NULL
) WITHOUT ROWID
"""


INSERT = "INSERT OR REPLACE INTO image_stats VALUES (?,?,?,?,?,?,?,?,?,?)"


class ImageIndex:
    """Gathers looks for the table. It only saves time: if it can't be written, that is no error."""

    def __init__(self, table: Path | None) -> None:
        self.table, self.new = table, dict[bytes, ImageStats]()

    def __enter__(self) -> "ImageIndex":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._save()

    def add(self, image: Decoded) -> None:
        """Remember what a file looks like, if it could be decoded."""
        if image.stats:
            self.note(image.sha256, image.stats)

    def note(self, sha256: bytes, stats: ImageStats) -> None:
        """Remember what an image looks like."""
        if self.table:
            self.new[sha256] = stats
        if len(self.new) >= SAVED_EVERY:
            self._save()

    def _save(self) -> None:
        if not self.new or not self.table:
            return
        rows = [(key, *astuple(stats)) for key, stats in self.new.items()]
        self.new = {}
        try:
            self.table.parent.mkdir(parents=True, exist_ok=True)
            with _open(self.table) as database:
                database.executemany(INSERT, rows)
        except (sqlite3.Error, OSError):
            self.table = None  # whoever reads it will say what is wrong with it


def stats_of(
    files: Sequence[ImageFile],
    table: Path,
    progress: Progress = silent,
    full_scale: int | None = FULL_SCALE,
) -> tuple[dict[bytes, ImageStats], dict[bytes, str]]:
    """Return the statistics of files; those that the table lacks are decoded now.

    Args:
        files: The images.
        table: The SQLite file.
        progress: Counts files.
        full_scale: Of the decoding; None: any, as only what is stored matters.

    Returns:
        Statistics by SHA-256, and by SHA-256 why a file cannot be decoded.

    Raises:
        CacheError: the table cannot be used.
    """
    known = known_stats({file.sha256 for file in files}, table, full_scale)
    missing = {file.sha256: file.path for file in files if file.sha256 not in known}
    reasons = dict[bytes, str]()
    with ImageIndex(table) as index:
        preprocessing = Preprocessing(full_scale=full_scale or FULL_SCALE)
        images = decode_files(missing.values(), usable_cores(), AHEAD, preprocessing)
        for done, (key, image) in enumerate(zip(missing, images, strict=True), start=1):
            if image.stats and image.sha256 == key:
                known[key] = image.stats
                index.add(image)
            else:
                reasons[key] = (
                    "it changes while it is read" if image.stats else image.failure.reason
                )
            progress(done, len(missing))
    return {f.sha256: known[f.sha256] for f in files if f.sha256 in known}, reasons


def known_stats(
    keys: Collection[bytes], table: Path, full_scale: int | None = FULL_SCALE
) -> dict[bytes, ImageStats]:
    """Return the statistics that the table has of some images, by SHA-256.

    Args:
        keys: SHA-256 of each.
        table: The SQLite file.
        full_scale: See `stats_of`.

    Raises:
        CacheError: the table cannot be used.
    """
    try:
        return _known(table, keys, full_scale)
    except OSError as error:
        raise CacheError(f"{table} can't be read: {error.strerror or error}.") from None
    except sqlite3.Error as error:
        raise CacheError(
            f"{table} can't be used ({error}): delete it, it only saves time"
        ) from None


def _known(table: Path, keys: Collection[bytes], full_scale: int | None) -> dict[bytes, ImageStats]:
    stats_by_key = dict[bytes, ImageStats]()
    if not table.exists():
        return stats_by_key
    check_file(table)  # SQLite does not say why it can't open a file
    uri = f"{table.absolute().as_uri()}?mode=ro"  # a workspace may be read-only
    with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as database:
        if not database.execute(
            "SELECT * FROM sqlite_master WHERE name = 'image_stats'"
        ).fetchall():
            return stats_by_key
        remaining = iter(keys)
        while some := list(islice(remaining, ASKED_AT_ONCE)):
            question_marks = ",".join("?" * len(some))
            query = f"SELECT * FROM image_stats WHERE sha256 IN ({question_marks})"  # noqa: S608 - ?
            for key, *values in database.execute(query, some):
                stats = ImageStats(*values)
                if full_scale is None or stats.white == min(stats.full_scale, full_scale):
                    stats_by_key[key] = stats
    return stats_by_key


@contextmanager
def _open(table: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(table, timeout=BUSY_TIMEOUT_S)) as database, database:
        database.execute(SCHEMA)
        yield database
