"""An image of a data set: where it is, its label, the SHA-256 of its bytes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image: where it lies, its class, the SHA-256 of its bytes (32 bytes)."""

    path: Path
    label: str
    sha256: bytes
