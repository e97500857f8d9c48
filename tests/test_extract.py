"""The extraction run: each image once; resuming, growing and failing cost only what they must."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cache.errors import FrostlineError
from cache.segment import read_header
from cache.store import find_caches, read, summarize
from extract.backends.backend import ENGINES
from extract.dataset import scan
from extract.embedding_spec import LoadedBackbone, load_backbone
from extract.imaging.decode import decode_gray
from extract.pipeline import Extraction
from extract.sources.image_file import ImageFile
from tests.toy import extract_one

Few = Callable[[int, int], Path]


def images(data: Path) -> list[ImageFile]:
    return [*scan(data / "dataset").files, *scan(data / "test_images").files]


def go(backbone: LoadedBackbone, data: Path, root: Path, **settings: object) -> Extraction:
    return extract_one(backbone, images(data), root, **settings)  # type: ignore[arg-type]


def test_rows_are_the_backbones_answer_for_each_image(
    toy: LoadedBackbone, few: Few, tmp_path: Path
) -> None:
    done = go(toy, few(10, 2), tmp_path)
    assert (done.computed, done.present, done.failed) == (24, 0, ())
    forward = ENGINES["torch"].build(toy, "cpu", "fp32", 1, None)
    for file in images(tmp_path / "data"):
        alone = forward(decode_gray(file.path.read_bytes()).pixels[np.newaxis])
        np.testing.assert_allclose(read(done.cache, [file.sha256]), alone, rtol=1e-5, atol=1e-6)


def test_the_second_run_computes_nothing_and_builds_no_engine(
    toy: LoadedBackbone, few: Few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(toy, few(3, 1), tmp_path)
    monkeypatch.setattr("extract.backends.backend.ENGINES", {})
    again = go(toy, tmp_path / "data", tmp_path)
    assert (again.computed, again.present) == (0, 8)


def test_one_more_image_computes_one(
    toy: LoadedBackbone, few: Few, tmp_path: Path, gel: Path
) -> None:
    data = few(3, 1)
    go(toy, data, tmp_path)
    shutil.copy(gel / "dataset" / "gel" / "gel_20.png", data / "dataset" / "gel" / "new.png")
    assert go(toy, data, tmp_path).computed == 1


def test_moving_relabelling_and_copying_compute_nothing(
    toy: LoadedBackbone, few: Few, tmp_path: Path
) -> None:
    data = few(3, 1)
    go(toy, data, tmp_path)
    first = next((data / "dataset" / "gel").iterdir())
    shutil.copy(first, data / "dataset" / "gel" / "copy.jpg")
    first.rename(data / "dataset" / "not_gel" / "moved.jpg")
    assert go(toy, data, tmp_path).computed == 0


def test_ctrl_c_keeps_every_finished_batch(
    toy: LoadedBackbone, few: Few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def interrupt(done: int, total: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(toy, few(8, 1), tmp_path, progress=interrupt, batch_size=4)
    again = go(toy, tmp_path / "data", tmp_path)
    assert (again.present, again.computed) == (8, 10)
    whole = go(toy, tmp_path / "data", tmp_path / "uninterrupted")
    hashes = [file.sha256 for file in images(tmp_path / "data")]
    assert np.array_equal(read(again.cache, hashes), read(whole.cache, hashes))


def test_a_bad_image_costs_one_row_and_is_remembered_once(
    toy: LoadedBackbone, few: Few, tmp_path: Path
) -> None:
    data = few(3, 1)
    (data / "dataset" / "gel" / "empty.png").touch()
    (data / "dataset" / "gel" / "text.png").write_text("no picture")
    done = go(toy, data, tmp_path)
    assert done.computed == 8
    assert sorted(f.reason for f in done.failed) == [
        "not an image of a known format",
        "the file is empty",
    ]
    again = go(toy, data, tmp_path)
    assert (again.computed, len(again.failed)) == (0, 2)
    assert len(again.cache.segments) == 1
    assert {Path(f.path).name for f in summarize(again.cache).failures.values()} == {
        "empty.png",
        "text.png",
    }


def test_nan_from_the_backbone_is_a_failure_of_that_image(
    toy: LoadedBackbone, few: Few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*arguments: object) -> Callable[[np.ndarray], np.ndarray]:
        def forward(pixels: np.ndarray) -> np.ndarray:
            embeddings = np.ones((len(pixels), 8), np.float32)
            embeddings[0, 3] = np.nan
            return embeddings

        return forward

    from extract.backends.backend import Engine

    monkeypatch.setitem(ENGINES, "torch", Engine("torch", ("fp32",), build))
    done = go(toy, few(3, 1), tmp_path)
    assert (done.computed, len(done.failed)) == (7, 1)
    assert "NaN" in done.failed[0].reason
    assert len(summarize(done.cache).stored) == 7


def test_an_error_in_the_middle_keeps_what_was_done(
    toy: LoadedBackbone, few: Few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.writer.SEGMENT_ROWS", 4)

    def stop(done: int, total: int) -> None:
        if done == 12:
            raise FrostlineError("a driver crashed")

    with pytest.raises(FrostlineError):
        go(toy, few(8, 1), tmp_path, progress=stop, batch_size=4)
    assert len(summarize(find_caches(tmp_path)[0]).stored) == 12
    assert len(find_caches(tmp_path)[0].segments) == 3


def test_other_weights_devices_and_precisions_are_other_caches(
    toy: LoadedBackbone, few: Few, tmp_path: Path
) -> None:
    data = few(2, 1)
    go(toy, data, tmp_path)
    go(load_backbone("toy", "random", seed=1), data, tmp_path)
    extract_one(toy, images(data), tmp_path, "bf16")
    assert len(find_caches(tmp_path)) == 3


def test_provenance_says_how_the_rows_were_made(
    toy: LoadedBackbone, few: Few, tmp_path: Path
) -> None:
    cache = go(toy, few(2, 1), tmp_path).cache
    note = read_header(cache.segments[0]).provenance
    assert (note["weights"], note["engine"], note["rows"]) == ("random:0", "torch", 6)
    assert {"torch", "h5py"} <= note["versions"].keys()
    assert summarize(cache).seconds_per_image > 0


def test_progress_counts_every_missing_image(toy: LoadedBackbone, few: Few, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    go(toy, few(10, 1), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(16, 22), (22, 22)]
