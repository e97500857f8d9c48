"""Bytes of an image file → one gray picture, uint8 [1, 224, 224]. The only decoding there is.

The rules below are part of every cache's identity: change a rule, change its name.
"""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cache.errors import UnreadableImageError

SIZE = 224
GRAY_RULE = "JPEG: luma as stored; else ITU-R 601 luma; alpha on white; EXIF rotation applied"
BIT_DEPTH_RULE = "9..16-bit: full scale to 0..255; 32-bit and float: minimum..maximum to 0..255"
FIT_RULE = "stretch"
INTERPOLATION_RULE = "Pillow bilinear, antialiased"

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
MAX_PIXELS = 89_478_485  # Pillow's own limit, above which it suspects a decompression bomb

WHITE_IS_ZERO = 0  # TIFF tag 262, PhotometricInterpretation
PHOTOMETRIC_TAG = 262
BITS_PER_SAMPLE_TAG = 258


def decode_gray(data: bytes) -> NDArray[np.uint8]:
    """Decode an image file's bytes to uint8 [1, 224, 224].

    Several pages or frames: the first. More than `MAX_PIXELS` are refused before decoding.

    Raises:
        UnreadableImageError: the bytes are no picture that Pillow can decode whole.
    """
    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        with Image.open(BytesIO(data), formats=list(FORMATS)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImageError(f"over {MAX_PIXELS:,} pixels: refused undecoded")
            gray = _to_gray(image)
        gray = gray.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image of a known format") from None
    # Pillow's decoders raise whatever they like on broken files; none of it may end a run.
    except Exception as error:
        raise UnreadableImageError(f"{error}" or type(error).__name__) from error
    return np.array(gray)[np.newaxis]


def _to_gray(image: Image.Image) -> Image.Image:
    if image.format in ("JPEG", "MPO"):  # MPO: what many cameras write, a JPEG with more behind it
        # At full size this is the stored luma, without a detour through RGB (and 1.5x faster).
        image.draft("L", image.size)
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        gray = _gray_full_scale(image)
    elif image.mode in ("I", "F"):
        gray = _gray_stretched(image)
    elif image.has_transparency_data:
        colour = image.convert("RGBA")
        white = Image.new("RGBA", colour.size, "white")
        gray = Image.alpha_composite(white, colour).convert("L")
    else:
        gray = image.convert("L")
    orientation = ExifTags.Base.Orientation
    gray.getexif()[orientation] = image.getexif().get(orientation, 1)
    return ImageOps.exif_transpose(gray)


def _gray_full_scale(image: Image.Image) -> Image.Image:
    """Scale 0…full scale (65535, a TIFF of 12 bits 4095) to 0…255.

    Pillow's own conversion clips, and leaves WhiteIsZero inverted.
    """
    values = np.asarray(image).astype(np.float64)
    tags = getattr(image, "tag_v2", {})
    full = 2 ** tags.get(BITS_PER_SAMPLE_TAG, (16,))[0] - 1
    if tags.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        values = full - values
    return Image.fromarray(np.rint(values * (255 / full)).astype(np.uint8))


def _gray_stretched(image: Image.Image) -> Image.Image:
    """Scale an image without a known full scale from its own minimum…maximum to 0…255."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadableImageError("it holds NaN or infinite pixels")
    low, high = values.min(), values.max()
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))
