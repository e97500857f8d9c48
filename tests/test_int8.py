"""int8: calibrated once per workspace, on images that are part of the identity."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.errors import DatasetError, DeviceError
from cache.store import read
from extract.artifact_store import ArtifactStore, Note
from extract.backends import int8
from extract.backends.backend import usable_engines
from extract.backends.int8 import calibrate
from extract.dataset import scan
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone
from extract.pipeline import RunnerOptions, extract
from extract.sources.image_file import ImageFile

Few = Callable[[int, int], Path]


@pytest.fixture
def spec(toy: LoadedBackbone) -> EmbeddingSpec:
    return EmbeddingSpec(toy, "cpu", usable_engines("cpu", None, "int8"), "int8")


@pytest.fixture
def images(few: Few) -> list[ImageFile]:
    return list(scan(few(6, 1) / "dataset").files)


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "engines")


def test_rows_are_near_those_of_fp32(
    spec: EmbeddingSpec, images: list[ImageFile], artifacts: ArtifactStore, tmp_path: Path
) -> None:
    ready = calibrate(spec, images, artifacts)
    fp32 = replace(spec, precision="fp32")
    rows, exact = (
        read(each.cache)
        for each in extract(
            [ready, fp32], images, tmp_path, options=RunnerOptions(artifacts=artifacts)
        )
    )
    distance = np.linalg.norm(rows - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert 1e-5 < distance.max() < 0.1  # it was int8 indeed


def test_calibrated_once_whatever_images_come_later(
    spec: EmbeddingSpec, images: list[ImageFile], artifacts: ArtifactStore
) -> None:
    first = calibrate(spec, images[:8], artifacts)
    assert first.calibration.startswith("8 images, ")
    assert calibrate(spec, images, artifacts) == first


def test_other_images_are_another_cache(
    spec: EmbeddingSpec, images: list[ImageFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "SAMPLE", 4)
    first, second = (
        calibrate(spec, some, ArtifactStore(tmp_path / name))
        for name, some in (("a", images[:6]), ("b", images[6:]))
    )
    assert first.key.name != second.key.name
    shuffled = calibrate(spec, images[5::-1], ArtifactStore(tmp_path / "c"))
    assert shuffled.key == first.key


def test_a_lost_graph_is_made_again(
    spec: EmbeddingSpec, images: list[ImageFile], artifacts: ArtifactStore
) -> None:
    first = calibrate(spec, images, artifacts)
    artifact = first.graph_artifact(artifacts)
    assert artifact
    shutil.rmtree(artifact.folder)
    assert calibrate(spec, images, artifacts) == first
    assert artifact.read(Note)


def test_another_graph_than_the_calibrated_one_is_made_again(
    spec: EmbeddingSpec,
    images: list[ImageFile],
    artifacts: ArtifactStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Even if its note is right: within what int8 may deviate, no check would find it."""
    first = calibrate(spec, images, artifacts)
    artifact = first.graph_artifact(artifacts)
    assert artifact and (right := artifact.read(Note))
    artifact.remove()

    def write(folder: Path) -> None:
        (folder / "graph.bin").write_bytes(b"other")

    artifact.fill(write)
    assert calibrate(spec, images, artifacts) == first
    assert (again := artifact.read(Note)) and again.files["graph.bin"] == right.files["graph.bin"]
    assert "is not the graph that was calibrated. It is made again." in caplog.text


def test_evaluating_without_the_graph_is_an_error(
    spec: EmbeddingSpec, artifacts: ArtifactStore
) -> None:
    from extract.backends.backend import build_backend

    with pytest.raises(DeviceError, match="Run extract --precision int8 again"):
        build_backend(spec, 4, artifacts)


def test_nothing_to_calibrate_on_is_an_error(
    spec: EmbeddingSpec, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(DatasetError, match="none of the images can be read to calibrate with"):
        calibrate(spec, [ImageFile(tmp_path / "a.png", "a", b"x" * 32)], artifacts)


def test_without_nncf_it_says_what_to_install(
    spec: EmbeddingSpec,
    images: list[ImageFile],
    artifacts: ArtifactStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("extract.backends.int8.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="pip install 'nncf"):
        calibrate(spec, images, artifacts)


@pytest.mark.parametrize("device", ["cuda", "tpu", "xla-cpu"])
def test_other_devices_say_who_can(device: str) -> None:
    with pytest.raises(
        DeviceError, match=f"is not supported by any engine on {device}: --engine openvino can"
    ):
        usable_engines(device, None, "int8")
