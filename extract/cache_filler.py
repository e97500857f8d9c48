"""One cache being filled: pictures gather until they make a batch, which is computed and kept."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from importlib.metadata import version
from platform import node
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cache.errors import Failure
from cache.store import Cache, row_key
from extract.embedder import Embedder
from extract.loader import Decoded, make_batch
from extract.writer import SEGMENT_SECONDS, SegmentWriter

if TYPE_CHECKING:
    from extract.artifact_store import ArtifactStore
    from extract.embedding_spec import EmbeddingSpec


class CacheFiller:
    """Adds decoded files to the cache of one spec.

    The engine is built with the first batch. On leaving, computed rows are committed.

    Attributes:
        embedder: Computes the rows.
        writer: Stores them.
        pending: Decoded files and their view numbers, waiting for a full batch.
        missing: Row keys that the cache lacked at `begin`.
        done: Rows dealt with since `begin`.
        computed: Rows computed since `begin`.
        lost: Rows of images that cannot be read, since `begin`.
        failed: These images, and why.
        several_pages: Files of which only one page was used.
        spent: Seconds by stage since `begin`.
    """

    def __init__(
        self,
        spec: EmbeddingSpec,
        cache: Cache,
        batch_size: int | None,
        artifacts: ArtifactStore | None,
        pool: Executor,
        segment_seconds: float | None = SEGMENT_SECONDS,
    ) -> None:
        self.embedder = Embedder(spec, batch_size, artifacts)
        note = {"weights": spec.backbone.weights}
        self.writer = SegmentWriter(cache, note, pool, segment_seconds)
        self.pending: list[tuple[Decoded, int]] = []  # and which view it shows
        self.begin((), 0, {})

    def __enter__(self) -> CacheFiller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.commit()

    def begin(self, images: Iterable[bytes], views: int, names: Mapping[str, str]) -> None:
        """Find which rows of these images are missing, and reset all counts.

        Args:
            images: SHA-256 of each.
            views: Number of augmented views, besides the clean one.
            names: By path, of files that users know by another name.
        """
        self.names, self.numbers = names, range(views + 1)
        wanted = {row_key(image, number) for image in images for number in self.numbers}
        self.missing = frozenset(self.writer.stored.missing(wanted))
        self.done = self.computed = self.lost = 0
        self.failed: list[Failure] = []
        self.several_pages: list[str] = []
        self.spent: dict[str, float] = defaultdict(float)
        self.written_before = self.writer.write_seconds

    def commit(self) -> None:
        """Write what was computed, and wait until it is safe. Raises OSError."""
        self.writer.close()
        self.spent["write"] = self.writer.write_seconds - self.written_before

    def missing_views(self, image: bytes) -> list[int]:
        """Return the views of an image without a row; others may have written it meanwhile."""
        keys = ((number, row_key(image, number)) for number in self.numbers)
        return [n for n, key in keys if key in self.missing and key not in self.writer.stored]

    def add(self, image: Decoded, key: bytes, waited: float, share: float) -> None:
        """Add the missing views of one file; compute if a batch is complete.

        Args:
            image: The decoded file.
            key: SHA-256 of the image that was expected.
            waited: Seconds.
            share: Of the costs, as others may use the same image.
        """
        cost = {"read": image.read_seconds, "decode": image.decode_seconds, "waiting": waited}
        self._spend(**{stage: seconds * share for stage, seconds in cost.items()})
        numbers = self.missing_views(key)
        if isinstance(image.picture, str):  # it is dealt with, in all views
            self.done += len(numbers) - 1
            self.lost += len(numbers)
            numbers = [0]
        for number in numbers:
            self.pending.append((image.view(number), number))
            if len(self.pending) >= self.embedder.batch_size:
                self.compute()

    def compute(self) -> None:
        """Compute the pending rows, and hand them to the writer.

        NaN or infinity from the backbone is a failure of its image.

        Raises:
            KeyboardInterrupt: the user asked to stop. The rows computed by then are stored.
        """
        views, self.pending = self.pending, []
        batch = make_batch(image for image, _ in views)
        keys = [row_key(i.sha256, n) for i, n in views if not isinstance(i.picture, str)]
        embeddings = self._embed(batch.pixels)
        finite = np.isfinite(embeddings).all(axis=1)
        good, bad = np.flatnonzero(finite), np.flatnonzero(~finite)
        reason = f"{self.embedder.spec.backbone.name} gave NaN or infinity for it"
        failures = [Failure(batch.hashes[i], str(batch.paths[i]), reason) for i in bad]
        distinct = {(f.sha256, f.path): f for f in (*batch.failed, *failures)}
        failed = [replace(f, path=self._name(f.path)) for f in distinct.values()]
        self.writer.add([keys[i] for i in good], embeddings[good], failed)
        self.failed += failed
        self.several_pages += [self._name(str(path)) for path in batch.several_pages]
        self.lost += len(bad)
        self.computed += len(good)
        self.done += len(views)
        if len(embeddings) < len(keys):
            raise KeyboardInterrupt

    def _embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embeddings of a batch, and measure building and computing apart."""
        if not len(pixels):
            return np.empty((0, self.writer.cache.key.embedding_dim), np.float32)
        if self.embedder.backend is None:
            started = time.perf_counter()
            self._build(pixels)
            self._spend(build=time.perf_counter() - started)
        started = time.perf_counter()
        embeddings = self.embedder.embed(pixels)
        self._spend(compute=time.perf_counter() - started)
        return embeddings

    def _name(self, path: str) -> str:
        """Return what the user knows a file by."""
        return self.names.get(path, path)

    def _build(self, pixels: NDArray[np.uint8]) -> None:
        """Build the engine, and note what computes in every segment."""
        backend, deviation = self.embedder.build(pixels), self.embedder.deviation
        libraries = {"torch", "torchvision", "h5py", "numpy", "pillow", backend.package}
        self.writer.note |= {
            "engine": backend.name,
            "host": node(),
            "versions": {name: version(name) for name in sorted(libraries)},
        }
        if deviation:
            when = ", verified earlier" if deviation.earlier else ""
            self.writer.note["deviation from torch fp32"] = f"{deviation.share:.1g}{when}"

    def _spend(self, **seconds: float) -> None:
        for stage, amount in seconds.items():
            self.spent[stage] += amount
            self.writer.spent[stage] += amount
