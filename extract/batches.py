"""Image files → batches of pixels, read and decoded in threads, ahead of whoever computes."""

from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.errors import UnreadableImageError
from cache.segments import Failure
from extract.decode import SIZE, Picture, decode_gray

BATCH_SIZE = 16
DECODERS = 4  # threads; Pillow releases the GIL while it decodes


@dataclass(frozen=True)
class Batch:
    """Decoded images: SHA-256 of the bytes decoded, pixels uint8 [n, 1, 224, 224], the paths that
    gave them, those of these that have further pages, and the files that gave none.
    """

    hashes: tuple[bytes, ...]
    pixels: NDArray[np.uint8]
    paths: tuple[Path, ...]
    several_pages: tuple[Path, ...]
    failed: tuple[Failure, ...]


def decoded_batches(paths: Iterable[Path], batch_size: int) -> Generator[Batch]:
    """Read and decode files, one batch ahead of the caller; take each path as late as possible."""
    remaining = iter(paths)
    with ThreadPoolExecutor(DECODERS) as pool:

        def submit() -> list[tuple[Path, Future[tuple[bytes, Picture | str]]]]:
            return [(path, pool.submit(_decode, path)) for path in islice(remaining, batch_size)]

        ahead = submit()
        while ahead:
            current, ahead = ahead, submit()
            yield _batch([(path, *future.result()) for path, future in current])


def _decode(path: Path) -> tuple[bytes, Picture | str]:
    """Return the hash of the bytes that were decoded, and the picture or why there is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return b"", error.strerror or str(error)
    try:
        return sha256(data).digest(), decode_gray(data)
    except UnreadableImageError as error:
        return sha256(data).digest(), str(error)


def _batch(decoded: Iterable[tuple[Path, bytes, Picture | str]]) -> Batch:
    good: list[tuple[Path, bytes, Picture]] = []
    failed = []
    for path, key, picture in decoded:
        if isinstance(picture, str):
            failed.append(Failure(key, str(path), picture))
        else:
            good.append((path, key, picture))
    shape = (len(good), 1, SIZE, SIZE)
    return Batch(
        hashes=tuple(key for _, key, _ in good),
        pixels=np.array([p.pixels for _, _, p in good], dtype=np.uint8).reshape(shape),
        paths=tuple(path for path, _, _ in good),
        several_pages=tuple(path for path, _, picture in good if picture.several_pages),
        failed=tuple(failed),
    )
