"""Odd image files: the very pixels, or the reason."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cache.errors import UnreadableImageError
from cache.store import summarize
from extract.dataset import scan
from extract.embedding_spec import LoadedBackbone
from extract.imaging.decode import decode_gray
from tests.odd_images import ODD, paged
from tests.toy import extract_one

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


@pytest.mark.parametrize("name", ODD)
def test_the_very_pixels_or_the_reason(name: str) -> None:
    data, expected = ODD[name]
    if isinstance(expected, str):
        with pytest.raises(UnreadableImageError, match=expected) as caught:
            decode_gray(data)
        assert str(caught.value)
        return
    pixels = decode_gray(data).pixels[0].astype(int)
    # Blending and halving may round either way; nothing else may.
    allowed = 1 if "alpha" in name else 0
    assert np.abs(pixels - expected).max() <= allowed


def test_further_pages_are_told() -> None:
    assert all(decode_gray(data).several_pages for data, _ in paged().values())
    assert not decode_gray(ODD["gray TIFF"][0]).several_pages


def test_all_of_them_in_one_run(
    toy: LoadedBackbone, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """Each good one is a row, each broken one a line; none ends the run."""
    for number, (data, expected) in enumerate(ODD.values()):
        label = "broken" if isinstance(expected, str) else "good"
        path = tmp_path / "images" / label / f"{number} ü 胶.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    images = scan(tmp_path / "images")
    done = extract_one(toy, images.files, tmp_path / "cache")
    good = {file.sha256 for file in images.files if file.label == "good"}
    broken = {file.sha256 for file in images.files if file.label == "broken"}
    assert {*summarize(done.cache).stored} == good
    assert summarize(done.cache).failures.keys() == broken == {f.sha256 for f in done.failed}
    assert len(done.several_pages) == len(paged())
    figure(
        f"odd files: {len(ODD)} handled, {len(good)} read to the exact pixel, "
        f"{len(broken)} refused with their reason"
    )
