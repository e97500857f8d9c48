"""Every engine is compared with torch on a few of the images that it is about to embed.

A result is remembered for exactly what was compared: the stored graph's content, the images
computed at once, the cores, the kind of processor and the versions of all packages that compute.
"""

from __future__ import annotations

import logging
import platform
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from cache.errors import DeviceError
from extract.artifact_store import ArtifactStore, Note
from extract.backbones import find_backbone
from extract.backends.backend import TOLERANCES, Backend, build_backend
from extract.devices import usable_cores
from extract.embedding_spec import EmbeddingSpec

IMAGES = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deviation:
    """The largest distance of a row from torch's at fp32, as a share of its length.

    Attributes:
        share: The distance.
        earlier: An earlier command measured it.
    """

    share: float
    earlier: bool


@dataclass(frozen=True)
class _Check(Note):
    deviation: float


def verified_backend(
    spec: EmbeddingSpec,
    batch_size: int,
    pixels: NDArray[np.uint8],
    artifacts: ArtifactStore | None = None,
) -> tuple[Backend, Deviation | None]:
    """Build an engine as `build_backend` does, and compare it with torch as `deviation_of` does.

    A stored graph that differs from torch too much is converted again, and compared again.

    Raises:
        DeviceError: no engine can be built, or it differs from torch too much.
    """
    pixels = pixels[:batch_size]  # it takes no more at once
    built = build_backend(spec, batch_size, artifacts)
    try:
        return built, deviation_of(spec, built, pixels, artifacts)
    except DeviceError:
        artifact = spec.graph_artifact(artifacts)
        if not built.graph or artifact is None or spec.precision == "int8":
            raise
        log.warning("%s differs from torch. The graph is converted again.", artifact.folder)
        artifact.remove()
    built = build_backend(spec, batch_size, artifacts)
    return built, deviation_of(spec, built, pixels, artifacts)


def deviation_of(
    spec: EmbeddingSpec, built: Backend, pixels: NDArray[np.uint8], artifacts: ArtifactStore | None
) -> Deviation | None:
    """Compare an engine with torch on the first images, uint8 [n, 1, 224, 224].

    None for torch at fp32 on the CPU, the reference itself. What was compared before, and is still
    the same in every respect (see the module), is not compared again.

    Raises:
        DeviceError: the deviation is larger than TOLERANCES allows at this precision.
    """
    if (built.name, spec.device, spec.precision) == ("torch", "cpu", "fp32"):
        return None
    limit = TOLERANCES[spec.precision]
    packages = ("torch", built.package, find_backbone(spec.backbone.name).package)
    # A graph that is not stored is another one each time.
    stored = built.name != "openvino" or bool(built.graph)
    artifact = (
        artifacts.artifact(
            f"{spec.backbone.name}-check",
            identity=spec.key.digest,
            engine=built.name,
            graph=built.graph,
            at_once=built.at_once,
            cores=usable_cores(),
            processor=_processor(),
            versions=[version(name) for name in packages],
        )
        if artifacts and stored
        else None
    )
    if artifact and (note := artifact.read(_Check)):
        if 0 <= note.deviation <= limit:
            return Deviation(note.deviation, earlier=True)
        artifact.remove()
    import torch

    few = pixels[:IMAGES]
    with torch.inference_mode():
        reference = spec.backbone.module(torch.from_numpy(few)).numpy()
    if len(rows := built.forward(few)) < len(few):
        raise KeyboardInterrupt
    distance = np.linalg.norm(rows - reference, axis=1)
    deviation = float((distance / np.linalg.norm(reference, axis=1)).max())
    if not deviation <= limit:  # NaN is larger than any limit
        raise DeviceError(
            f"{spec.backbone.name}: {built.name} on {spec.device} at {spec.precision} "
            f"differs from torch at fp32 by {deviation:.2g} of an embedding's length, more than "
            f"{limit:g}. Choose --precision fp32 or another --engine."
        )
    if artifact:
        artifact.fill(lambda folder: None, deviation=deviation)
    return Deviation(deviation, earlier=False)


def _processor() -> str:
    """Name the kind of processor: kernels are chosen by it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            lines = [line for line in file if line.startswith(("model name", "flags"))]
    except OSError:
        lines = []
    return "".join(lines[:2]) or platform.processor()
