"""Bytes of an image file → one gray picture, uint8 [1, 224, 224]. The only decoding there is.

The rules below are part of every cache's key: change a rule, change its name.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from cache.errors import UnreadableImageError
from extract.imaging import tiff
from extract.imaging.preprocessing import AS_USUAL, EIGHT_BITS, Depth, Preprocessing
from extract.sources.image_file import FORMATS

SIZE = 224
GRAY_RULE = "JPEG: luma as stored; else ITU-R 601 luma; alpha on white; EXIF rotation applied"
BIT_DEPTH_RULE = (
    "9..16-bit gray: full scale to 0..255; 16-bit colour: high byte; "
    "32-bit and float: minimum..maximum to 0..255"
)
INTERPOLATION_RULE = "Pillow bilinear, antialiased"
FAST_INTERPOLATION_RULE = (
    "Pillow bilinear, antialiased; before, JPEG by 1/2, 1/4 or 1/8 in its cosine transform, "
    "to twice the size or more"
)

JPEG_START, END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"
MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")  # those that begin a segment, or end it all
SIZE_OF_IMAGE = b"\xff\x4f\xff\x51"  # in JPEG 2000: its codestream's start, then the marker SIZ
BAND = 2**18  # pixels that are converted at once
COMMENT = re.compile(rb"#[^\r\n]*")  # in a plain PPM
PRECISION_AT = 42  # bytes after SIZE_OF_IMAGE: bits of the first component, less one
STRETCHED = Depth(0, 0, 0)


@dataclass(frozen=True)
class DecodedImage:
    """One gray image.

    Attributes:
        pixels: uint8 [1, 224, 224].
        several_pages: The file has more pages or frames than this.
        width: As stored, in pixels.
        height: As stored, in pixels.
        mode: Pillow's name of how it is stored.
        views: Augmented ones, each uint8 [1, 224, 224].
        depth: Of the stored samples.
    """

    pixels: NDArray[np.uint8]
    several_pages: bool
    width: int
    height: int
    mode: str
    views: tuple[NDArray[np.uint8], ...] = ()
    depth: Depth = EIGHT_BITS


def decode_gray(
    data: bytes, preprocessing: Preprocessing = AS_USUAL, numbers: Sequence[int] = ()
) -> DecodedImage:
    """Decode an image file's bytes; of several pages or frames, the first.

    More pixels than `PIL.Image.MAX_IMAGE_PIXELS` are refused undecoded, as a decompression bomb.

    Args:
        data: The file's bytes.
        preprocessing: How they become pixels.
        numbers: Augmented views to render besides, from 1 on.

    Raises:
        UnreadableImageError: the bytes are no image that Pillow can decode completely.
    """
    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        gray, depth, several_pages, stored = _opened(data, preprocessing)
        if preprocessing.fit == "pad":
            gray = _padded(gray)
        augmented = _views(gray, data, preprocessing, numbers) if numbers else ()
        gray = gray.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:  # twice the limit; Pillow refuses by itself
        raise _too_large(str(error)) from None
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image of a known format") from None
    # Pillow's decoders raise whatever they like on broken files; none of it may end a run.
    except Exception as error:
        raise UnreadableImageError(f"{error}" or type(error).__name__) from error
    return DecodedImage(np.array(gray)[np.newaxis], several_pages, *stored, augmented, depth)


def _check_size(width: int, height: int, what: str = "") -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise _too_large(f"{width} x {height} pixels{what}")


def _too_large(size: str) -> UnreadableImageError:
    return UnreadableImageError(f"refused undecoded, being too large: {size} (see --max-pixels)")


def _opened(
    data: bytes, preprocessing: Preprocessing
) -> tuple[Image.Image, Depth, bool, tuple[int, int, str]]:
    """Return the gray image of the first page that counts, its depth, whether there are more, and
    how it is stored: width, height, mode.
    """
    if data.startswith(tiff.STARTS):
        with tiff.first_page(data) as (page, several_pages):
            if not isinstance(page, ImageFile.ImageFile):
                _check_size(page.imagewidth, page.imagelength)
                numbers = tiff.numbers(page)
                gray, depth = _gray_of_numbers(numbers, preprocessing.full_scale)
                return gray, depth, several_pages, (gray.width, gray.height, numbers.mode)
            _check_size(page.width, page.height)
            stored = page.width, page.height, page.mode
            return *_to_gray(page, data, preprocessing), several_pages, stored
    if data.startswith(JPEG_START):
        _check_jpeg(data)
    with Image.open(BytesIO(data), formats=list(FORMATS)) as image:
        _check_size(image.width, image.height)
        if image.format == "PNG":  # decoding alone leaves the checksums unread
            _check_png(data)
        if image.format == "JPEG2000":
            _check_jpeg2000(data, image.mode)
        stored = image.width, image.height, image.mode
        several_pages = _has_several_pages(image)
        return *_to_gray(image, data, preprocessing), several_pages, stored


def _check_jpeg(data: bytes) -> None:
    """Refuse what takes minutes to decode, and what the decoder would complete by itself."""
    many = data.count(tiff.START_OF_SCAN) > tiff.MOST_SCANS
    if not many and data.rfind(END_OF_IMAGE) > data.rfind(tiff.START_OF_SCAN):
        return
    # Or something else follows, a film for example, and only looks like this.
    scans, position = 0, len(JPEG_START)
    while marker := MARKER.search(data, position):
        if marker[0] == END_OF_IMAGE:
            return
        scans += marker[0] == tiff.START_OF_SCAN
        if scans > tiff.MOST_SCANS:
            raise UnreadableImageError(
                f"refused undecoded: a JPEG of more than {tiff.MOST_SCANS} scans takes minutes. "
                "Save it again"
            )
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    raise UnreadableImageError("a truncated JPEG: its end is missing")


def _check_png(data: bytes) -> None:
    try:
        Image.open(BytesIO(data), formats=["PNG"]).verify()
    except Exception as error:  # whatever it raises
        raise UnreadableImageError(f"a truncated or damaged PNG: {error}") from error


def _check_jpeg2000(data: bytes, mode: str) -> None:
    """Refuse bits that Pillow doesn't scale to 0…255: of colours deeper than 8 bits the brightest
    overflow to black.
    """
    start = data.find(SIZE_OF_IMAGE)
    count = int.from_bytes(data[start + 40 : start + 42], "big")
    bits = {(each & 127) + 1 for each in data[start + 42 : start + 42 + 3 * count : 3]}
    if bits != {8} and not (mode.startswith("I;16") and min(bits) > 8):
        raise UnreadableImageError(
            f"JPEG 2000 of mode {mode} and {', '.join(map(str, sorted(bits)))} bits is not "
            "supported. Save the file with 8 bits, or as PNG or TIFF"
        )


def _has_several_pages(image: Image.Image) -> bool:
    """Look for a second page or frame; the previews behind a camera's JPEG are none."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001 - whatever a broken second page raises, the first may be whole
        return False


