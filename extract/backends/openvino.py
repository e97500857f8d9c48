"""A module as an OpenVINO graph: converted once, kept, and run a few images at a time."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
from collections import deque
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


def build(  # noqa: C901
    backbone: LoadedBackbone, precision: str, batch_size: int, artifact: Artifact | None
) -> Forward:
    """Convert or find, compile for all cores, and return the engine; see `engines.Engine`.

    Built for one image at a time, it answers soonest; for more, it computes most in a second.
    """
    core = openvino_core()
    chunk, streams = chunk_of(batch_size), 1 if batch_size == 1 else usable_cores()
    compiled = None
    try:
        if graph := kept_graph(core, artifact):
            compiled = _compiled(core, graph, precision, chunk, streams)
    except RuntimeError:  # it is not what was stored, though its checksums are right
        assert artifact  # noqa: S101 - it came from there
        log.warning("%s can't be compiled. The graph is converted again.", artifact.folder)
        artifact.remove()
    if compiled is None:
        if precision == "int8":
            raise DeviceError(
                "the int8 graph is not among the kept engines any more: run extract "
                "--precision int8 again"
            )
        graph = convert(backbone.module)
        if artifact:
            # Compiled from what is kept, the first time too: the compiler rounds otherwise else.
            artifact.fill(partial(save, graph))
            graph = kept_graph(core, artifact) or graph
        compiled = _compiled(core, graph, precision, chunk, streams)
    # Not an AsyncInferQueue: destroyed while one of its callbacks ends, it deadlocks.
    requests = [compiled.create_infer_request() for _ in range(2 * streams)]
    dim = compiled.output(0).shape[1]

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        output = np.empty((len(images), dim), np.float32)
        under_way: deque[tuple[Any, int]] = deque()

        def take() -> None:
            request, start = under_way.popleft()
            request.wait()
            rows = output[start : start + chunk]
            rows[:] = request.get_output_tensor().data[: len(rows)]

        for number, start in enumerate(range(0, len(images), chunk)):
            if number and asked_to_stop():
                output = output[:start]
                break
            if len(under_way) == len(requests):
                take()
            request = requests[number % len(requests)]
            request.start_async([padded(images[start : start + chunk], chunk)])
            under_way.append((request, start))
        while under_way:
            take()
        return output

    return forward


def _compiled(core: Any, graph: Any, precision: str, chunk: int, streams: int) -> Any:
    graph.reshape([chunk, 1, SIZE, SIZE])
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": usable_cores(),
    }
    return core.compile_model(graph, "CPU", settings)


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


def kept_graph(core: Any, artifact: Artifact | None) -> Any | None:
    """Return the graph that was kept here, or None."""
    return core.read_model(artifact.folder / GRAPH) if artifact and artifact.read(Note) else None


def _traced(module: nn.Module, example: torch.Tensor) -> Any:
    """Record what a module computes; OpenVINO's own way to do it runs the module three times."""
    import torch

    with torch.inference_mode(False), torch.no_grad():
        return torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
