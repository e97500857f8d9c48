"""An image file of a data set, and where it is: on this machine, or behind a URL of fsspec."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import cast

from cache.errors import DatasetError

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
UNPACKED = ".unpacked"  # ends the name of a folder that holds an unpacked archive

URL = re.compile(r"[a-z][a-z0-9+.-]+(::[a-z][a-z0-9+.-]+)*://", re.IGNORECASE)
LOCAL = ("file://", "local://")
# What URLs need.
INSTALL = "pip install universal-pathlib, s3fs for s3://, gcsfs for gs://, others as it names them"


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image of a data set.

    Attributes:
        path: Where it is; of a URL, a `upath.UPath`.
        label: Its class.
        sha256: Of its bytes; 32 bytes.
    """

    path: Path
    label: str
    sha256: bytes


def to_path(text: str) -> Path:
    """Return the path that a text names; of a URL, a `upath.UPath`, which works as a Path does.

    `file://` is this machine.

    Raises:
        DatasetError: the URL's scheme is not known, or a package for URLs is missing.
    """
    if not is_url(text):
        return Path(plain(text))
    scheme, colon, rest = text.partition("://")
    try:
        from upath import UPath

        return cast(Path, UPath(scheme + colon + rest.rstrip("/")))
    except ImportError as error:
        raise DatasetError(f"{text} can't be read ({error}): {INSTALL}") from None
    except ValueError as error:
        raise DatasetError(
            f"{text}: {error}: give a folder or file, or a URL such as s3://BUCKET/FOLDER"
        ) from None


def is_url(text: str) -> bool:
    """Return whether a text is a URL, and no path of this machine."""
    return URL.match(text) is not None and not text.lower().startswith(LOCAL)


def plain(text: str) -> str:
    """Return a path of this machine without `file://`."""
    return text.partition("://")[2] if text.lower().startswith(LOCAL) else text


def is_remote(path: Path) -> bool:
    """Return whether a path of `to_path` is behind a URL."""
    return not isinstance(path, PurePath)
