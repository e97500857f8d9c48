"""TIFFs of many layouts → the gray levels that the rules say, or a refusal; and hostile ones.

The files are written by tifffile from numbers, and the expected levels computed from the same
numbers by the rules' own words.
"""

import struct
import subprocess
import sys
import zlib
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from cache.errors import UnreadableImageError
from extract.imaging.decode import SIZE, decode_gray
from tests.conftest import ROOT
from tests.odd_images import RAMP, TURNS, luma, scaled, stretched

Y, X = np.mgrid[0:SIZE, 0:SIZE] / SIZE
WAVES = np.stack(
    [0.5 + 0.5 * np.sin(9 * Y) * np.cos(5 * X), 0.5 + 0.5 * np.sin(7 * X), X * Y, 0.2 + 0.8 * Y], -1
)
LAYOUTS: dict[str, dict[str, Any]] = {
    "one strip": {},
    "strips": {"rowsperstrip": 37},
    "tiles": {"tile": (48, 64)},
}
CODECS: list[dict[str, Any]] = [
    {},
    {"compression": "lzw"},
    {"compression": "lzw", "predictor": True},
    {"compression": "deflate"},
    {"compression": "packbits"},
    {"compression": "zstd"},
]


def written(values: NDArray[Any], **settings: Any) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, values, **{"photometric": "minisblack", "metadata": None, **settings})
    return buffer.getvalue()


def pages(*each: tuple[NDArray[Any], dict[str, Any]]) -> bytes:
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for values, settings in each:
            file.write(values, **{"photometric": "minisblack", "metadata": None, **settings})
    return buffer.getvalue()


def numbers(dtype: str, samples: int) -> NDArray[Any]:
    """Return [224, 224, samples] over most of a type's range, floats from -50 to 250."""
    kind = np.dtype(dtype)
    waves = WAVES[..., :samples]
    if kind.kind == "f":
        return (waves * 300 - 50).astype(kind)
    info = np.iinfo(kind)
    return (waves * 0.9 * (float(info.max) - info.min) + info.min).astype(kind)


def levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return gray levels by the rule for numbers of this type."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return scaled(values, np.iinfo(values.dtype).max)
    return stretched(values)


def expected_gray(values: NDArray[Any], photometric: str, alpha: str) -> NDArray[np.float64]:
    """Return what the documented rules make of samples [224, 224, n]."""
    if photometric == "rgb":
        high = (values >> 8 * (values.dtype.itemsize - 1)).astype(np.uint8)
        gray = luma(high[..., :3]).astype(np.float64)
        opaque = high[..., -1] / 255
    else:
        gray = levels(values[..., 0]).astype(np.float64)
        gray = 255 - gray if photometric == "miniswhite" else gray
        opaque = levels(values[..., -1]) / 255
    if alpha == "unassalpha":
        return gray * opaque + 255 * (1 - opaque)
    return gray + 255 * (1 - opaque) if alpha == "assocalpha" else gray


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: "-".join(map(str, codec.values())))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", "<>")
def test_every_layout_is_right(codec: dict[str, Any], layout: str, order: str) -> None:
    """Pillow alone turns some of these into noise, and refuses others."""
    gray_types = ("u1", "u2", "u4", "i2", "i4", "f2", "f4", "f8")
    kinds = [(dtype, 1, gray, "") for dtype in gray_types for gray in ("minisblack", "miniswhite")]
    for dtype, alpha in product(("u1", "u2"), ("unassalpha", "assocalpha", "unspecified")):
        kinds += [(dtype, 2, "minisblack", alpha), (dtype, 4, "rgb", alpha)]
    kinds += [("u1", 3, "rgb", ""), ("u2", 3, "rgb", "")]
    for dtype, samples, photometric, alpha in kinds:
        values = numbers(dtype, samples)
        if alpha == "assocalpha":
            share = values[..., -1:] / np.iinfo(dtype).max
            values[..., :-1] = np.rint(values[..., :-1] * share)
        for planar in ("contig", "separate") if samples > 1 else ("contig",):
            stored = values if planar == "contig" else np.moveaxis(values, -1, 0)
            data = written(
                stored[..., 0] if samples == 1 else stored,
                photometric=photometric,
                byteorder=order,
                **({"planarconfig": planar} if samples > 1 else {}),
                **({"extrasamples": [alpha]} if alpha else {}),
                **LAYOUTS[layout],
                **codec,
            )
            pixels = decode_gray(data).pixels[0]
            wanted = expected_gray(values, photometric, alpha)
            # Blending rounds each colour; premultiplied ones are divided by their alpha before.
            most = {"assocalpha": 3, "unassalpha": 1.5}.get(alpha, 1)
            case = (dtype, samples, photometric, alpha, planar)
            assert np.abs(pixels - wanted).max() <= most, case


