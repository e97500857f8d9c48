"""Text files whose SHA-256 lies beside them, as `sha256sum` writes it: `NAME.sha256`.

For files that people open too: nothing foreign stands in them, and `sha256sum --check` checks them.
"""

import hashlib
from pathlib import Path

from cache.atomic import replacing

SUFFIX = ".sha256"


def write_checksum(path: Path) -> None:
    """Write the checksum of a file as it is now. Raises OSError."""
    with replacing(checksum_path(path)) as temporary:
        temporary.write_text(_line(path), encoding="utf-8", errors="surrogateescape")


def check_checksum(path: Path) -> None:
    """Hold a file against its checksum.

    Raises:
        ValueError: the file is not as it was written, or has no checksum.
        OSError: one of them can't be read.
    """
    try:
        stored = checksum_path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        raise ValueError("it has no checksum: an older version of Frostline wrote it") from None
    if stored != _line(path):
        raise ValueError("its content does not match its checksum")


def checksum_path(path: Path) -> Path:
    """Where the checksum of a file lies."""
    return path.with_name(path.name + SUFFIX)


def _line(path: Path) -> str:
    with path.open("rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n"
