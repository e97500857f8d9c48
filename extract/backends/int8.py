"""int8: a backbone's graph quantised after training, with ranges taken from some of the images."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import DatasetError, DeviceError
from extract.artifact_store import ArtifactStore, Note
from extract.backends.openvino import convert, import_openvino, save, stored_graph
from extract.devices import usable_cores
from extract.loader import decode_files, make_batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from extract.embedding_spec import EmbeddingSpec
    from extract.imaging.preprocessing import Preprocessing
    from extract.sources.image_file import ImageFile

log = logging.getLogger(__name__)

SAMPLE = 128  # images that the ranges are taken from


def calibrate(
    spec: EmbeddingSpec, images: Sequence[ImageFile], artifacts: ArtifactStore
) -> EmbeddingSpec:
    """Return the spec with its calibration, after Jacob et al. 2018, by NNCF.

    A backbone is calibrated once per workspace: images that come later change nothing, and rows go
    into the same cache. Deleting the kept engines means calibrating again, which is another cache.

    Raises:
        DeviceError: NNCF is not installed.
        DatasetError: no image can be read.
    """
    pointer = spec.calibration_artifact(artifacts)
    if note := pointer.read(_Calibration):
        known = replace(spec, calibration=note.calibration)
        artifact = known.graph_artifact(artifacts)
        if artifact and (graph := artifact.read(Note)):
            if graph.digest == note.graph:
                return known
            log.warning(
                "%s is not the graph that was calibrated. It is made again.", artifact.folder
            )
            artifact.remove()
        pointer.remove()
    if find_spec("nncf") is None:
        raise DeviceError("--precision int8 needs NNCF: pip install 'nncf>=3.0'")
    pixels, name = _sample(images, spec.preprocessing)
    new = replace(spec, calibration=name)
    artifact = new.graph_artifact(artifacts)
    fp32 = replace(spec, precision="fp32").graph_artifact(artifacts)
    assert artifact  # noqa: S101 - a store has an artifact for every spec
    graph = stored_graph(fp32) or convert(spec.backbone.module)
    artifact.fill(partial(save, _quantised(graph, pixels)))
    filled = artifact.read(Note)
    pointer.fill(lambda folder: None, calibration=name, graph=filled.digest if filled else "")
    return new


@dataclass(frozen=True)
class _Calibration(Note):
    """Note beside a quantised graph.

    Attributes:
        calibration: The images, as `EmbeddingSpec` names them.
        graph: SHA-256 of the quantised graph.
    """

    calibration: str
    graph: str


def _sample(
    images: Sequence[ImageFile], preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], str]:
    """Decode the images with the smallest hashes: a random choice, and the same in any order."""
    files = {image.sha256: image.path for image in images}
    paths = (files[key] for key in sorted(files))
    readable = (
        image
        for image in decode_files(paths, usable_cores(), SAMPLE, preprocessing)
        if not isinstance(image.picture, str)
    )
    chosen = make_batch(islice(readable, SAMPLE))
    if not chosen.hashes:
        raise DatasetError("--precision int8: none of the images can be read to calibrate with")
    digest = sha256(b"".join(chosen.hashes)).hexdigest()
    return chosen.pixels, f"{len(chosen.hashes)} images, {digest[:16]}"


def _quantised(graph: Any, pixels: NDArray[np.uint8]) -> Any:
    import_openvino()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # no CUDA: no matter
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)  # not set_log_level: it changes the handlers
    with redirect_stdout(io.StringIO()):  # its own progress bars
        images = nncf.Dataset([pixels[i : i + 1] for i in range(len(pixels))])
        return nncf.quantize(graph, images, subset_size=len(pixels))
