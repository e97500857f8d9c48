"""The extraction run: every image that has no row yet goes through the backbone, once."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from platform import node
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cache.errors import UnreadableImageError
from cache.identity import Identity
from cache.progress import Progress, silent
from cache.segments import Failure, Rows, write_segment
from cache.store import Cache, contents, open_cache
from extract import decode
from extract.backbones import BACKBONES
from extract.engines import ENGINES
from extract.load import LoadedBackbone
from extract.scan import ImageFile

if TYPE_CHECKING:
    from extract.engines import Forward

BATCH_SIZE = 16
SEGMENT_ROWS = 1024  # what a kill can cost at most; 16 MiB of vgg16
DECODERS = 4  # threads; Pillow releases the GIL while it decodes


@dataclass(frozen=True)
class Extraction:
    """What one extraction did. failed: every image of this call that has no row, and why."""

    cache: Cache
    computed: int
    present: int
    failed: tuple[Failure, ...]


def identity_of(backbone: LoadedBackbone, device: str, precision: str) -> Identity:
    """Return the identity of the cache that this backbone fills on this device."""
    entry = BACKBONES[backbone.name]
    return Identity(
        backbone=backbone.name,
        weights_sha256=backbone.weights_sha256,
        embedding_dim=entry.dim,
        gray=decode.GRAY_RULE,
        bit_depth=decode.BIT_DEPTH_RULE,
        fit=decode.FIT_RULE,
        interpolation=decode.INTERPOLATION_RULE,
        size=decode.SIZE,
        mean=entry.mean,
        std=entry.std,
        views="0: clean",
        precision=precision,
        device=device,
    )


def extract(
    backbone: LoadedBackbone,
    images: Sequence[ImageFile],
    root: Path,
    device: str,
    engine: str,
    precision: str,
    progress: Progress = silent,
) -> Extraction:
    """Compute the rows that the cache below `root` lacks, in segments, and say what was done.

    A segment is committed every `SEGMENT_ROWS` rows and whenever the loop ends: finished,
    interrupted by Ctrl-C, or stopped by an error. The engine is built only if a row is missing.

    Raises:
        CacheError: a segment is damaged.
        OSError: the disk is full, or the cache can't be written.
    """
    cache = open_cache(root, identity_of(backbone, device, precision))
    unique = {image.sha256: image for image in images}
    held = contents(cache)
    present = held.stored & unique.keys()
    missing = [image for key, image in unique.items() if key not in present]
    if not missing:
        return Extraction(cache, 0, len(present), ())
    forward = ENGINES[engine].build(backbone.module, device, precision, BATCH_SIZE)
    made_by = {"weights": backbone.weights, "engine": engine, "host": node()}
    writer = _SegmentWriter(cache, made_by, held.failures.keys())
    computed, failed = 0, list[Failure]()
    try:
        for done, batch in decoded_batches([image.path for image in missing]):
            failed += writer.add(batch, forward)
            computed = done - len(failed)
            progress(done, len(missing))
    finally:
        writer.commit()
    return Extraction(cache, computed, len(present), tuple(failed))


@dataclass(frozen=True)
class Batch:
    """Decoded images: SHA-256 of the bytes decoded, pixels uint8 [n, 1, 224, 224], the paths that
    gave them, and the files that gave none.
    """

    hashes: tuple[bytes, ...]
    pixels: NDArray[np.uint8]
    paths: tuple[Path, ...]
    failed: tuple[Failure, ...]


def decoded_batches(paths: Sequence[Path]) -> Iterator[tuple[int, Batch]]:
    """Read and decode files, one batch ahead of the caller; yield (files done, batch)."""
    with ThreadPoolExecutor(DECODERS) as pool:
        ahead: list[Future[tuple[bytes, NDArray[np.uint8] | str]]] = []
        for start in range(0, len(paths) + BATCH_SIZE, BATCH_SIZE):
            current, ahead = (
                ahead,
                [pool.submit(_decode, p) for p in paths[start : start + BATCH_SIZE]],
            )
            if current:
                yield (
                    min(start, len(paths)),
                    _batch(paths[start - BATCH_SIZE : start], [f.result() for f in current]),
                )


def _decode(path: Path) -> tuple[bytes, NDArray[np.uint8] | str]:
    """Return the hash of the bytes that were decoded, and the pixels or why there are none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return b"", error.strerror or str(error)
    try:
        return sha256(data).digest(), decode.decode_gray(data)
    except UnreadableImageError as error:
        return sha256(data).digest(), str(error)