@pytest.mark.parametrize("order", "<>")
def test_big_tiff_and_packed_bits(order: str) -> None:
    assert np.array_equal(decode_gray(written(RAMP, bigtiff=True, byteorder=order)).pixels[0], RAMP)
    for bits in (1, 2, 4) if order == ">" else (1, 2, 4, 10, 12, 14):  # tifffile writes > wrongly
        values = (RAMP.astype(np.uint16) << 8) >> (16 - bits)
        stored = values.astype(np.uint8) if bits <= 8 else values
        pixels = decode_gray(written(stored, bitspersample=bits, byteorder=order)).pixels[0]
        assert np.array_equal(pixels, scaled(values, 2**bits - 1)), bits


@pytest.mark.parametrize("settings", [{}, {"bigtiff": True, "byteorder": ">"}])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_palettes_and_inks(dtype: str, settings: dict[str, Any]) -> None:
    size = np.iinfo(dtype).max + 1
    table = np.random.default_rng(1).integers(0, 2**16, (3, size)).astype(np.uint16)
    index = RAMP.astype(dtype)
    data = written(index, photometric="palette", colormap=table, **settings)
    colours = (table.T[index] >> 8).astype(np.uint8)
    assert np.array_equal(decode_gray(data).pixels[0], luma(colours))
    inks = np.stack([0 * RAMP, 0 * RAMP, 0 * RAMP, 255 - RAMP]).astype(dtype) * (size // 255)
    for planar, values in (("separate", inks), ("contig", np.moveaxis(inks, 0, -1))):
        data = written(values, photometric="separated", planarconfig=planar, **settings)
        assert np.array_equal(decode_gray(data).pixels[0], RAMP)


@pytest.mark.parametrize("orientation", TURNS)
def test_what_tifffile_reads_is_turned_too(orientation: int) -> None:
    turned = [(274, 3, 1, orientation, True)]
    data = written(RAMP.astype(np.float64), extratags=turned)
    assert np.array_equal(decode_gray(data).pixels[0], TURNS[orientation](stretched(RAMP)))


def test_real_pair(gel: Path) -> None:
    """The same photograph, written planar and not."""
    with Image.open(gel / "dataset" / "gel" / "gel_1.jpg") as image:
        deep = np.asarray(image.convert("RGB")).astype(np.uint16) * 257
    planar = written(np.moveaxis(deep, -1, 0), photometric="rgb", planarconfig="separate")
    chunky = written(deep, photometric="rgb")
    one, other = (decode_gray(data).pixels for data in (planar, chunky))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])  # read by Pillow, and by tifffile
def test_square_roots_of_a_renamed_gel_file_are_refused(dtype: str) -> None:
    def write(md_file_tag: int) -> bytes:
        buffer, tag = BytesIO(), (33445, "I", 1, md_file_tag, True)
        values = (WAVES[..., 0] * 200).astype(dtype)
        tifffile.imwrite(buffer, values, extratags=[tag], byteorder=">", compression="deflate")
        return buffer.getvalue()

    decode_gray(write(128))  # linear, as ImageQuant writes it
    with pytest.raises(UnreadableImageError, match="square roots"):
        decode_gray(write(2))


