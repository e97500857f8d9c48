"""12-bit data in 16-bit files: measured, said, and decoded by one white value for the data set."""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from cache.embedding_key import EmbeddingKey
from cache.store import find_caches
from evaluate.audit.audit import audit, kept_audit
from evaluate.audit.findings import Audit, as_json, in_words
from evaluate.audit.outliers import find_outliers
from evaluate.audit.set_properties import of_new_images
from evaluate.results import read_results
from evaluate.workspace.layout import Workspace
from extract.dataset import scan
from extract.dataset_statistics.image_index import stats_of
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone, preprocessing_of
from extract.imaging.decode import BIT_DEPTH_RULE, decode_gray
from extract.imaging.image_stats import ImageStats, smallest_white
from extract.imaging.preprocessing import FULL_SCALE, Depth, Preprocessing, rule_of, white_of
from tests.conftest import ROOT
from tests.odd_images import png
from tests.test_audit import stats
from tests.test_predict import frostline

pytestmark = pytest.mark.slow

sys.path.insert(0, str(ROOT.parent / "shared" / "cases"))

TWELVE = np.linspace(180, 1000, 224 * 224).reshape(224, 224).astype(np.uint16)


def of_pillow(kind: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(TWELVE).save(buffer, kind)
    return buffer.getvalue()


def of_tifffile(**settings: Any) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, TWELVE, **settings)
    return buffer.getvalue()


def pgm(maxval: int) -> bytes:
    return b"P5 224 224 %d\n" % maxval + TWELVE.astype(">u2").tobytes()


