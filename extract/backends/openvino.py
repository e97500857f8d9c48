"""A module as an OpenVINO graph: converted once, kept, and run a few images at a time."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
from collections import deque
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import DeviceError
from cache.files import asking_for_space
from extract.artifact_store import Note
from extract.backends.forward import padded
from extract.devices import usable_cores
from extract.imaging.decode import SIZE
from extract.signals import asked_to_stop

# torch is imported only where a graph must be made: with a kept one, it is not needed at all.
if TYPE_CHECKING:
    import torch
    from torch import nn

    from extract.artifact_store import Artifact
    from extract.backends.forward import Forward
    from extract.embedding_spec import LoadedBackbone

log = logging.getLogger(__name__)

GRAPH = "graph.xml"  # and graph.bin, its weights
# Images that one core computes at once. Measured on 2 cores for the four backbones: 4 images per
# core and one core each is the fastest or within 2 % of it, up to 1.3 times a whole batch on all
# cores (what is computed stays in the core's cache, and no core waits for another). A single image
# would wait four times as long for it: it is computed alone, by all cores.
CHUNK = 4
# Unpinned, OpenVINO computes in bf16 wherever the processor can.
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def build(
    backbone: LoadedBackbone, precision: str, batch_size: int, artifact: Artifact | None
) -> Forward:
    """Return the engine, compiled for all cores, from the stored graph or a new one.

    Built for one image at a time, it answers soonest; for more, it computes most in a second.

    Raises:
        DeviceError: the int8 graph is not stored any more.
    """
    chunk, streams = chunk_of(batch_size), 1 if batch_size == 1 else usable_cores()
    compiled = _compiled_from_store(artifact, precision, chunk, streams)
    if compiled is None:
        compiled = _compiled(_converted(backbone, precision, artifact), precision, chunk, streams)
    # Not an AsyncInferQueue: destroyed while one of its callbacks ends, it deadlocks.
    requests = [compiled.create_infer_request() for _ in range(2 * streams)]
    return partial(_forward, requests, chunk, compiled.output(0).shape[1])


def _compiled_from_store(
    artifact: Artifact | None, precision: str, chunk: int, streams: int
) -> Any | None:
    """Return the stored graph compiled; None if none is stored, or it can't be compiled."""
    if artifact is None:
        return None
    try:
        graph = stored_graph(artifact)
        return graph and _compiled(graph, precision, chunk, streams)
    except RuntimeError:  # it is not what was stored, though its checksums are right
        log.warning("%s can't be compiled. The graph is converted again.", artifact.folder)
        artifact.remove()
        return None


def _converted(backbone: LoadedBackbone, precision: str, artifact: Artifact | None) -> Any:
    """Convert the module, and store the graph. Raises DeviceError for int8."""
    if precision == "int8":
        raise DeviceError(
            "The int8 graph is not stored any more. Run extract --precision int8 again."
        )
    graph = convert(backbone.module)
    if artifact:
        # Compiled from what is stored, the first time too: the compiler would round otherwise.
        artifact.fill(partial(save, graph))
        graph = stored_graph(artifact) or graph
    return graph


def _forward(
    requests: Sequence[Any], chunk: int, dim: int, images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Compute embeddings, float32 [n, dim], `chunk` images per request; see `Forward`."""
    output = np.empty((len(images), dim), np.float32)
    running: deque[tuple[Any, int]] = deque()

    def collect() -> None:
        request, start = running.popleft()
        request.wait()
        rows = output[start : start + chunk]
        rows[:] = request.get_output_tensor().data[: len(rows)]

    for number, start in enumerate(range(0, len(images), chunk)):
        if number and asked_to_stop():
            output = output[:start]
            break
        if len(running) == len(requests):
            collect()
        request = requests[number % len(requests)]
        request.start_async([padded(images[start : start + chunk], chunk)])
        running.append((request, start))
    while running:
        collect()
    return output


def _compiled(graph: Any, precision: str, chunk: int, streams: int) -> Any:
    graph.reshape([chunk, 1, SIZE, SIZE])
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": usable_cores(),
    }
    return openvino_core().compile_model(graph, "CPU", settings)


def chunk_of(batch_size: int) -> int:
    """Return how many images one core computes at once, in an engine built for so many."""
    return 1 if batch_size == 1 else CHUNK


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would report every import and conversion."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@cache
def openvino_core() -> Any:
    """Return the one OpenVINO Core of this process.

    A Core gives the thread that made it a stack for signal handlers, and frees it when it is
    destroyed. Destroyed by another thread, it leaves the first one with a freed stack, and the
    next Ctrl-C ends in a segmentation fault (openvino, src/plugins/intel_cpu/src/plugin.cpp,
    SigAltStackSetup). So it is never destroyed.
    """
    return import_openvino().Core()


def convert(backbone: nn.Module) -> Any:
    """Make a graph of any number of images: uint8 [?, 1, 224, 224] → float32 [?, D]."""
    import torch

    openvino = import_openvino()
    example = torch.zeros((1, 1, SIZE, SIZE), dtype=torch.uint8)
    return openvino.convert_model(_traced(backbone, example), input=[-1, 1, SIZE, SIZE])


def save(graph: Any, folder: Path) -> None:
    """Write a graph with its weights as they are; OpenVINO's default is to halve them.

    OpenVINO reports no full disk: it is asked for beforehand.

    Raises:
        OSError: the disk is full.
    """
    constants = (node for node in graph.get_ops() if node.get_type_name() == "Constant")
    needed = sum(node.data.nbytes for node in constants)
    with asking_for_space(folder / GRAPH, needed):
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    import_openvino().save_model(graph, folder / GRAPH, compress_to_fp16=False)


def stored_graph(artifact: Artifact | None) -> Any | None:
    """Return the graph that is stored here, or None."""
    if artifact is None or artifact.read(Note) is None:
        return None
    return openvino_core().read_model(artifact.folder / GRAPH)


def _traced(module: nn.Module, example: torch.Tensor) -> Any:
    """Record what a module computes; OpenVINO's own way to do it runs the module three times."""
    import torch

    with torch.inference_mode(False), torch.no_grad():
        return torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
