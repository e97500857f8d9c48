"""Backbone and head as one model again, measured from the image file to the label."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from cache.errors import DatasetError, Failure
from cache.progress import Progress, silent
from extract.artifact_store import ArtifactStore
from extract.devices import usable_cores
from extract.embedder import Embedder
from extract.embedding_spec import EmbeddingSpec
from extract.imaging.preprocessing import Preprocessing
from extract.loader import BATCHES_AHEAD, NOTHING, Batch, decode_files, make_batches
from heads.store import TrainedHead

WARM_UP = 4  # images, before anything is timed


@dataclass(frozen=True)
class Answers:
    """What one head gave: logits float32 [N, C].

    Attributes:
        seconds: Its own, for all of them.
    """

    logits: NDArray[np.float32]
    seconds: float

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """[N, C]; each row sums to 1."""
        probabilities: NDArray[np.float64] = softmax(self.logits.astype(np.float64), axis=1)
        return probabilities


@dataclass(frozen=True)
class Measurement:
    """A backbone and its heads, assembled.

    Attributes:
        engine: What computed the backbone.
        trouble: Engines that could not be built, and why.
        paths, hashes: The N files that could be decoded.
        seconds: For all files, from file to embedding, after warm-up; a whole model takes these and
            its head's.
        warmup_seconds: Building the engine and the first batch, compilation included.
        answers: Of each head.
    """

    engine: str
    trouble: tuple[str, ...]
    paths: tuple[Path, ...]
    hashes: tuple[bytes, ...]
    failed: tuple[Failure, ...]
    seconds: float
    warmup_seconds: float
    answers: tuple[Answers, ...]


def measure(
    spec: EmbeddingSpec,
    heads: Sequence[TrainedHead],
    paths: Sequence[Path],
    progress: Progress = silent,
    artifacts: ArtifactStore | None = None,
    hashes: Mapping[Path, bytes] = NOTHING,
) -> Measurement:
    """Run a spec's backbone over image files, decoding each, and every head behind it.

    Heads compute in fp32, as they were trained, whatever the backbone's precision.

    Args:
        hashes: SHA-256 by path; a file with other bytes is among those that failed.

    Raises:
        DeviceError: no engine of the spec can be built.
        DatasetError: none of the files can be decoded.
    """
    started = time.perf_counter()
    # Batches of one size, so that none is filled up: 22 images go as 11 + 11, not as 16 + 6.
    batch_size = ceil(len(paths) / ceil(len(paths) / spec.batch_size))
    embedder = Embedder(spec, batch_size, artifacts)
    for first in _batches(paths[:WARM_UP], batch_size, spec.preprocessing, hashes):
        if len(first.pixels):
            embeddings = embedder.embed(first.pixels)
            for head in heads:
                _answer(head, [embeddings])
    warm = time.perf_counter()
    done, rows = list[Batch](), list[NDArray[np.float32]]()
    for batch in _batches(paths, batch_size, spec.preprocessing, hashes):
        if len(batch.pixels):
            rows.append(embedder.embed(batch.pixels))
        done.append(batch)
        progress(min(len(done) * batch_size, len(paths)), len(paths))
    seconds = time.perf_counter() - warm
    backend = embedder.backend
    if backend is None:
        raise DatasetError(f"none of the {len(paths)} test images can be read: see extract's list")
    return Measurement(
        engine=backend.name,
        trouble=backend.trouble,
        paths=tuple(path for batch in done for path in batch.paths),
        hashes=tuple(key for batch in done for key in batch.hashes),
        failed=tuple(failure for batch in done for failure in batch.failed),
        seconds=seconds,
        warmup_seconds=warm - started,
        # Afterwards, so that no head is timed beside the decoding of the next batch.
        answers=tuple(_answer(head, rows) for head in heads),
    )


def _answer(head: TrainedHead, batches: Sequence[NDArray[np.float32]]) -> Answers:
    """Return a head's logits for some batches of embeddings, and how many seconds they took."""
    started = time.perf_counter()
    logits = [head.logits(batch) for batch in batches]
    return Answers(np.concatenate(logits), time.perf_counter() - started)


def _batches(
    paths: Sequence[Path],
    batch_size: int,
    preprocessing: Preprocessing,
    hashes: Mapping[Path, bytes],
) -> Iterator[Batch]:
    ahead = BATCHES_AHEAD * batch_size
    images = decode_files(paths, usable_cores(), ahead, preprocessing, expected=hashes)
    return make_batches(images, batch_size)
