"""Bytes of an image file → one gray picture, uint8 [1, 224, 224]. The only decoding there is.

The rules below are part of every cache's identity: change a rule, change its name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cache.errors import UnreadableImageError
from extract.decoding import AS_USUAL, Decoding
from extract.views import border_level, rendered

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

# Formats that are read at all, by Pillow's name, and their file names' suffixes. Others stay shut:
# Pillow would start Ghostscript for an EPS file.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "JPEG2000": (".jp2", ".j2k"),
    "PPM": (".pgm", ".ppm", ".pbm", ".pnm"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
WHITE_IS_ZERO = 0  # of TIFF tag 262, PhotometricInterpretation
PHOTOMETRIC_TAG = 262
BITS_PER_SAMPLE_TAG = 258
UNSIGNED, SIGNED = 1, 2  # of TIFF tag 339, SampleFormat
SAMPLE_FORMAT_TAG = 339


@dataclass(frozen=True)
class Picture:
    """pixels: uint8 [1, 224, 224]. several_pages: the file has more pages or frames than this.
    width, height: as stored, in pixels; mode: Pillow's name of how. views: augmented ones, of the
    shape of `pixels`.
    """

    pixels: NDArray[np.uint8]
    several_pages: bool
    width: int
    height: int
    mode: str
    views: tuple[NDArray[np.uint8], ...] = ()


def decode_gray(data: bytes, decoding: Decoding = AS_USUAL, numbers: Sequence[int] = ()) -> Picture:
    """Decode an image file's bytes; of several pages or frames, the first.

    More pixels than `PIL.Image.MAX_IMAGE_PIXELS` are refused undecoded, as a decompression bomb.
    numbers: of augmented views to render besides, from 1 on.

    Raises:
        UnreadableImageError: the bytes are no picture that Pillow can decode whole.
    """
    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        with Image.open(BytesIO(data), formats=list(FORMATS)) as image:
            _check_size(image)
            several_pages = _has_several_pages(image)
            stored = (image.width, image.height, image.mode)
            gray = _to_gray(image, decoding.fast)
        if decoding.fit == "pad":
            gray = _padded(gray)
        key = sha256(data).digest() if numbers else b""
        policy = decoding.augmentation
        augmented = tuple(rendered(gray, key, number, SIZE, policy) for number in numbers)
        gray = gray.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:  # twice the limit; Pillow refuses by itself
        raise _too_large(str(error)) from None
    except UnidentifiedImageError:
        raise UnreadableImageError(_unknown(data)) from None
    # Pillow's decoders raise whatever they like on broken files; none of it may end a run.
    except Exception as error:
        raise UnreadableImageError(f"{error}" or type(error).__name__) from error
    return Picture(np.array(gray)[np.newaxis], several_pages, *stored, augmented)


def _check_size(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise _too_large(f"{image.width} x {image.height} pixels")


def _too_large(size: str) -> UnreadableImageError:
    return UnreadableImageError(f"refused undecoded, being too large: {size} (see --max-pixels)")


def _unknown(data: bytes) -> str:
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "a kind of TIFF that Pillow can't read: save it as gray of 8 or 16 bits"
    return "not an image of a known format"


def _has_several_pages(image: Image.Image) -> bool:
    """Look for a second page or frame; the previews behind a camera's JPEG are none."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001 - whatever a broken second page raises, the first may be whole
        return False


def _to_gray(image: Image.Image, fast: bool) -> Image.Image:
    if image.format in ("JPEG", "MPO"):  # MPO: what many cameras write, a JPEG with more behind it
        # At full size this is the stored luma, without a detour through RGB (and 1.5x faster).
        # A smaller size is only a lower bound: the decoder halves as long as it stays above.
        image.draft("L", (2 * SIZE, 2 * SIZE) if fast else image.size)
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        gray = _gray_full_scale(image)
    elif image.mode in ("I", "F"):
        gray = _gray_stretched(image)
    elif _tag(image, SAMPLE_FORMAT_TAG) == SIGNED:  # Pillow would take -1 for 255
        raise UnreadableImageError("a TIFF of signed 8-bit numbers: save it as unsigned ones")
    elif image.has_transparency_data:
        colour = image.convert("RGBA")
        white = Image.new("RGBA", colour.size, "white")
        gray = Image.alpha_composite(white, colour).convert("L")
    else:
        gray = image.convert("L")
    orientation = ExifTags.Base.Orientation
    gray.getexif()[orientation] = image.getexif().get(orientation, 1)
    return ImageOps.exif_transpose(gray)


def _padded(gray: Image.Image) -> Image.Image:
    side = max(gray.size)
    square = Image.new("L", (side, side), border_level(gray))
    square.paste(gray, ((side - gray.width) // 2, (side - gray.height) // 2))
    return square


def _gray_full_scale(image: Image.Image) -> Image.Image:
    """Scale 0…full scale (65535, a TIFF of 12 bits 4095) to 0…255.

    Pillow's own conversion clips, and leaves WhiteIsZero inverted.
    """
    values = np.asarray(image).astype(np.float64)
    full = 2 ** (_tag(image, BITS_PER_SAMPLE_TAG) or 16) - 1
    if _tag(image, PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        values = full - values
    transparent = image.info.get("transparency")  # of a PNG: the one value that is
    if isinstance(transparent, int):
        values[values == transparent] = full
    return Image.fromarray(np.rint(values * (255 / full)).astype(np.uint8))


def _gray_stretched(image: Image.Image) -> Image.Image:
    """Scale an image without a known full scale from its own minimum…maximum to 0…255."""
    stored = np.asarray(image)
    if image.mode == "I" and _tag(image, SAMPLE_FORMAT_TAG) == UNSIGNED:
        stored = stored.view(np.uint32)  # Pillow has no such mode: the upper half came negative
    values = stored.astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadableImageError("it holds NaN or infinite pixels")
    if _tag(image, PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        values = -values
    low, high = values.min(), values.max()
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _tag(image: Image.Image, number: int) -> int | None:
    """Return a TIFF tag's value, of several samples the first one's; None where there is none."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value