def _batch(
    paths: Sequence[Path], decoded: Sequence[tuple[bytes, NDArray[np.uint8] | str]]
) -> Batch:
    good = [
        (key, pixels, p)
        for p, (key, pixels) in zip(paths, decoded, strict=True)
        if not isinstance(pixels, str)
    ]
    failed = [
        Failure(key, str(p), why)
        for p, (key, why) in zip(paths, decoded, strict=True)
        if isinstance(why, str)
    ]
    shape = (len(good), 1, decode.SIZE, decode.SIZE)
    return Batch(
        hashes=tuple(key for key, _, _ in good),
        pixels=np.array([pixels for _, pixels, _ in good], dtype=np.uint8).reshape(shape),
        paths=tuple(p for _, _, p in good),
        failed=tuple(failed),
    )


class _SegmentWriter:
    """Gathers rows and commits them a segment at a time."""

    def __init__(
        self, cache: Cache, provenance: dict[str, str], known_failures: Collection[bytes]
    ) -> None:
        libraries = {"torch", "torchvision", "h5py", "numpy", "pillow"}
        libraries.add(ENGINES[provenance["engine"]].package)
        versions = {name: version(name) for name in sorted(libraries)}
        self.cache = cache
        self.provenance = {**provenance, "versions": versions}
        self.known_failures = known_failures
        self.dim = cache.identity.embedding_dim
        self._clear()

    def add(self, batch: Batch, forward: Forward) -> tuple[Failure, ...]:
        """Compute and keep a batch; return its failures, a NaN from the backbone being one."""
        embeddings = forward(batch.pixels) if batch.hashes else np.empty((0, self.dim), np.float32)
        finite = np.isfinite(embeddings).all(axis=1)
        failed = batch.failed + tuple(
            Failure(
                batch.hashes[i], str(batch.paths[i]), "the backbone gave NaN or infinity for it"
            )
            for i in np.flatnonzero(~finite)
        )
        new = [f for f in failed if f.sha256 and f.sha256 not in self.known_failures]
        hashes = np.frombuffer(b"".join(batch.hashes), dtype=np.uint8).reshape(-1, 32)
        # One append, so that a Ctrl-C finds a batch kept whole or not at all.
        self.kept.append((hashes[finite], embeddings[finite], new))
        if sum(len(hashes) for hashes, _, _ in self.kept) >= SEGMENT_ROWS:
            self.commit()
        return failed

    def commit(self) -> None:
        """Write what was kept as one segment; nothing where there is nothing."""
        failed = [failure for _, _, new in self.kept for failure in new]
        hashes = np.concatenate([np.empty((0, 32), np.uint8), *(h for h, _, _ in self.kept)])
        embeddings = np.concatenate(
            [np.empty((0, self.dim), np.float32), *(e for _, e, _ in self.kept)]
        )
        if len(hashes) or failed:
            rows = Rows(hashes, np.zeros(len(hashes), dtype=np.uint16), embeddings)
            seconds = time.perf_counter() - self.started
            note = {**self.provenance, "rows": len(hashes), "seconds": seconds}
            write_segment(self.cache.folder, self.cache.identity, rows, failed, note)
        self._clear()

    def _clear(self) -> None:
        self.started = time.perf_counter()
        self.kept: list[tuple[NDArray[np.uint8], NDArray[np.float32], list[Failure]]] = []
