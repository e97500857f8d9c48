"""Small pictures of the images, in the page itself, and only of the very bytes asked for."""

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.errors import UnreadableImageError
from evaluate.workspace.image_files import ImageFiles
from extract.imaging.decode import decode_gray

ACROSS = 20  # pictures in a row of a sheet
QUALITY = 70  # of WebP


def pixels_of(files: ImageFiles, path: Path, key: bytes) -> NDArray[np.uint8] | None:
    """Decode an image as the backbone sees it: uint8 [224, 224].

    Args:
        key: The SHA-256 of the file's bytes. None if it is not found, or can't be decoded.
    """
    data = files.read(path, key)
    if data is None:
        return None
    try:
        pixels: NDArray[np.uint8] = decode_gray(data).pixels[0]
    except UnreadableImageError:
        return None
    return pixels


def thumbnail(files: ImageFiles, path: Path, key: bytes, side: int) -> str | None:
    """Show an image small, as a data URI; None if it is not found."""
    pixels = pixels_of(files, path, key)
    return None if pixels is None else data_uri(Image.fromarray(pixels), side)


def data_uri(image: Image.Image, side: int | None = None) -> str:
    """Write a picture as WebP into a data URI, scaled to a square of `side` pixels if given."""
    buffer = BytesIO()
    small = image.resize((side, side), Image.Resampling.LANCZOS) if side else image
    small.save(buffer, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{b64encode(buffer.getvalue()).decode()}"


def sheet(files: ImageFiles, images: Sequence[tuple[Path, bytes]], side: int) -> str | None:
    """Put small pictures of images into one, `ACROSS` in a row, in order.

    Args:
        images: Paths and hashes. One that is not found leaves its place gray. None if none is.
    """
    rows = -(-len(images) // ACROSS)
    whole = Image.new("L", (min(len(images), ACROSS) * side, rows * side), 224)
    found = False
    for number, (path, key) in enumerate(images):
        pixels = pixels_of(files, path, key)
        if pixels is not None:
            found = True
            small = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
            whole.paste(small, (number % ACROSS * side, number // ACROSS * side))
    return data_uri(whole) if found else None
