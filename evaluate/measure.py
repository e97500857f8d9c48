"""Backbone and head as one model again, measured from the image file to the label."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn

from cache.errors import DatasetError, WeightsError
from cache.identity import Identity
from cache.progress import Progress, silent
from cache.segments import Failure
from extract.backbones import WEIGHTS_WORDS
from extract.batches import BATCH_SIZE, decoded_batches
from extract.engines import ENGINES
from extract.load import LoadedBackbone, load_backbone
from extract.run import identity_of


@dataclass(frozen=True)
class Measurement:
    """paths, hashes: the N files that could be decoded. logits: float32 [N, C]. seconds: for all
    files, from file to label, after warm-up, until the last label was there. warmup_seconds:
    building the engine and the first batch, compilation included.
    """

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
    now = identity_of(loaded.name, loaded.weights_sha256, identity.device, identity.precision)
    if differences := identity.differences(now):
        raise WeightsError(
            f"{identity.backbone}: its heads were trained on a cache ({weights_label}) that is not "
            f"what it would give now ({loaded.weights}): {'; '.join(differences)}. "
            "Give --weights, or run extract and train-heads again"
        )
    return loaded


class WholeModel(nn.Module):
    """Backbone and head as one: uint8 [B, 1, 224, 224] → logits float32 [B, C].

    The head computes in fp32, as it was trained, whatever the backbone's precision.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        embeddings = self.backbone(images).float()
        with torch.autocast(embeddings.device.type, enabled=False):
            logits: Tensor = self.head(embeddings)
        return logits


def assemble(backbone: LoadedBackbone, head: nn.Module) -> nn.Module:
    """Put the whole model together, in eval mode."""
    return WholeModel(backbone.module, head).eval()


def measure(
    model: nn.Module,
    paths: Sequence[Path],
    device: str,
    engine: str,
    precision: str,
    progress: Progress = silent,
) -> Measurement:
    """Run a whole model over image files, decoding each anew.

    Raises:
        DatasetError: none of the files can be decoded.
    """
    started = time.perf_counter()
    # Batches of one size, so that none is filled up: 22 images go as 11 + 11, not as 16 + 6.
    batch_size = ceil(len(paths) / ceil(len(paths) / BATCH_SIZE))
    forward = ENGINES[engine].build(model, device, precision, batch_size)
    for first in decoded_batches(paths[:batch_size], batch_size):
        if len(first.pixels):
            forward(first.pixels)
    warm = time.perf_counter()
    batches, logits = [], []
    for number, batch in enumerate(decoded_batches(paths, batch_size), start=1):
        if len(batch.pixels):
            logits.append(forward(batch.pixels))
        batches.append(batch)
        progress(min(number * batch_size, len(paths)), len(paths))
    if not logits:
        raise DatasetError(f"none of the {len(paths)} test images can be read: see extract's list")
    probabilities = softmax(np.concatenate(logits).astype(np.float64), axis=1)
    return Measurement(
        paths=tuple(path for batch in batches for path in batch.paths),
        hashes=tuple(key for batch in batches for key in batch.hashes),
        logits=np.concatenate(logits),
        probabilities=probabilities,
        failed=tuple(failure for batch in batches for failure in batch.failed),
        seconds=time.perf_counter() - warm,
        warmup_seconds=warm - started,
    )
