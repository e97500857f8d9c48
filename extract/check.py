"""Every engine is held against torch on a few of the images that it is about to embed."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cache.errors import DeviceError
from extract.engines import ENGINES, TOLERANCES
from extract.kept import Shelf
from extract.target import Target

if TYPE_CHECKING:
    from extract.engines import Forward

IMAGES = 4


def deviation_from_torch(
    target: Target, engine: str, forward: Forward, pixels: NDArray[np.uint8], shelf: Shelf | None
) -> float | None:
    """Return the largest distance of a row from torch's at fp32, as a share of its length.

    None for torch at fp32 on the CPU, the reference itself. An engine once checked on this kind of
    machine is not checked again: the result is kept on the shelf. pixels: uint8 [n, 1, 224, 224].

    Raises:
        DeviceError: it is larger than TOLERANCES allows at this precision.
    """
    if (engine, target.device, target.precision) == ("torch", "cpu", "fp32"):
        return None
    slot = shelf and shelf.slot(
        f"{target.backbone.name}-check",
        identity=target.identity.digest,
        engine=engine,
        batch_size=target.batch_size,
        processor=_processor(),
        versions=[version(name) for name in ("torch", ENGINES[engine].package)],
    )
    if slot and (note := slot.read()):
        return float(note["deviation"])
    import torch

    few = pixels[:IMAGES]
    with torch.inference_mode():
        reference = target.backbone.module(torch.from_numpy(few)).numpy()
    distance = np.linalg.norm(forward(few) - reference, axis=1)
    deviation = float((distance / np.linalg.norm(reference, axis=1)).max())
    limit = TOLERANCES[target.precision]
    if not deviation <= limit:  # NaN is larger than any limit
        raise DeviceError(
            f"{target.backbone.name}: {engine} on {target.device} at {target.precision} differs "
            f"from torch at fp32 by {deviation:.2g} of an embedding's length, more than {limit:g}: "
            "choose --precision fp32 or another --engine"
        )
    if slot:
        slot.fill(lambda folder: None, deviation=deviation)
    return deviation


def _processor() -> str:
    """Name the kind of processor: kernels are chosen by it."""
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            lines = [line for line in file if line.startswith(("model name", "flags"))]
    except OSError:
        lines = []
    return "".join(lines[:2]) or platform.processor()
