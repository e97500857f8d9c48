"""Small pictures of the images, in the page itself, and only if the file is still the same."""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.errors import UnreadableImageError
from extract.decode import decode_gray

ACROSS = 20  # pictures in a row of a sheet
QUALITY = 70  # of WebP


def pixels_of(path: Path, key: bytes) -> NDArray[np.uint8] | None:
    """Decode an image as the backbone sees it: uint8 [224, 224].

    key: the SHA-256 of the file's bytes. None where the file was moved or changed since.
    """
    try:
        data = path.read_bytes()
        if sha256(data).digest() != key:
            return None
        pixels: NDArray[np.uint8] = decode_gray(data).pixels[0]
    except (OSError, UnreadableImageError):
        return None
    return pixels


def thumbnail(path: Path, key: bytes, side: int) -> str | None:
    """Show an image small, as a data URI; None where its file was moved or changed since."""
    pixels = pixels_of(path, key)
    return None if pixels is None else data_uri(Image.fromarray(pixels), side)


def data_uri(image: Image.Image, side: int | None = None) -> str:
    """Write a picture as WebP into a data URI, scaled to a square of `side` pixels if given."""
    buffer = BytesIO()
    small = image.resize((side, side), Image.Resampling.LANCZOS) if side else image
    small.save(buffer, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{b64encode(buffer.getvalue()).decode()}"


def sheet(files: Sequence[tuple[Path, bytes]], side: int) -> str | None:
    """Put small pictures of image files into one, `ACROSS` in a row, in order.

    A file that was moved or changed since leaves its place gray. None if all were.
    """
    rows = -(-len(files) // ACROSS)
    whole = Image.new("L", (min(len(files), ACROSS) * side, rows * side), 224)
    found = False
    for number, (path, key) in enumerate(files):
        pixels = pixels_of(path, key)
        if pixels is not None:
            found = True
            small = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
            whole.paste(small, (number % ACROSS * side, number // ACROSS * side))
    return data_uri(whole) if found else None
