"""Files as they come from labs → the gray pixels the rules say."""

import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from cache.errors import UnreadableImageError
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone, preprocessing_of
from extract.imaging.decode import SIZE, decode_gray
from extract.imaging.preprocessing import FITS, Preprocessing
from extract.imaging.tiff import PHOTOMETRIC
from tests.conftest import ROOT
from tests.test_tiff import patched

RAMP = np.tile(np.arange(SIZE, dtype=np.uint8), (SIZE, 1))  # 0…223, left to right


def encode(image: Image.Image, kind: str, **settings: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def gray(image: Image.Image, kind: str = "PNG", **settings: object) -> NDArray[np.uint8]:
    pixels = decode_gray(encode(image, kind, **settings)).pixels
    assert pixels.shape == (1, SIZE, SIZE)
    assert pixels.dtype == np.uint8
    first: NDArray[np.uint8] = pixels[0]
    return first


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_gray_of_the_right_size_is_untouched(kind: str) -> None:
    assert np.array_equal(gray(Image.fromarray(RAMP), kind), RAMP)


def test_webp_lossless() -> None:
    assert np.array_equal(gray(Image.fromarray(RAMP), "WEBP", lossless=True), RAMP)


def test_colour_becomes_luma() -> None:
    red = Image.new("RGB", (SIZE, SIZE), (255, 0, 0))
    assert (gray(red) == 76).all()  # 0.299 x 255, ITU-R 601


def test_jpeg_is_the_stored_luma(gel: Path) -> None:
    data = (gel / "dataset" / "gel" / "gel_1.jpg").read_bytes()
    with Image.open(BytesIO(data)) as image:
        luma = (
            image.convert("YCbCr").getchannel("Y").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        )
    difference = np.abs(decode_gray(data).pixels[0].astype(int) - np.asarray(luma).astype(int))
    assert difference.max() <= 1


def test_16_bit_keeps_its_full_scale() -> None:
    deep = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(
            gray(Image.fromarray(deep), kind), np.rint(deep / 257).astype(np.uint8)
        )


def test_white_is_zero_tiff_at_8_bits() -> None:
    # Pillow inverts such an image on writing and on reading: what it shows is what was meant.
    assert np.array_equal(gray(Image.fromarray(RAMP), "TIFF", tiffinfo={PHOTOMETRIC: 0}), RAMP)


def test_white_is_zero_tiff_at_16_bits() -> None:
    # Here Pillow inverts neither way: the file holds 0 where the picture is white.
    stored = RAMP.astype(np.uint16) * 257
    shown = gray(Image.fromarray(stored), "TIFF", tiffinfo={PHOTOMETRIC: 0})
    assert np.array_equal(shown, 255 - RAMP)


def test_12_bits_in_a_16_bit_tiff_keep_their_own_full_scale() -> None:
    values = np.linspace(0, 4095, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    data = bytearray(encode(Image.fromarray(values), "TIFF"))
    # Rows of 12-bit samples: two pixels in three bytes.
    high, low = values[:, 0::2].astype(np.uint32), values[:, 1::2].astype(np.uint32)
    joined = (high << 12) | low
    packed = np.stack([joined >> 16, (joined >> 8) & 255, joined & 255], -1).astype(np.uint8)
    with Image.open(BytesIO(bytes(data))) as image:
        assert isinstance(image, TiffImageFile)
        (start,) = image.tag_v2[273]
    data[start : start + packed.size] = packed.tobytes()
    for tag, old, new in ((258, 16, 12), (279, values.nbytes, packed.size)):
        patch_tag(data, tag, old, new)
    expected = np.rint(values * (255 / 4095)).astype(np.uint8)
    assert np.array_equal(decode_gray(bytes(data)).pixels[0], expected)


def patch_tag(data: bytearray, tag: int, old: int, new: int) -> None:
    """Overwrite the value of a TIFF tag in a little-endian file with one directory."""
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            kind = {3: "<H", 4: "<I"}[struct.unpack_from("<H", data, entry + 2)[0]]
            assert struct.unpack_from(kind, data, entry + 8)[0] == old
            struct.pack_into(kind, data, entry + 8, new)


def test_16_bit_pgm_keeps_its_full_scale() -> None:
    deep = np.linspace(20000, 22230, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    data = b"P5 224 224 65535\n" + deep.astype(">u2").tobytes()
    assert np.array_equal(decode_gray(data).pixels[0], np.rint(deep / 257).astype(np.uint8))


def test_32_bit_and_float_are_stretched_to_their_own_range() -> None:
    for values in (RAMP.astype(np.float32) * 3 - 100, RAMP.astype(np.int32) * 1000):
        expected = np.rint((values - values.min()) * (255 / np.ptp(values))).astype(np.uint8)
        assert np.array_equal(gray(Image.fromarray(values), "TIFF"), expected)


def test_a_constant_float_image_is_black() -> None:
    assert (gray(Image.fromarray(np.full((9, 9), 7.0, np.float32)), "TIFF") == 0).all()


def test_alpha_lies_on_white() -> None:
    clear = Image.new("RGBA", (50, 40), (0, 0, 0, 0))
    assert (gray(clear) == 255).all()
    assert (gray(Image.new("LA", (50, 40), (0, 128))) == 127).all()


def test_a_palette_gives_its_colours_not_its_indices() -> None:
    assert (gray(Image.new("RGB", (50, 50), (255, 255, 255)).convert("P"), "PNG") == 255).all()


def test_cmyk_jpeg() -> None:
    assert (gray(Image.new("CMYK", (50, 50), (0, 0, 0, 0)), "JPEG") >= 254).all()


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for kind in ("JPEG", "PNG", "TIFF"):
        pixels = gray(Image.fromarray(RAMP), kind, exif=exif)
        assert pixels[:, 0].mean() > 200 > 20 > pixels[:, -1].mean()


def test_only_the_first_page_counts() -> None:
    pages = [Image.new("L", (30, 30), value) for value in (10, 200)]
    assert (gray(pages[0], "TIFF", save_all=True, append_images=pages[1:]) == 10).all()


def test_shrinking_is_antialiased() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (SIZE * 4, SIZE * 2))
    assert np.ptp(gray(Image.fromarray(stripes))[:, 5:-5]) <= 2


def truncated() -> bytes:
    return encode(Image.fromarray(RAMP), "PNG")[:200]


def infinite() -> bytes:
    return encode(Image.fromarray(np.full((9, 9), np.inf, np.float32)), "TIFF")


def bomb() -> bytes:
    """A PNG that says it is larger than it is."""
    data = bytearray(encode(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = (9460).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    assert Image.MAX_IMAGE_PIXELS and Image.MAX_IMAGE_PIXELS < 9460**2
    return bytes(data)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: b"", "empty"),
        (lambda: b"Dear colleague, the gel is attached.", "not an image of a known format"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (truncated, "truncated"),
        (infinite, "NaN or infinite"),
        (bomb, "pixels"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_broken_files_have_a_reason(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        decode_gray(make())


def test_every_real_image_decodes(gel: Path) -> None:
    paths = [path for path in gel.glob("*/*/*") if path.is_file()]
    assert len(paths) == 114
    for path in paths:
        assert decode_gray(path.read_bytes()).pixels.std() > 5


def many_scans(count: int) -> bytes:
    """A small progressive JPEG of 4 megapixels whose last scan is repeated."""
    data = encode(Image.new("L", (2000, 2000), 100), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + b"\xff\xd9"


def test_scans_of_a_jpeg_are_bounded() -> None:
    """2,000 in 44 kB took 29 s; real files have up to about 20."""
    assert decode_gray(many_scans(20)).pixels.mean() == 100
    with pytest.raises(UnreadableImageError, match="more than 100 scans"):
        decode_gray(many_scans(20_000))
    buffer = BytesIO()
    values = np.full((64, 64), 100, np.uint8)
    tifffile.imwrite(buffer, values, compression="jpeg", photometric="minisblack", metadata=None)
    data = buffer.getvalue() + many_scans(20_000)
    start, size = len(buffer.getvalue()), len(data) - len(buffer.getvalue())
    data = patched(patched(data, 273, 4, 1, start), 279, 4, 1, size)
    with pytest.raises(UnreadableImageError, match="JPEG scans"):
        decode_gray(data)


def test_what_follows_a_jpeg_does_not_matter() -> None:
    """A second picture, or a film as telephones append it."""
    data = encode(Image.fromarray(RAMP), "JPEG")
    expected = decode_gray(data).pixels
    noise = np.random.default_rng(0).bytes(20_000_000)
    assert noise.count(b"\xff\xda") > 100
    for more in (bytes(5000), noise, data):
        assert np.array_equal(decode_gray(data + more).pixels, expected)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {}),
    ],
)
def test_a_truncated_file_never_gives_other_pixels(kind: str, settings: dict[str, object]) -> None:
    """Nor one whose end was zeroed, where the format can tell (WebP and GIF can't)."""
    noise = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind, **settings)
    whole = decode_gray(data).pixels
    ends = [len(data) - cut for cut in (1, 2, 3, 5, 8, 12, 40)]
    ends += [len(data) * tenth // 10 for tenth in range(1, 10)]
    for end in ends:
        for tail in (b"", *([bytes(len(data) - end)] if kind not in ("WEBP", "GIF") else [])):
            try:
                pixels = decode_gray(data[:end] + tail).pixels
            except UnreadableImageError:
                continue
            assert np.array_equal(pixels, whole), (end, len(tail))


def test_checksums_of_a_png_are_read() -> None:
    """Pillow decodes a flipped bit into another picture."""
    data = bytearray(encode(Image.fromarray(RAMP), "PNG"))
    data[data.index(b"IDAT") + 30] ^= 4
    with pytest.raises(UnreadableImageError, match="damaged PNG"):
        decode_gray(bytes(data))


@pytest.mark.parametrize("kind", ["zTXt", "iCCP", "iTXt"])
def test_text_that_grows_in_a_png_is_refused(kind: str) -> None:
    data, text = encode(Image.fromarray(RAMP), "PNG"), zlib.compress(bytes(2**26))
    body = kind.encode() + (b"k\0\1\0\0\0" if kind == "iTXt" else b"k\0\0") + text
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    with pytest.raises(UnreadableImageError, match="too large"):
        decode_gray(data[:33] + chunk + data[33:])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_only_the_first_of_very_many_frames_is_decoded(kind: str) -> None:
    frames = [Image.new("L", (32, 32), number % 256) for number in range(2000)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    started = time.perf_counter()
    assert decode_gray(data).several_pages
    assert time.perf_counter() - started < 2


def test_jpeg_2000_of_other_bits_is_right_or_refused() -> None:
    """Pillow rounds colours of 16 bits up to 256, which is black, and leaves 4 bits too dark."""
    deep = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    for values, bits in ((np.dstack([deep] * 3), 16), (np.dstack([deep >> 4] * 3), 12)):
        data = bytes(
            imagecodecs.jpeg2k_encode(values, level=0, reversible=True, bitspersample=bits)
        )
        with pytest.raises(UnreadableImageError, match=f"{bits} bits is not supported"):
            decode_gray(data)
    data = bytes(imagecodecs.jpeg2k_encode(RAMP >> 4, level=0, reversible=True, bitspersample=4))
    with pytest.raises(UnreadableImageError, match="4 bits is not supported"):
        decode_gray(data)
    data = bytes(imagecodecs.jpeg2k_encode(deep >> 4, level=0, reversible=True, bitspersample=12))
    expected = np.rint((deep >> 4) * (255 / 4095))
    assert np.abs(decode_gray(data).pixels[0] - expected).max() <= 1


class TestPadding:
    """`--fit pad`: shapes are kept, and what is added is like the border."""

    def padded(self, image: Image.Image) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = decode_gray(
            encode(image, "PNG"), Preprocessing(fit="pad")
        ).pixels
        return pixels.reshape(SIZE, SIZE)

    def test_a_wide_image_gets_bars_of_its_borders_level(self) -> None:
        image = Image.new("L", (448, 224), 200)
        image.paste(10, (150, 60, 300, 160))
        pixels = self.padded(image)
        assert (pixels[:56] == 200).all()
        assert (pixels[-56:] == 200).all()
        inner = np.asarray(image.resize((SIZE, SIZE // 2), Image.Resampling.BILINEAR))
        assert np.abs(pixels[56:-56].astype(int) - inner).max() <= 1

    def test_a_square_image_is_as_it_was(self) -> None:
        image = Image.effect_noise((224, 224), 60)
        assert np.array_equal(self.padded(image), decode_gray(encode(image, "PNG")).pixels[0])

    @pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
    def test_any_shape_becomes_a_square(self, size: tuple[int, int]) -> None:
        assert (self.padded(Image.new("L", size, 99)) == 99).all()

    def test_the_pixel_limit_holds_for_the_square(self) -> None:
        """138 bytes of 60000 x 1 pixels took 3.3 GB and 22 s as a square of 60000 x 60000."""
        data = encode(Image.new("L", (60_000, 1)), "PNG")
        with pytest.raises(UnreadableImageError, match=r"60000 x 60000 .*--fit pad.*--max-pixels"):
            decode_gray(data, Preprocessing(fit="pad"))
        assert (decode_gray(data).pixels == 0).all()

    def test_it_is_another_cache(self, toy: LoadedBackbone) -> None:
        usual, pad = (
            EmbeddingSpec(toy, "cpu", ("torch",), "fp32", Preprocessing(fit=fit)).key
            for fit in FITS
        )
        assert pad.differences(usual) == [f"fit: {FITS['pad']!r}, not {FITS['stretch']!r}"]
        assert preprocessing_of(pad).fit == "pad"


MEASURE = """
import sys
from extract.imaging.decode import decode_gray
def peak():
    return 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
small, large = (open(path, "rb").read() for path in sys.argv[1:])
decode_gray(small)
before = peak()
image = decode_gray(large)
print((peak() - before) / (image.width * image.height))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("kind", "dtype", "stored"),
    [("TIFF", np.uint16, 2), ("PNG", np.uint16, 2), ("PPM", np.int32, 4), ("TIFF", np.float32, 4)],
)
def test_memory_of_deep_images(
    kind: str, dtype: type[np.generic], stored: int, tmp_path: Path
) -> None:
    """At the peak: the image as Pillow stores it, and its gray levels. 26 to 33 bytes per pixel
    were 3 GB for one thread at 89 megapixels.
    """
    pixels = np.random.default_rng(1).integers(0, 2**16, (2500, 2500)).astype(dtype)
    paths = [tmp_path / name for name in ("small", "large")]
    for path, values in zip(paths, (pixels[:64, :64], pixels), strict=True):
        path.write_bytes(encode(Image.fromarray(values), kind))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, paths)], cwd=ROOT, capture_output=True, text=True
    )
    assert float(done.stdout) < stored + 2, done.stderr
