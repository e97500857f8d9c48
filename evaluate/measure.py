"""Backbone and head as one model again, measured from the image file to the label."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from torch import nn

from cache.errors import DatasetError, WeightsError
from cache.identity import Identity
from cache.progress import Progress, silent
from cache.segments import Failure
from extract.backbones import WEIGHTS_WORDS
from extract.batches import BATCHES_AHEAD, Batch, batches, decoded
from extract.devices import usable_cores
from extract.engines import build_engine
from extract.kept import Shelf
from extract.load import LoadedBackbone, load_backbone
from extract.stem import WholeModel
from extract.target import Target, target_of

WARM_UP = 4  # images, before anything is timed


@dataclass(frozen=True)
class Measurement:
    """engine: what computed. trouble: engines that could not be built, and why. paths, hashes: the
    N files that could be decoded. logits: float32 [N, C]. seconds: for all
    files, from file to label, after warm-up, until the last label was there. warmup_seconds:
    building the engine and the first batch, compilation included.
    """

    engine: str
    trouble: tuple[str, ...]
    paths: tuple[Path, ...]
    hashes: tuple[bytes, ...]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float64]
    failed: tuple[Failure, ...]
    seconds: float
    warmup_seconds: float


def reload_backbone(identity: Identity, weights_label: str, weights: str) -> LoadedBackbone:
    """Load the very backbone that an identity was made with.

    weights_label: where the weights came from then. weights: the `--weights` of now; a path there
    is where weights from a file are looked for.

    Raises:
        WeightsError: those weights can't be had, or are others than then.
    """
    kind, _, detail = weights_label.partition(":")
    if weights in ("imagenet", "random") and weights != kind:
        raise WeightsError(
            f"--weights {weights}: {identity.backbone} was extracted with {weights_label}: leave "
            "the option out, or run extract and train-heads with other weights"
        )
    if kind == "file":
        if weights in WEIGHTS_WORDS:
            raise WeightsError(
                f"{identity.backbone} was extracted with weights from a file ({detail}): "
                f"say where it lies with --weights PATH/{detail}"
            )
        loaded = load_backbone(identity.backbone, weights)
    else:
        loaded = load_backbone(identity.backbone, kind, int(detail or 0))
    now = target_of(identity, loaded, ()).identity
    if differences := identity.differences(now):
        raise WeightsError(
            f"{identity.backbone}: its heads were trained on a cache ({weights_label}) that is not "
            f"what it would give now ({loaded.weights}): {'; '.join(differences)}. "
            "Give --weights, or run extract and train-heads again"
        )
    return loaded


def assemble(backbone: LoadedBackbone, head: nn.Module) -> nn.Module:
    """Put the whole model together, in eval mode."""
    return WholeModel(backbone.module, head).eval()


def measure(
    target: Target,
    head: nn.Module,
    paths: Sequence[Path],
    progress: Progress = silent,
    shelf: Shelf | None = None,
) -> Measurement:
    """Put a target's backbone and a head together, and run them over image files, decoding each.

    Raises:
        DeviceError: no engine of the target can be built.
        DatasetError: none of the files can be decoded.
    """
    started = time.perf_counter()
    # Batches of one size, so that none is filled up: 22 images go as 11 + 11, not as 16 + 6.
    batch_size = ceil(len(paths) / ceil(len(paths) / target.batch_size))
    model = assemble(target.backbone, head)
    slot = target.slot(shelf)
    built = build_engine(target.engines, model, target.device, target.precision, batch_size, slot)
    for first in _batches(paths[:WARM_UP], batch_size, target.fast):
        if len(first.pixels):
            built.forward(first.pixels)
    warm = time.perf_counter()
    done, logits = list[Batch](), []
    for batch in _batches(paths, batch_size, target.fast):
        if len(batch.pixels):
            logits.append(built.forward(batch.pixels))
        done.append(batch)
        progress(min(len(done) * batch_size, len(paths)), len(paths))
    if not logits:
        raise DatasetError(f"none of the {len(paths)} test images can be read: see extract's list")
    probabilities = softmax(np.concatenate(logits).astype(np.float64), axis=1)
    return Measurement(
        engine=built.name,
        trouble=built.trouble,
        paths=tuple(path for batch in done for path in batch.paths),
        hashes=tuple(key for batch in done for key in batch.hashes),
        logits=np.concatenate(logits),
        probabilities=probabilities,
        failed=tuple(failure for batch in done for failure in batch.failed),
        seconds=time.perf_counter() - warm,
        warmup_seconds=warm - started,
    )


def _batches(paths: Sequence[Path], batch_size: int, fast: bool) -> Iterator[Batch]:
    return batches(decoded(paths, usable_cores(), BATCHES_AHEAD * batch_size, fast), batch_size)
