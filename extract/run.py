"""The extraction run: every image that has no row yet goes through the backbone, once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cache.errors import UnreadableImageError
from cache.identity import Identity
from cache.progress import Progress, silent
from cache.segments import Failure
from cache.sharing import sharing
from cache.store import Cache, open_cache
from extract import decode
from extract.backbones import BACKBONES
from extract.batches import BATCH_SIZE, Batch, decoded_batches
from extract.engines import ENGINES
from extract.load import LoadedBackbone
from extract.scan import ImageFile
from extract.stopping import stoppable
from extract.writer import SegmentWriter

if TYPE_CHECKING:
    from extract.engines import Forward


@dataclass(frozen=True)
class Extraction:
    """What one extraction did.

    present: images that had a row, or were given one by another process meanwhile. failed: every
    image of this call that has no row, and why. several_pages: files of which one page was used.
    """

    cache: Cache
    computed: int
    present: int
    failed: tuple[Failure, ...]
    several_pages: tuple[Path, ...]


def identity_of(name: str, weights_sha256: str, device: str, precision: str) -> Identity:
    """Return the identity of the cache that a backbone with these weights fills on this device."""
    entry = BACKBONES[name]
    return Identity(
        backbone=name,
        weights_sha256=weights_sha256,
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
    strict: bool = False,
) -> Extraction:
    """Compute the rows that the cache below `root` lacks, in segments, and say what was done.

    Segments are committed as the run goes on and whenever it ends: finished, asked to stop (after
    the batch it is at), or stopped by an error. Other processes may fill the same cache meanwhile.
    The engine is built only if a row is missing. strict: stop at the first unreadable image.

    Raises:
        CacheError: a segment is damaged.
        UnreadableImageError: an image can't be read, and `strict`.
        KeyboardInterrupt: the user asked to stop; what was computed is kept.
        OSError: the disk is full, or the cache can't be written.
    """
    identity = identity_of(backbone.name, backbone.weights_sha256, device, precision)
    cache = open_cache(root, identity)
    unique = {image.sha256: image for image in images}
    computed, failed, several_pages = 0, list[Failure](), list[Path]()
    with sharing(cache.folder) as alone, stoppable() as asked_to_stop:
        writer = SegmentWriter(cache, engine, backbone.weights)
        missing = [image for key, image in unique.items() if key not in writer.stored]
        if not alone:  # two that go the same way would do the same work
            random.shuffle(missing)
        forward: Forward | None = None
        try:
            for done, batch in _batches(missing, writer):
                if forward is None and batch.hashes:
                    forward = ENGINES[engine].build(backbone.module, device, precision, BATCH_SIZE)
                new = _compute(batch, forward, writer)
                computed += len(batch.paths) + len(batch.failed) - len(new)
                failed += new
                several_pages += batch.several_pages
                progress(done, len(missing))
                if strict and failed:
                    raise UnreadableImageError(f"{failed[0].path}: {failed[0].reason} (--strict)")
                if asked_to_stop():
                    break
        finally:
            writer.commit()
    present = len(unique) - computed - len(failed)
    return Extraction(cache, computed, present, tuple(failed), tuple(several_pages))


def _batches(missing: Sequence[ImageFile], writer: SegmentWriter) -> Iterator[tuple[int, Batch]]:
    """Decode what is missing, but for what others commit meanwhile; yield (images done, batch)."""
    done = 0

    def paths() -> Iterator[Path]:
        nonlocal done
        for image in missing:
            if image.sha256 in writer.stored:
                done += 1
            else:
                yield image.path

    with closing(decoded_batches(paths(), BATCH_SIZE)) as batches:
        for batch in batches:
            done += len(batch.paths) + len(batch.failed)
            yield done, batch


def _compute(batch: Batch, forward: Forward | None, writer: SegmentWriter) -> list[Failure]:
    """Compute and keep a batch; return its failures, a NaN from the backbone being one."""
    shape = (0, writer.cache.identity.embedding_dim)
    embeddings = forward(batch.pixels) if forward and batch.hashes else np.empty(shape, np.float32)
    finite = np.isfinite(embeddings).all(axis=1)
    failed = list(batch.failed)
    for i in np.flatnonzero(~finite):
        reason = f"{writer.cache.identity.backbone} gave NaN or infinity for it"
        failed.append(Failure(batch.hashes[i], str(batch.paths[i]), reason))
    kept = [batch.hashes[i] for i in np.flatnonzero(finite)]
    writer.add(kept, embeddings[finite], failed)
    return failed