def _to_gray(
    image: ImageFile.ImageFile, data: bytes, preprocessing: Preprocessing
) -> tuple[Image.Image, Depth]:
    depth = EIGHT_BITS
    if deep := _deep_colour(image, data):  # of which Pillow keeps the high bytes only
        numbers, own = deep
        gray, depth = _gray_of_numbers(numbers, preprocessing.full_scale)
        depth = Depth(own, depth.largest, min(own, preprocessing.full_scale))
        if depth.white < own:
            return gray, depth
    if image.format in ("JPEG", "MPO"):  # MPO: what many cameras write, a JPEG with more behind it
        # At full size this is the stored luma, without a detour through RGB (and 1.5x faster).
        # A smaller size is only a lower bound: the decoder halves as long as it stays above.
        image.draft("L", (2 * SIZE, 2 * SIZE) if preprocessing.fast else image.size)
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        gray, depth = _gray_full_scale(image, _full_scale(image, data), preprocessing.full_scale)
    elif image.mode in ("I", "F"):
        gray, depth = _gray_stretched(_samples(image)), STRETCHED
    elif image.has_transparency_data:
        image.load()
        gray = _in_bands(image.height, image.width, lambda *rows: _on_white(_rows_of(image, *rows)))
    else:
        gray = image.convert("L")
    return _turned(gray, image.getexif().get(ExifTags.Base.Orientation, 1)), depth


def _deep_colour(image: Any, data: bytes) -> tuple[tiff.Numbers, int] | None:
    """Return the numbers of a colour image of 9 to 16 bits, and their full scale; None of another
    image, and where only Pillow reads it. The image is not loaded yet.
    """
    if image.mode not in ("RGB", "RGBA") or not image.tile:
        return None
    codec, _, offset, args = image.tile[0]
    last = args if isinstance(args, str) else args[-1] if args else None
    if image.format == "TIFF" and 16 in image.tag_v2.get(tiff.BITS, ()):
        try:
            return tiff.numbers_of(data, image.tell()), 2**16 - 1
        except UnreadableImageError:
            return None
    values: NDArray[Any]
    photometric, alpha = tiff.RGB, None
    if image.format == "PNG" and ";16" in str(last):
        from imagecodecs import png_decode

        values, own = np.atleast_3d(png_decode(data)), 2**16 - 1
        photometric = tiff.RGB if values.shape[2] > 2 else tiff.BLACK_IS_ZERO
        alpha = tiff.STRAIGHT if values.shape[2] in (2, 4) else None
    elif image.format == "PPM" and isinstance(last, int) and last > 255:
        count, own = image.height * image.width * 3, last
        if codec == "ppm":
            values = np.frombuffer(data, ">u2", count, offset)
        else:
            values = np.array(COMMENT.sub(b"", data[offset:]).split()[:count], dtype=int)
        values = values.astype(np.uint16).reshape(image.height, image.width, 3)
    else:
        return None
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return tiff.Numbers(values, photometric, 16, alpha, None, orientation), own


