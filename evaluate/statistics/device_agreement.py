"""Whether two devices give the same embeddings of the same images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cache.store import Cache, read

ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class DeviceAgreement:
    """How far the embeddings of two caches are from each other.

    Attributes:
        maximum: The largest difference of a number.
        relative: The largest length of an image's difference, by the length of the first cache's
            embedding.
        cosine: The smallest one between an image's two embeddings.
        images: How many were compared.
    """

    maximum: float
    relative: float
    cosine: float
    images: int


def parity(first: Cache, second: Cache, hashes: Sequence[bytes]) -> DeviceAgreement:
    """Compare two caches of one backbone on images, by SHA-256, that both hold; one at least.

    Raises:
        CacheError: a cache lacks one of the images, or is damaged.
    """
    ones, others = read(first, hashes), read(second, hashes)
    parts = list[tuple[float, float, float]]()
    for start in range(0, len(hashes), ROWS_AT_ONCE):
        here = slice(start, start + ROWS_AT_ONCE)
        one, other = ones[here].astype(np.float64), others[here].astype(np.float64)
        lengths, difference = np.linalg.norm(one, axis=1), one - other
        products = lengths * np.linalg.norm(other, axis=1)
        cosines = (one * other).sum(1) / np.maximum(products, np.finfo(np.float64).tiny)
        relative = np.linalg.norm(difference, axis=1) / np.maximum(lengths, 1e-30)
        parts.append((np.abs(difference).max(), relative.max(), cosines.min()))
    return DeviceAgreement(
        maximum=float(max(part[0] for part in parts)),
        relative=float(max(part[1] for part in parts)),
        cosine=float(min(part[2] for part in parts)),
        images=len(hashes),
    )


def in_words(first: Cache, second: Cache, found: DeviceAgreement) -> str:
    """Say in one line how far two devices are from each other."""
    far = max(1 - found.cosine, 0)
    return (
        f"{first.key.backbone}, {first.key.device} and {second.key.device}: "
        f"embeddings of {found.images:,} images differ by at most {found.maximum:.1e} "
        f"({found.relative:.1e} of an embedding's length), cosine at least 1 - {far:.0e}"
    )
