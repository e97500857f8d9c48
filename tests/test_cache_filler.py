"""One pass for many backbones, at the same time reading, computing and writing."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from cache.errors import DeviceError
from cache.store import read, summarize
from extract import loader as batches_module
from extract.artifact_store import ArtifactStore, Note
from extract.backends.backend import ENGINES, Engine
from extract.dataset import scan
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone, load_backbone
from extract.imaging.decode import FAST_INTERPOLATION_RULE, decode_gray
from extract.imaging.preprocessing import Preprocessing
from extract.loader import decode_files
from extract.pipeline import RunnerOptions, extract
from extract.sources.image_file import ImageFile
from extract.timings import advice, describe_stages, sum_stages

Few = Callable[[int, int], Path]


def images(data: Path) -> list[ImageFile]:
    return list(scan(data / "dataset").files)


def on_torch(backbone: LoadedBackbone, fast: bool = False) -> EmbeddingSpec:
    return EmbeddingSpec(backbone, "cpu", ("torch",), "fp32", Preprocessing(fast))


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is decoded from now on."""
    seen: list[bytes] = []

    def counted(data: bytes, preprocessing: Preprocessing, numbers: Sequence[int]) -> object:
        seen.append(data)
        return decode_gray(data, preprocessing, numbers)

    monkeypatch.setattr(batches_module, "decode_gray", counted)
    return seen


def test_each_image_is_decoded_once_for_all_backbones(
    toy: LoadedBackbone, few: Few, tmp_path: Path, decodings: list[bytes]
) -> None:
    files = images(few(6, 1))
    specs = [on_torch(toy), on_torch(load_backbone("toy", "random", 1))]
    done = extract(specs, files, tmp_path, options=RunnerOptions(batch_size=4))
    assert [each.computed for each in done] == [12, 12]
    assert len(decodings) == 12
    for spec, each in zip(specs, done, strict=True):
        (alone,) = extract([spec], files, tmp_path / "alone", options=RunnerOptions(batch_size=4))
        assert np.array_equal(read(alone.cache), read(each.cache))


def test_a_backbone_gets_only_what_it_lacks(
    toy: LoadedBackbone, few: Few, tmp_path: Path, decodings: list[bytes]
) -> None:
    files, other = images(few(6, 1)), load_backbone("toy", "random", 1)
    extract([on_torch(toy)], files[:8], tmp_path)
    extract([on_torch(other)], files[:5], tmp_path)
    decodings.clear()
    first, second = extract([on_torch(toy), on_torch(other)], files, tmp_path)
    assert (first.computed, second.computed, len(decodings)) == (4, 7, 7)
    decodings.clear()
    again = extract([on_torch(toy), on_torch(other)], files, tmp_path)
    assert [each.computed for each in again] == [0, 0]
    assert not decodings


def test_decoding_stays_a_bounded_number_of_images_ahead(few: Few) -> None:
    """So memory is flat, however many images there are."""
    taken = 0

    def paths() -> Iterator[Path]:
        nonlocal taken
        for file in images(few(8, 1)):
            taken += 1
            yield file.path

    source = decode_files(paths(), workers=2, ahead=3)
    for given, image in enumerate(source, start=1):
        assert image.picture
        assert taken <= given + 3
    assert taken == 16


def test_leaving_early_starts_nothing_more(few: Few, decodings: list[bytes]) -> None:
    source = decode_files((file.path for file in images(few(8, 1))), workers=1, ahead=8)
    next(source)
    source.close()
    assert len(decodings) < 16
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_an_error_of_the_writer_surfaces(
    toy: LoadedBackbone, few: Few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("extract.writer.write_segment", full)
    with pytest.raises(OSError, match="No space left"):
        extract([on_torch(toy)], images(few(3, 1)), tmp_path)


def test_an_error_of_one_backbone_keeps_what_the_others_did(
    toy: LoadedBackbone, few: Few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*arguments: object) -> object:
        raise DeviceError("its driver crashed")

    monkeypatch.setitem(ENGINES, "openvino", Engine("openvino", ("fp32",), build))  # type: ignore[arg-type]
    broken = EmbeddingSpec(load_backbone("toy", "random", 1), "cpu", ("openvino",), "fp32")
    with pytest.raises(DeviceError, match="its driver crashed"):
        extract(
            [on_torch(toy), broken],
            images(few(4, 1)),
            tmp_path,
            options=RunnerOptions(batch_size=4),
        )
    found = summarize(next(iter([extract([on_torch(toy)], [], tmp_path)[0].cache])))
    assert len(found.stored) == 4


def test_a_default_engine_that_cant_be_built_gives_way_aloud(
    toy: LoadedBackbone, few: Few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*arguments: object) -> object:
        raise RuntimeError("no kernel for this")

    monkeypatch.setitem(ENGINES, "openvino", Engine("openvino", ("fp32",), build))  # type: ignore[arg-type]
    files = images(few(2, 1))
    (done,) = extract(
        [EmbeddingSpec(toy, "cpu", ("openvino", "torch"), "fp32")], files, tmp_path / "a"
    )
    assert (done.engine, done.computed) == ("torch", 4)
    assert done.trouble == ("the engine openvino can't be built on cpu: no kernel for this",)
    assert summarize(done.cache).provenance["engine"] == "torch"
    with pytest.raises(DeviceError, match="no kernel for this; choose another --engine"):
        extract([EmbeddingSpec(toy, "cpu", ("openvino",), "fp32")], files, tmp_path / "b")


def test_a_kept_graph_gives_the_same_rows(toy: LoadedBackbone, few: Few, tmp_path: Path) -> None:
    files, artifacts = images(few(3, 1)), ArtifactStore(tmp_path / "engines")
    spec = EmbeddingSpec(toy, "cpu", ("openvino",), "fp32")
    rows = []
    for name in "ab":
        (done,) = extract(
            [spec], files, tmp_path / name, options=RunnerOptions(artifacts=artifacts)
        )
        rows.append(read(done.cache))
    artifact = spec.graph_artifact(artifacts)
    assert artifact and artifact.read(Note)
    assert np.array_equal(rows[0], rows[1])


def test_fast_decoding_is_another_cache(toy: LoadedBackbone) -> None:
    fast = on_torch(toy, fast=True).key
    assert fast.differences(on_torch(toy).key) == [
        f"interpolation: {FAST_INTERPOLATION_RULE!r}, not 'Pillow bilinear, antialiased'"
    ]


def test_stages_are_noted_and_told(toy: LoadedBackbone, few: Few, tmp_path: Path) -> None:
    started = time.perf_counter()
    (done,) = extract([on_torch(toy)], images(few(8, 1)), tmp_path)
    elapsed = time.perf_counter() - started
    assert {"read", "decode", "build", "compute", "write", "waiting"} == done.spent.keys()
    assert 0 < done.spent["build"] + done.spent["compute"] + done.spent["waiting"] < elapsed
    noted = summarize(done.cache).provenance["stages"]
    assert noted["compute"] == pytest.approx(done.spent["compute"])


@pytest.mark.parametrize(
    ("spent", "said"),
    [
        ({"compute": 9.0, "waiting": 1.0}, "compute-bound"),
        ({"compute": 1.0, "waiting": 9.0, "decode": 15.0, "read": 1.0}, "decode-bound"),
        ({"compute": 1.0, "waiting": 9.0, "decode": 1.0, "read": 15.0}, "read-bound"),
    ],
)
def test_the_advice_names_what_limited_the_run(spent: dict[str, float], said: str) -> None:
    assert advice(sum_stages([spent])).startswith(said)
    assert f"compute {spent['compute']:.1f} s" in describe_stages(spent)