def _turned(gray: Image.Image, orientation: int) -> Image.Image:
    gray.getexif()[ExifTags.Base.Orientation] = orientation
    ImageOps.exif_transpose(gray, in_place=True)
    return gray


def _rows_of(image: Image.Image, top: int, bottom: int) -> Image.Image:
    return image.crop((0, top, image.width, bottom))


def _on_white(colour: Image.Image) -> NDArray[np.uint8]:
    """Lay what is transparent on white, and return the luma."""
    if colour.mode == "La":  # premultiplied; Pillow converts it to nothing else
        colour = colour.convert("LA")
    colour = colour.convert("RGBA")
    white = Image.new("RGBA", colour.size, "white")
    return np.asarray(Image.alpha_composite(white, colour).convert("L"))


def _in_bands(
    height: int, width: int, rows: Callable[[int, int], NDArray[np.uint8]]
) -> Image.Image:
    """Return the image of mode L that `rows` gives a few rows at a time: (top, bottom) → levels."""
    return Samples(height, width, rows).gray(lambda levels: levels)


def _views(
    gray: Image.Image, data: bytes, preprocessing: Preprocessing, numbers: Sequence[int]
) -> tuple[NDArray[np.uint8], ...]:
    from extract.imaging.augmentation import render_view

    key, policy = sha256(data).digest(), preprocessing.augmentation
    return tuple(render_view(gray, key, number, SIZE, policy) for number in numbers)