@pytest.mark.parametrize(
    ("values", "settings", "reason"),
    [
        (
            np.dstack([RAMP] * 5),
            {"planarconfig": "contig"},
            "5 per pixel.*Save the file as 8- or 16-bit gray",
        ),
        (np.stack([RAMP] * 3), {"planarconfig": "separate"}, "3 per pixel, planar"),
        (np.stack([RAMP] * 4), {"volumetric": True}, "4 images deep"),
        (RAMP.astype(np.complex64), {}, "64-bit complex"),
        (RAMP.astype(np.int8), {}, "8-bit signed"),
        (np.dstack([RAMP] * 3).astype(np.float32), {"photometric": "rgb"}, "32-bit float.*RGB"),
        (np.dstack([RAMP] * 3), {"photometric": "cielab"}, "CIELAB"),
        (RAMP, {"photometric": "cfa"}, "CFA"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_layout(
    values: NDArray[Any], settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        decode_gray(written(values, **settings))


SMALL = np.full((20, 20), 9, np.uint8)
REDUCED: dict[str, Any] = {"subfiletype": 1}
MASK: dict[str, Any] = {"subfiletype": 4, "photometric": "mask"}


@pytest.mark.parametrize("dtype", ["u1", "f8"])
def test_the_first_page_of_full_resolution_counts(dtype: str) -> None:
    """Not a thumbnail, a level of a pyramid or a mask: those are no further pages either."""
    full = RAMP.astype(dtype)
    thumbnail, mask = (SMALL, REDUCED), (SMALL > 0, MASK)
    below = {**REDUCED, "subifds": 1}
    for data, several in (
        (pages(thumbnail, (full, {})), False),
        (pages(mask, thumbnail, (full, {})), False),
        (pages((full, {}), thumbnail, thumbnail), False),
        (pages((full, {"subifds": 1}), thumbnail), False),
        (pages((SMALL, below), (full, {"subfiletype": 0})), False),
        (pages((full, REDUCED)), False),  # there is no other
        (pages(thumbnail, (full, {}), (SMALL, {})), True),
    ):
        image = decode_gray(data)
        assert np.array_equal(image.pixels[0], levels(full))
        assert image.several_pages == several


def patched(data: bytes, tag: int, kind: int, count: int, value: int) -> bytes:
    """Replace an entry of the only directory of a little-endian TIFF."""
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    changed = bytearray(data)
    for entry in range(start + 2, start + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            struct.pack_into("<HHII", changed, entry, tag, kind, count, value)
            return bytes(changed)
    raise AssertionError(tag)


def endless(data: bytes) -> bytes:
    """Let the last directory be followed by itself."""
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    following = start + 2 + 12 * entries
    return data[:following] + struct.pack("<I", start) + data[following + 4 :]


@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_damaged_files_are_refused(dtype: str) -> None:
    """What is missing is never filled, by Pillow or by tifffile."""
    values = RAMP.astype(dtype)
    for data in (
        written(values)[:30_000],
        written(values, compression="lzw")[:2000],
        patched(written(values), 278, 4, 1, 10),  # rows per strip: 22 more strips are needed
        patched(written(values), 273, 4, 1, 0),  # no strip
        patched(written(values), 279, 4, 1, 0),  # an empty one
        patched(written(values), 256, 4, 1, 0),  # no width
        patched(written(values, compression="deflate"), 257, 4, 1, 300),  # fewer rows than said
    ):
        with pytest.raises(UnreadableImageError):
            decode_gray(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_hostile_files_end_at_once(dtype: str) -> None:
    """Endless chains of pages, tiles far larger than the image, strips that grow."""
    values = RAMP.astype(dtype)
    assert decode_gray(endless(written(values))).pixels.any()
    assert decode_gray(endless(written(values, subfiletype=1))).pixels.any()
    assert decode_gray(pages(*[(values[:16, :16], REDUCED)] * 500)).pixels.any()
    tiled = written(values, tile=(64, 64))
    for data in (
        patched(patched(tiled, 322, 4, 1, 60_000), 323, 4, 1, 60_000),
        patched(patched(written(values), 256, 4, 1, 60_000), 257, 4, 1, 60_000),
        patched(written(values), 273, 4, 2**30, 8),  # a thousand million strips
    ):
        with pytest.raises(UnreadableImageError):
            decode_gray(data)
    growing = zlib.compress(bytes(2**27))
    whole = written(values, compression="deflate")
    grown = patched(patched(whole, 273, 4, 1, len(whole)), 279, 4, 1, len(growing)) + growing
    if dtype == "u1":  # only what the strip should hold is decoded
        assert not decode_gray(grown).pixels.any()
    else:
        with pytest.raises(UnreadableImageError, match="can't be decoded"):
            decode_gray(grown)


def test_tifffile_is_imported_only_for_what_pillow_misreads(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(written(RAMP, compression="lzw", predictor=True))
    code = (
        "import sys; from pathlib import Path; from extract.imaging.decode import decode_gray; "
        "decode_gray(Path(sys.argv[1]).read_bytes()); "
        "print({'tifffile', 'imagecodecs'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.tif")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")
