"""Rows gathered and committed a segment at a time, beside others who may do the same."""

import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from platform import node

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheError
from cache.segments import Failure, Rows, read_header, write_segment
from cache.store import Cache, as_keys, contents
from extract.engines import ENGINES

SEGMENT_ROWS = 1024  # with the seconds below, what a kill can cost at most; 16 MiB of vgg16
SEGMENT_SECONDS = 60.0


class SegmentWriter:
    """Keeps rows until they make a segment; knows which rows the cache already has.

    stored: SHA-256 of every image with a row, as of the last commit, whoever wrote it.
    """

    def __init__(self, cache: Cache, engine: str, weights: str) -> None:
        libraries = {"torch", "torchvision", "h5py", "numpy", "pillow", ENGINES[engine].package}
        self.provenance = {
            "weights": weights,
            "engine": engine,
            "host": node(),
            "versions": {name: version(name) for name in sorted(libraries)},
        }
        self.cache = cache
        self.seen = set(cache.segments)
        held = contents(cache)
        self.stored = set(held.stored)
        self.known_failures = set(held.failures)
        self._clear()

    def add(
        self,
        hashes: Iterable[bytes],
        embeddings: NDArray[np.float32],
        failed: Iterable[Failure],
    ) -> None:
        """Keep a batch, float32 [n, D]; commit if it is time to."""
        # One update, so that a Ctrl-C finds a batch kept whole or not at all.
        self.rows.update(zip(hashes, embeddings, strict=True))
        self.failures.update((f.sha256, f) for f in failed if f.sha256)
        due = time.perf_counter() - self.started >= SEGMENT_SECONDS
        if due or len(self.rows) >= SEGMENT_ROWS:
            self.commit()

    def commit(self) -> None:
        """Write what is new as one segment; nothing where there is nothing.

        Raises:
            OSError: the disk is full, or the cache can't be written. What was kept is lost then.
        """
        rows, failures, seconds = self.rows, self.failures, time.perf_counter() - self.started
        self._clear()
        self._look_around()
        rows = {key: row for key, row in rows.items() if key not in self.stored}
        new = [failure for key, failure in failures.items() if key not in self.known_failures]
        if not rows and not new:
            return
        hashes = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32)
        shape = (len(rows), self.cache.identity.embedding_dim)
        embeddings = np.array(list(rows.values()), np.float32).reshape(shape)
        segment = Rows(hashes, np.zeros(len(rows), np.uint16), embeddings)
        note = {**self.provenance, "rows": len(rows), "seconds": seconds}
        self.seen.add(write_segment(self.cache.folder, self.cache.identity, segment, new, note))
        self.stored.update(rows)
        self.known_failures.update(failure.sha256 for failure in new)

    def _look_around(self) -> None:
        """Learn which rows other processes have committed meanwhile."""
        for path in set(self.cache.segments) - self.seen:
            self.seen.add(path)
            self.stored.update(_hashes(path))

    def _clear(self) -> None:
        self.started = time.perf_counter()
        self.rows: dict[bytes, NDArray[np.float32]] = {}
        self.failures: dict[bytes, Failure] = {}


def _hashes(path: Path) -> list[bytes]:
    try:
        header = read_header(path)
    except CacheError:
        # Compacted away, or damaged. Whoever reads it next is told; here a row twice does no harm,
        # and an error would cost the rows not yet written.
        return []
    return as_keys(header.hashes[header.views == 0])
