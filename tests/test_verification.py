"""No engine is believed before it agreed with torch on real images."""

import json
import re
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cache.errors import DeviceError
from cache.store import read
from extract import artifact_store
from extract.artifact_store import ArtifactStore
from extract.backends.backend import ENGINES, TOLERANCES, Backend
from extract.backends.verification import deviation_of, verified_backend
from extract.dataset import scan
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone, load_backbone
from extract.pipeline import RunnerOptions, extract
from tests.conftest import ROOT

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 1, 224, 224), dtype=np.uint8)


def spec(toy: LoadedBackbone, precision: str = "fp32") -> EmbeddingSpec:
    return EmbeddingSpec(toy, "cpu", ("openvino", "torch"), precision)


def off_by(toy: LoadedBackbone, share: float, graph: str = "a") -> Backend:
    exact = ENGINES["torch"].build(toy, "cpu", "fp32", 6, None)

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return exact(images) * np.float32(1 + share)

    return Backend("openvino", forward, at_once=4, graph=graph)


def test_torch_at_fp32_is_the_reference(toy: LoadedBackbone) -> None:
    torch = Backend("torch", off_by(toy, 9).forward)
    assert deviation_of(spec(toy), torch, PIXELS, None) is None


@pytest.mark.parametrize("precision", TOLERANCES)
def test_the_deviation_is_measured_and_limited(toy: LoadedBackbone, precision: str) -> None:
    limit, wanted = TOLERANCES[precision], spec(toy, precision)
    found = deviation_of(wanted, off_by(toy, limit / 2), PIXELS, None)
    assert found and found.share == pytest.approx(limit / 2, rel=0.05) and not found.earlier
    with pytest.raises(
        DeviceError, match=f"toy: openvino on cpu at {precision} differs from torch"
    ):
        deviation_of(wanted, off_by(toy, limit * 2), PIXELS, None)
    with pytest.raises(DeviceError, match="by nan"):
        deviation_of(wanted, off_by(toy, float("nan")), PIXELS, None)


def test_a_result_is_remembered_for_the_very_same_engine(
    toy: LoadedBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts, precise, rough = ArtifactStore(tmp_path), off_by(toy, 3e-5), off_by(toy, 6e-5)

    def share(built: Backend, precision: str = "fp32") -> tuple[int, bool]:
        found = deviation_of(spec(toy, precision), built, PIXELS, artifacts)
        assert found
        return round(found.share * 1e5), found.earlier

    assert share(precise) == (3, False)
    assert share(rough) == (3, True)  # they claim to be the same
    assert share(off_by(toy, 6e-5, graph="b")) == (6, False)
    assert share(Backend("openvino", rough.forward, at_once=1, graph="a")) == (6, False)
    assert share(rough, "bf16") == (6, False)
    assert [share(off_by(toy, 6e-5, graph="")) for _ in "ab"] == [(6, False)] * 2  # not stored
    monkeypatch.setattr("extract.backends.verification.version", lambda name: "of tomorrow")
    assert share(rough) == (6, False)
    monkeypatch.setattr("extract.backends.verification.usable_cores", lambda: 77)
    assert share(precise) == (3, False)


def test_a_module_first_made_for_the_comparison_still_has_gradients(tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path)
    load_backbone("efficientnet_lite0", "imagenet", artifacts=artifacts)
    again = load_backbone("efficientnet_lite0", "imagenet", artifacts=artifacts)  # not made yet
    with torch.inference_mode():
        _ = again.module
    assert not any(each.is_inference() for each in again.module.parameters())


@pytest.mark.parametrize("harm", ["weights", "everything"])
def test_a_shuffled_graph_is_converted_again_before_a_row_is_written(
    harm: str, toy: LoadedBackbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where every checksum in its note was rewritten."""
    artifacts, files = ArtifactStore(tmp_path / "engines"), scan(ROOT / "test_images").files[:8]
    wanted = EmbeddingSpec(toy, "cpu", ("openvino",), "fp32")
    (right,) = extract([wanted], files, tmp_path / "a", options=RunnerOptions(artifacts=artifacts))
    (again,) = extract([wanted], files, tmp_path / "b", options=RunnerOptions(artifacts=artifacts))
    assert (right.verified_earlier, again.verified_earlier) == (False, True)
    assert again.deviation == right.deviation
    artifact = wanted.graph_artifact(artifacts)
    assert artifact
    weights = artifact.folder / "graph.bin"
    data = bytearray(weights.read_bytes())
    if harm == "weights":  # most of the convolution's 1176: it can be compiled as before
        values = np.frombuffer(data, np.float32, count=1000, offset=256)
        values[:] = np.random.default_rng(0).permutation(values)
    else:
        data.reverse()
    weights.write_bytes(data)
    path = artifact.folder / artifact_store.NOTE
    note = json.loads(path.read_text())
    note["files"]["graph.bin"] = sha256(weights.read_bytes()).hexdigest()
    del note[artifact_store.CHECKSUM]
    path.write_text(json.dumps(note | {artifact_store.CHECKSUM: artifact_store._checksum(note)}))
    (after,) = extract([wanted], files, tmp_path / "c", options=RunnerOptions(artifacts=artifacts))
    assert re.search(f"{artifact.folder} .*The graph is converted again", caplog.text)
    assert after.deviation == right.deviation
    assert np.array_equal(read(after.cache), read(right.cache))


def test_single_images_and_batches_are_verified_apart(toy: LoadedBackbone, tmp_path: Path) -> None:
    """They are compiled apart: timing computes one image at a time."""
    artifacts, wanted = (
        ArtifactStore(tmp_path / "engines"),
        EmbeddingSpec(toy, "cpu", ("openvino",), "fp32"),
    )
    found = [verified_backend(wanted, size, PIXELS, artifacts)[1] for size in (32, 16, 1, 1)]
    assert [deviation and deviation.earlier for deviation in found] == [False, True, False, True]