def _padded(gray: Image.Image) -> Image.Image:
    from extract.imaging.augmentation import border_level

    side = max(gray.size)
    _check_size(side, side, " once --fit pad has padded it to a square")
    square = Image.new("L", (side, side), border_level(gray))
    square.paste(gray, ((side - gray.width) // 2, (side - gray.height) // 2))
    return square


@dataclass(frozen=True)
class Samples:
    """One number of any type per pixel, read a few rows at a time: temporaries stay small.

    Attributes:
        rows: (top, bottom) → array [bottom - top, width].
    """

    height: int
    width: int
    rows: Callable[[int, int], NDArray[Any]]
    white_is_zero: bool = False

    def bands(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (top, rows from there on) from the first row to the last."""
        step = max(1, BAND // self.width)
        for top in range(0, self.height, step):
            yield top, self.rows(top, min(top + step, self.height))

    def gray(self, level_of: Callable[[NDArray[Any]], NDArray[np.uint8]]) -> Image.Image:
        """Return the image of mode L.

        Args:
            level_of: Numbers → 0…255.
        """
        levels = np.empty((self.height, self.width), np.uint8)
        for top, band in self.bands():
            levels[top : top + len(band)] = level_of(band)
        return Image.fromarray(levels)

    def gray_by(self, levels: NDArray[np.uint8]) -> tuple[Image.Image, int]:
        """Return the image of mode L, and the largest number.

        Args:
            levels: Gray level by number.
        """
        largest = 0

        def level_of(numbers: NDArray[Any]) -> NDArray[np.uint8]:
            nonlocal largest
            largest = max(largest, int(numbers.max()))
            return np.take(levels, numbers)

        return self.gray(level_of), largest


def _samples(image: Image.Image) -> Samples:
    image.load()
    return Samples(image.height, image.width, lambda *rows: np.asarray(_rows_of(image, *rows)))


@lru_cache(maxsize=8)
def gray_levels(full: int, white_is_zero: bool = False) -> NDArray[np.uint8]:
    """Return the gray level that each 16-bit number shows as: 0…full → 0…255, uint8 [65536].

    Pillow's own conversion clips, and leaves WhiteIsZero inverted.
    """
    values = np.minimum(np.arange(2**16), full).astype(np.float64)
    if white_is_zero:
        values = full - values
    levels = np.rint(values * (255 / full)).astype(np.uint8)
    levels.flags.writeable = False
    return levels


def _gray_full_scale(image: ImageFile.ImageFile, own: int, limit: int) -> tuple[Image.Image, Depth]:
    """Scale 0 to `own`, the file's full scale, or to `limit` if that is smaller, to 0 to 255.

    Pillow has scaled the values of PGM and JPEG 2000 to 16 bits.
    """
    stored = np.arange(2**16)  # by Pillow's value
    if image.format == "JPEG2000":
        stored >>= 16 - own.bit_length()
    elif own != 2**16 - 1:
        stored = np.rint(stored * (own / (2**16 - 1))).astype(np.int64)
    levels = gray_levels(2**16 - 1) if limit >= own else gray_levels(limit)[stored]
    transparent = image.info.get("transparency")  # of a PNG: the one value that is
    if isinstance(transparent, int):
        levels = levels.copy()
        levels[transparent] = 255
    gray, largest = _samples(image).gray_by(levels)
    return gray, Depth(own, int(stored[largest]), min(own, limit))


def _full_scale(image: ImageFile.ImageFile, data: bytes) -> int:
    """Return the largest value that a sample can have. The image is not loaded yet."""
    if image.format == "JPEG2000":
        size = data.index(SIZE_OF_IMAGE)
        return int(2 ** ((data[size + PRECISION_AT] & 0x7F) + 1)) - 1
    args = image.tile[0].args if image.tile else ""
    if image.format == "PPM" and isinstance(args, tuple) and isinstance(args[-1], int):
        return args[-1]
    return 2**16 - 1


def _gray_stretched(samples: Samples) -> Image.Image:
    """Scale an image without a known full scale from its own minimum…maximum to 0…255."""
    low, high = np.inf, -np.inf
    for _, band in samples.bands():
        if not np.isfinite(band).all():
            raise UnreadableImageError("it holds NaN or infinite pixels")
        low, high = min(low, float(band.min())), max(high, float(band.max()))
    sign = -1.0 if samples.white_is_zero else 1.0
    if samples.white_is_zero:
        low, high = -high, -low
    factor = 255 / (high - low) if high > low else 0.0

    def level_of(band: NDArray[Any]) -> NDArray[np.uint8]:
        return np.rint((sign * band.astype(np.float64) - low) * factor).astype(np.uint8)

    return samples.gray(level_of)


def _gray_of_numbers(page: tiff.Numbers, limit: int) -> tuple[Image.Image, Depth]:
    """Convert what tifffile read by the rules that hold for what Pillow reads."""
    height, width, _ = page.values.shape
    full = 2**page.bits - 1
    depth = EIGHT_BITS
    if page.photometric in (tiff.RGB, tiff.CMYK):
        colours = min(3, page.values.shape[2]) if page.photometric == tiff.RGB else 0
        if colours and page.bits > 8:
            depth = Depth(full, int(page.values[..., :colours].max()), min(full, limit))

        def luma(top: int, bottom: int) -> NDArray[np.uint8]:
            stored = page.values[top:bottom]
            band = (stored >> (page.bits - 8)).astype(np.uint8)
            if limit < full and colours:
                band[..., :colours] = gray_levels(limit)[stored[..., :colours]]
            return _luma(band, page)

        return _turned(_in_bands(height, width, luma), page.orientation), depth

    def samples(number: int, white_is_zero: bool = False) -> Samples:
        return Samples(height, width, lambda a, b: page.values[a:b, :, number], white_is_zero)

    first = samples(0, page.photometric == tiff.WHITE_IS_ZERO)
    if page.palette is not None:
        table = (page.palette.T[np.newaxis] >> 8).astype(np.uint8)
        levels = np.asarray(Image.fromarray(table).convert("L"))[0]
        gray = first.gray(lambda numbers: levels[numbers])
    elif page.unsigned:
        white = min(full, limit) if page.bits > 8 else full
        gray, largest = first.gray_by(gray_levels(white, first.white_is_zero))
        depth = Depth(full, largest, white) if page.bits > 8 else EIGHT_BITS
    else:
        gray, depth = _gray_stretched(first), STRETCHED
    if page.alpha:
        alpha = samples(1).gray(lambda numbers: gray_levels(full)[numbers])
        both = Image.merge("La" if page.alpha == tiff.PREMULTIPLIED else "LA", (gray, alpha))
        gray = _in_bands(height, width, lambda *rows: _on_white(_rows_of(both, *rows)))
    return _turned(gray, page.orientation), depth


def _luma(colours: NDArray[np.uint8], page: tiff.Numbers) -> NDArray[np.uint8]:
    mode = "CMYK" if page.photometric == tiff.CMYK else "RGB"
    if page.alpha:
        mode = "RGBa" if page.alpha == tiff.PREMULTIPLIED else "RGBA"
    height, width, _ = colours.shape
    stored = np.ascontiguousarray(colours[..., : len(mode)])
    image = Image.frombytes(mode, (width, height), stored.tobytes())
    return _on_white(image) if page.alpha else np.asarray(image.convert("L"))
