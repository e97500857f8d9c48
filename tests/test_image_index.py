"""What images look like: the same picture in another file is known again, another one is not."""

import sqlite3
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from cache.errors import CacheError
from extract.dataset import scan
from extract.dataset_statistics.image_index import stats_of
from extract.embedding_spec import LoadedBackbone
from extract.imaging.decode import decode_gray
from extract.imaging.image_stats import BITS, compute_stats, perceptual_hash, signs
from tests.conftest import ROOT
from tests.toy import extract_one

GELS = sorted((ROOT / "dataset" / "gel").iterdir())


def encoded(image: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def bits_apart(one: bytes, other: bytes) -> int:
    first, second = (signs([compute_stats(decode_gray(data))]) for data in (one, other))
    return round((BITS - (first @ second.T).item()) / 2)


class TestHash:
    @pytest.mark.parametrize("path", GELS[:6], ids=lambda path: path.name)
    def test_another_export_is_a_few_bits_away(self, path: Path) -> None:
        image = Image.open(path).convert("L")
        data = encoded(image)
        assert bits_apart(data, encoded(image, "JPEG", quality=60)) <= 4
        assert bits_apart(data, encoded(image.resize((150, 140)))) <= 4
        assert bits_apart(data, encoded(ImageEnhance.Brightness(image).enhance(0.8))) <= 4
        assert bits_apart(data, encoded(ImageEnhance.Contrast(image).enhance(0.7))) <= 4

    def test_another_picture_is_half_of_the_bits_away(self) -> None:
        image_stats = [compute_stats(decode_gray(path.read_bytes())) for path in GELS]
        apart = (BITS - signs(image_stats) @ signs(image_stats).T) / 2
        others = apart[~np.eye(len(image_stats), dtype=bool)]
        assert others.min() > 8
        assert 20 < others.mean() < 40

    def test_it_is_that_of_scipys_cosine_transform(self) -> None:
        from scipy.fft import dctn

        pixels = decode_gray(GELS[0].read_bytes()).pixels[0]
        small = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BOX)
        lowest = dctn(np.asarray(small, np.float64), norm="ortho")[:8, :8].ravel()[1:]
        bits = np.unpackbits(np.frombuffer(perceptual_hash(pixels), np.uint8), count=BITS)
        assert np.array_equal(bits, lowest > np.median(lowest))


def test_a_look_says_how_the_file_is_stored_and_how_light_it_is() -> None:
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:, 20:] = 200
    stats = compute_stats(decode_gray(encoded(Image.fromarray(pixels))))
    assert (stats.width, stats.height, stats.mode) == (40, 30, "RGB")
    assert stats.brightness == pytest.approx(100, abs=1)
    assert stats.contrast == pytest.approx(100, abs=2)


class TestTable:
    def test_what_extraction_has_decoded_is_not_decoded_again(
        self, toy: LoadedBackbone, tmp_path: Path
    ) -> None:
        files, table = scan(ROOT / "test_images").files, tmp_path / "looks.sqlite"
        extract_one(toy, files, tmp_path, index=table)
        asked: list[tuple[int, int]] = []
        found, reasons = stats_of(files, table, lambda done, total: asked.append((done, total)))
        assert (len(found), reasons, asked) == (22, {}, [])
        for file in files[:3]:
            assert found[file.sha256] == compute_stats(decode_gray(file.path.read_bytes()))

    def test_what_it_lacks_is_decoded_and_remembered(self, tmp_path: Path) -> None:
        files, table = scan(ROOT / "test_images").files, tmp_path / "cache" / "looks.sqlite"
        asked: list[int] = []
        stats_of(files, table, lambda done, total: asked.append(total))
        assert asked == [22] * 22
        assert stats_of(files, table, lambda done, total: asked.append(0))[0]
        assert 0 not in asked

    def test_what_is_no_image_has_a_reason(self, tmp_path: Path) -> None:
        folder = tmp_path / "data" / "a"
        folder.mkdir(parents=True)
        (folder / "broken.png").write_bytes(b"x")
        (file,) = scan(folder.parent).files
        found, reasons = stats_of([file], tmp_path / "looks.sqlite")
        assert (found, reasons) == ({}, {file.sha256: "not an image of a known format"})

    def test_a_damaged_table_is_named_and_costs_no_extraction(
        self, toy: LoadedBackbone, tmp_path: Path
    ) -> None:
        files, table = scan(ROOT / "test_images").files[:2], tmp_path / "looks.sqlite"
        table.write_bytes(b"no table" * 1000)
        assert extract_one(toy, files, tmp_path, index=table).computed == 2
        with pytest.raises(CacheError, match=r"looks\.sqlite can't be used .*: delete it"):
            stats_of(files, table)
        table.unlink()
        sqlite3.connect(table).close()  # an empty one is none yet
        assert len(stats_of(files, table)[0]) == 2
