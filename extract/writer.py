"""Rows gathered and committed a segment at a time, beside others who may do the same."""

import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import Executor, Future
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheError, Failure
from cache.key_set import KeySet
from cache.segment import Rows, read_each_header, write_segment
from cache.store import Cache, first_failures, read_headers, row_keys, split_row_key

SEGMENT_ROWS = 1024  # with the seconds below, what a kill can cost at most; 16 MiB of vgg16
SEGMENT_SECONDS = 60.0


class SegmentWriter:
    """Collects rows until they make a segment; knows which rows the cache already has.

    A segment is written in `pool` while the next one's rows are collected: one at a time, so that
    at most two are in memory.

    Attributes:
        cache: To write into.
        note: Goes into each segment's provenance.
        pool: Of one thread.
        seconds: After how long rows become a segment even if they are few. None: segments are cut
            by the number of rows only, with all failures in the last one, so that the same rows in
            the same order always make the same files.
        stored: The `row_key` of every row as of the last `refresh`, whoever wrote it.
        known_failures: SHA-256 of every image with a stored failure, likewise.
        write_seconds: Spent on writing.
        spent: Seconds by stage, of the rows collected now.
    """

    def __init__(
        self,
        cache: Cache,
        note: dict[str, Any],
        pool: Executor,
        seconds: float | None = SEGMENT_SECONDS,
    ) -> None:
        self.cache, self.note, self.pool, self.seconds = cache, note, pool, seconds
        self.writing: Future[None] | None = None
        self.write_seconds = self.noted_write_seconds = 0.0
        segments = read_headers(cache)
        self.seen = {path for path, _ in segments}
        self.stored = KeySet((header.hashes, header.views) for _, header in segments)
        self.known_failures = self.stored.missing(first_failures(segments))
        self._begin({}, {})

    def refresh(self) -> None:
        """Learn what other processes have committed meanwhile."""
        paths = [path for path in self.cache.segments if path not in self.seen]
        self.seen.update(paths)
        for header in read_each_header(paths):
            if isinstance(header, CacheError):
                # Compacted away, or damaged. Its next reader reports it; here a row twice does
                # no harm, and an error would cost the rows not yet written.
                continue
            self.stored.update(row_keys(header))
            self.known_failures.update(failure.sha256 for failure in header.failures)

    def add(
        self,
        keys: Iterable[bytes],
        embeddings: NDArray[np.float32],
        failed: Iterable[Failure],
    ) -> None:
        """Keep a batch of rows, by `row_key`, float32 [n, D]; commit if it is time to. Raises as
        `commit` does.
        """
        # One update, so that a Ctrl-C finds a batch kept whole or not at all.
        self.rows.update(zip(keys, embeddings, strict=True))
        self.failures.update((f.sha256, f) for f in failed if f.sha256)
        while len(self.rows) >= SEGMENT_ROWS:
            self._commit(SEGMENT_ROWS, {} if self.seconds is None else self.failures)
        if self.seconds is not None and time.perf_counter() - self.started >= self.seconds:
            self.commit()

    def commit(self) -> None:
        """Begin to write what is new as one segment, and wait for the one before.

        Raises:
            OSError: that one could not be written: the disk is full, or the cache is read-only. Its
                rows are lost then, and no others.
        """
        self._commit(len(self.rows), self.failures)

    def close(self) -> None:
        """Commit what is left, and wait until it is written. Raises as `commit` does.

        The writer can be used again then; an error is raised once.
        """
        try:
            self.commit()
        finally:
            last, self.writing = self.writing, None
            if last:
                last.result()

    def _commit(self, count: int, failures: dict[bytes, Failure]) -> None:
        rows, spent = dict(islice(self.rows.items(), count)), self.spent
        rest = dict(islice(self.rows.items(), count, None))
        self._begin(rest, {key: f for key, f in self.failures.items() if key not in failures})
        before = self.writing
        self.writing = self.pool.submit(self._write, rows, failures, spent)
        if before:
            before.result()

    def _write(
        self,
        rows: dict[bytes, NDArray[np.float32]],
        failures: dict[bytes, Failure],
        spent: dict[str, float],
    ) -> None:
        if not rows and not failures:
            return
        started = time.perf_counter()
        self.refresh()
        rows = {key: row for key, row in rows.items() if key not in self.stored}
        new = [failure for key, failure in failures.items() if key not in self.known_failures]
        if not rows and not new:
            return
        images, views = zip(*map(split_row_key, rows), strict=True) if rows else ((), ())
        hashes = np.frombuffer(b"".join(images), np.uint8).reshape(-1, 32)
        shape = (len(rows), self.cache.key.embedding_dim)
        embeddings = np.array(list(rows.values()), np.float32).reshape(shape)
        segment = Rows(hashes, np.array(views, np.uint16), embeddings)
        # Of one pass for several backbones, each has what it computed and its share of waiting.
        # How long writing takes is known only afterwards: it goes into the next segment's note.
        note = {
            **self.note,
            "rows": len(rows),
            "seconds": spent["compute"] + spent["waiting"],
            "stages": {**spent, "write": self.write_seconds - self.noted_write_seconds},
        }
        self.noted_write_seconds = self.write_seconds
        self.seen.add(write_segment(self.cache.folder, self.cache.key, segment, new, note))
        self.stored.update(rows)
        self.known_failures.update(failure.sha256 for failure in new)
        self.write_seconds += time.perf_counter() - started

    def _begin(
        self, rows: dict[bytes, NDArray[np.float32]], failures: dict[bytes, Failure]
    ) -> None:
        """Begin the next segment with these."""
        self.started = time.perf_counter()
        self.rows, self.failures = rows, failures
        self.spent: dict[str, float] = defaultdict(float)