# Each with its own full scale.
FILES: dict[str, tuple[bytes, int]] = {
    "PNG": (of_pillow("PNG"), 65535),
    "TIFF": (of_pillow("TIFF"), 65535),
    "big-endian TIFF": (of_tifffile(byteorder=">"), 65535),
    "deflated TIFF": (of_tifffile(compression="zlib"), 65535),
    "TIFF of 12 bits": (of_tifffile(bitspersample=12), 4095),
    "JPEG 2000": (of_pillow("JPEG2000"), 65535),
    "JPEG 2000 of 12 bits": (
        bytes(imagecodecs.jpeg2k_encode(TWELVE, bitspersample=12, level=0, reversible=True)),
        4095,
    ),
    "PGM": (pgm(65535), 65535),
    "PGM up to 4095": (pgm(4095), 4095),
    "plain PGM": (b"P2 224 224 65535\n" + " ".join(map(str, TWELVE.ravel())).encode(), 65535),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_format_is_scaled_to_the_white_value(kind: str) -> None:
    data, own = FILES[kind]
    picture = decode_gray(data, Preprocessing(full_scale=1023))
    assert picture.depth == Depth(own, 1000, 1023)
    assert np.array_equal(picture.pixels[0], np.rint(TWELVE * (255 / 1023)))
    assert decode_gray(data).depth == Depth(own, 1000, own)


def test_a_file_with_a_smaller_full_scale_keeps_its_own() -> None:
    data = FILES["TIFF of 12 bits"][0]
    usual = decode_gray(data)
    assert np.array_equal(decode_gray(data, Preprocessing(full_scale=16383)).pixels, usual.pixels)
    photo = (ROOT / "dataset" / "gel").iterdir().__next__().read_bytes()
    assert np.array_equal(
        decode_gray(photo, Preprocessing(full_scale=300)).pixels, decode_gray(photo).pixels
    )


def test_white_is_zero_is_inverted_about_the_white_value() -> None:
    picture = decode_gray(of_tifffile(photometric="miniswhite"), Preprocessing(full_scale=1023))
    assert np.array_equal(picture.pixels[0], np.rint((1023 - TWELVE.astype(float)) * (255 / 1023)))


COLOURS = np.stack([TWELVE, TWELVE // 2, TWELVE // 3], axis=-1)
LEVELS = np.rint(COLOURS * (255 / 1023)).astype(np.uint8)


def colour_tiff(values: NDArray[np.uint16] = COLOURS, **settings: Any) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, values, photometric="rgb", **settings)
    return buffer.getvalue()


COLOUR_FILES: dict[str, tuple[bytes, int]] = {
    "PNG": (png(COLOURS, 16, 2), 65535),
    "TIFF": (colour_tiff(), 65535),
    "big-endian deflated TIFF": (colour_tiff(byteorder=">", compression="zlib"), 65535),
    "planar TIFF": (
        colour_tiff(np.moveaxis(COLOURS, -1, 0), planarconfig="separate"),
        65535,
    ),
    "PPM": (b"P6 224 224 65535\n" + COLOURS.astype(">u2").tobytes(), 65535),
    "PPM up to 4095": (b"P6 224 224 4095\n" + COLOURS.astype(">u2").tobytes(), 4095),
    "plain PPM": (
        b"P3 224 224 65535\n# no number 1\n" + " ".join(map(str, COLOURS.ravel())).encode(),
        65535,
    ),
}


@pytest.mark.parametrize("kind", COLOUR_FILES)
def test_colours_are_scaled_to_the_white_value(kind: str) -> None:
    data, own = COLOUR_FILES[kind]
    picture = decode_gray(data, Preprocessing(full_scale=1023))
    assert picture.depth == Depth(own, 1000, 1023)
    assert np.array_equal(picture.pixels[0], np.asarray(Image.fromarray(LEVELS).convert("L")))
    assert decode_gray(data).depth == Depth(own, 1000, own)


def test_alpha_keeps_its_own_scale() -> None:
    clear = np.full_like(TWELVE, 65535)
    clear[:112] = 0
    gray = decode_gray(png(np.stack([TWELVE, clear], -1), 16, 4), Preprocessing(full_scale=1023))
    assert (gray.pixels[0, :112] == 255).all()
    expected = np.rint(TWELVE[112:] * (255 / 1023))
    assert np.array_equal(gray.pixels[0, 112:], expected)


def test_larger_values_are_clipped_and_known() -> None:
    picture = decode_gray(FILES["PNG"][0], Preprocessing(full_scale=511))
    assert picture.pixels.max() == 255
    assert picture.depth == Depth(65535, 1000, 511)


def test_the_default_is_the_identity_of_before(toy: LoadedBackbone) -> None:
    def key(preprocessing: Preprocessing) -> EmbeddingKey:
        return EmbeddingSpec(toy, "cpu", ("torch",), "fp32", preprocessing).key

    usual, chosen = key(Preprocessing()), key(Preprocessing(full_scale=4095))
    assert usual.bit_depth == BIT_DEPTH_RULE
    assert chosen.differences(usual) == [f"bit_depth: {rule_of(4095)!r}, not {BIT_DEPTH_RULE!r}"]
    assert preprocessing_of(chosen).full_scale == white_of(rule_of(4095)) == 4095
    assert preprocessing_of(usual).full_scale == white_of("another rule") == FULL_SCALE
    # In the keys of kept calibrations.
    assert str(Preprocessing()) == "Decoding(fast=False, fit='stretch', augmentation='gentle')"


def deep(largest: int, full_scale: int = 65535, white: int = 65535) -> ImageStats:
    return stats(full_scale=full_scale, largest=largest, white=white)


@pytest.mark.parametrize(
    ("image_stats", "white"),
    [
        ([deep(1000), deep(4095)], 4095),
        ([deep(4096)], 8191),
        ([deep(200)], 255),
        ([deep(65535)], FULL_SCALE),
        ([stats()], FULL_SCALE),
        ([stats(), deep(1000)], 1023),
        ([deep(3000, 4095, 4095)], FULL_SCALE),  # it is their own already
    ],
)
def test_auto_is_the_smallest_that_holds_all(image_stats: list[ImageStats], white: int) -> None:
    assert smallest_white(image_stats) == white


def test_looks_are_of_the_white_value_and_depth_is_of_any(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "a"
    folder.mkdir(parents=True)
    (folder / "12.png").write_bytes(FILES["PNG"][0])
    (folder / "8.png").write_bytes(min((ROOT / "dataset" / "gel").iterdir()).read_bytes())
    files, table = scan(folder.parent).files, tmp_path / "looks.sqlite"
    asked: list[int] = []

    def found(full_scale: int | None) -> set[tuple[int, int]]:
        image_stats, _ = stats_of(files, table, lambda done, total: asked.append(total), full_scale)
        return {(stats.largest, stats.white) for stats in image_stats.values()}

    assert found(FULL_SCALE) == {(1000, 65535), (255, 255)}
    assert (found(1023), asked) == ({(1000, 1023), (255, 255)}, [2, 2, 1])  # one of 16 bits again
    assert (found(None), asked) == ({(1000, 1023), (255, 255)}, [2, 2, 1])


Save = Callable[[Path, NDArray[np.uint16]], None]


def as_png(path: Path, values: NDArray[np.uint16]) -> None:
    Image.fromarray(values).save(path)


def as_photo(path: Path, values: NDArray[np.uint16]) -> None:
    Image.fromarray(np.rint(values * (255 / 1023)).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def rendered(tmp_path: Path) -> Callable[[Save], Path]:
    """Gels of 12 bits, faint; written by whoever is given."""
    make = import_module("gen2").make

    def made(save: Save) -> Path:
        make(tmp_path / "data", save, n=8, nt=3, ext=".png")
        return tmp_path / "data"

    return made


def notes(found: Audit) -> list[str]:
    return [each.note for each in found.properties]


class TestAudit:
    def test_it_names_the_depth_once_and_no_image(
        self, rendered: Callable[[Save], Path], tmp_path: Path
    ) -> None:
        data, place = rendered(as_png), Workspace(tmp_path / "out")
        training, testing = scan(data / "train"), scan(data / "test")
        found = audit(training, testing, place)
        assert found.odd == ()
        depth, blank = notes(found)
        assert "so 16 of 16 images use 10 of 16 bits, and at most 3 of 256 gray levels" in depth
        assert "Use --full-scale auto (1023 for these), or --full-scale N" in depth
        assert blank.startswith("22 of 22 images have next to no contrast")
        assert {p["note"] for p in json.loads(as_json(found))["properties"]} == {depth, blank}
        assert f"  {depth}" in in_words(found)

        assert kept_audit(training, testing, place) == found
        assert kept_audit(training, testing, place, 1023) is None
        chosen = audit(training, testing, place, full_scale=1023)
        assert (chosen.odd, notes(chosen)) == ((), [])

    def test_classes_of_different_depth_are_confounded(
        self, rendered: Callable[[Save], Path], tmp_path: Path
    ) -> None:
        def by_class(path: Path, values: NDArray[np.uint16]) -> None:
            (as_png if path.parent.name == "ladder" else as_photo)(path, values)

        data = rendered(by_class)
        found = audit(scan(data / "train"), None, Workspace(tmp_path / "out"), full_scale=1023)
        assert notes(found) == [
            "the images are stored with different bit depths (8 bits or fewer: 0 of 8 ladder, 8 of "
            "8 smear; 16 bits: 8 of 8 ladder, 0 of 8 smear): classes differ in it, and a model can "
            "tell them apart by it alone"
        ]

    def test_two_imagers_in_files_of_one_depth(
        self, rendered: Callable[[Save], Path], tmp_path: Path
    ) -> None:
        def by_class(path: Path, values: NDArray[np.uint16]) -> None:
            as_png(path, values * 60 if path.parent.name == "ladder" else values)

        found = audit(scan(rendered(by_class) / "train"), None, Workspace(tmp_path / "out"))
        (note,) = [note for note in notes(found) if "use at most" in note]
        assert "16 bits use at most 10 of them (0 of 8 ladder, 8 of 8 smear): classes" in note

    def test_clipped_images_are_named(
        self, rendered: Callable[[Save], Path], tmp_path: Path
    ) -> None:
        data = rendered(as_png)
        path = data / "test" / "smear" / "smear_00.png"
        as_png(path, np.asarray(Image.open(path)) * 5)
        place = Workspace(tmp_path / "out")
        found = audit(scan(data / "train"), scan(data / "test"), place, full_scale=1023)
        (note,) = notes(found)
        assert "1 of 22 images have values above --full-scale, which are clipped: " in note
        assert f"{path} (largest value " in note


def many(**of_some: Any) -> Iterator[ImageStats]:
    random = np.random.default_rng(0)
    for number in range(40):
        values: dict[str, Any] = {"brightness": 100 + float(random.normal(0, 1))}
        yield stats(**values | (of_some if number % 3 == 0 else {}))


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        ("blank", {"contrast": 0.5}),
        ("small", {"width": 20, "height": 15}),
        ("size", {"width": 4000, "height": 3000}),
        ("shape", {"width": 1600, "height": 75}),
        ("brightness", {"brightness": 250.0}),
    ],
)
def test_what_a_third_of_the_images_have_is_no_outlier(
    rule: str, values: dict[str, object]
) -> None:
    odd, common = find_outliers(list(many(**values)))
    assert odd == []
    assert (rule, 14) in {(each.what, len(each.images)) for each in common}


@pytest.mark.parametrize(
    "values",
    [
        {"brightness": 250.0, "contrast": 4.0},
        {"brightness": 3.0, "contrast": 4.0},
        {"width": 16, "height": 16},
        {"width": 3000, "height": 60},
        {"mode": "I;16"},
    ],
)
def test_a_uniform_data_set_of_any_kind_has_no_outliers(values: dict[str, object]) -> None:
    assert find_outliers([stats(**values)] * 40) == ([], [])


def test_predict_decodes_as_evaluate_did_and_names_what_it_clips(
    rendered: Callable[[Save], Path], tmp_path: Path
) -> None:
    data, out = rendered(as_png), tmp_path / "out"
    images = ("--dataset", data / "train", "--test", data / "test", "--workspace", out)
    lite = ("--arch", "efficientnet_lite0", "--device", "cpu", "--head", "single", "--seed", 1)
    done = frostline("run", *images, *lite, "--optimizer", "adam", "--full-scale", "auto")
    assert done.exit_code == 0, done.output
    assert "--full-scale auto: 1023, as the largest value in data/train is " in done.output
    (row,) = read_results(out / "results.csv").to_dict("records")
    assert row["full_scale"] == "1023"
    (cache,) = find_caches(out / "cache")
    assert preprocessing_of(cache.key).full_scale == 1023

    (answers,) = out.glob("heads/*.openvino.csv")
    with answers.open(newline="") as file:
        known = {
            row["path"]: max(("ladder", "smear"), key=lambda name: float(row[f"p({name})"]))
            for row in csv.DictReader(file)
        }
    new = tmp_path / "new"
    new.mkdir()
    for number, path in enumerate(known):  # other bytes, the same numbers
        tifffile.imwrite(new / f"{number}.tif", np.asarray(Image.open(path)))
    bright = np.asarray(Image.open(next(iter(known)))) * 2
    tifffile.imwrite(new / "bright.tif", bright)
    for _ in range(2):  # computed, then cached
        found = frostline("predict", new, "--workspace", out)
        labels = {row["path"]: row["label"] for row in csv.DictReader(StringIO(found.stdout))}
        told = [labels[str(new / f"{number}.tif")] for number in range(len(known))]
        assert told == list(known.values())
        assert "1 of 7 images have values above --full-scale, which are clipped" in found.stderr
        assert f"{new / 'bright.tif'} (largest value {bright.max()}, white is 1023)" in found.stderr


def test_new_images_of_another_depth_are_named(
    rendered: Callable[[Save], Path], tmp_path: Path
) -> None:
    files = scan(rendered(as_png) / "test").files
    place = Workspace(tmp_path / "out")
    (note,) = of_new_images(files, place, Preprocessing())
    assert note.startswith("6 of 6 images use a quarter of their bit depth or less, so 64 gray")
    assert not list(of_new_images(files, place, Preprocessing(full_scale=1023)))
