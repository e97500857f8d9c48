"""Image files → pixels, read and decoded in threads, ahead of whoever computes."""

import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from cache.errors import Failure, UnreadableImageError
from cache.files import check_regular
from extract.imaging.decode import SIZE, DecodedImage, decode_gray
from extract.imaging.image_stats import ImageStats, compute_stats
from extract.imaging.preprocessing import AS_USUAL, Preprocessing

CHANGED = "its content has changed since it was hashed. Run the same command again, with --rehash"
BATCHES_AHEAD = 4  # decoded or being decoded while one is computed: 3 MB at 16 images


NOTHING: Mapping[Path, bytes] = MappingProxyType({})


@dataclass(frozen=True)
class Decoded:
    """One file, read and decoded.

    sha256: of its bytes; b"" if there were none to read; of a file that has changed, the expected
    one. picture: what they hold, or why there is none. look: what it looks like. read_seconds,
    decode_seconds: of one thread.
    """

    path: Path
    sha256: bytes
    picture: DecodedImage | str
    stats: ImageStats | None
    read_seconds: float
    decode_seconds: float

    def view(self, place: int) -> "Decoded":
        """Return the same file with the view at this place, from 1 on, as its picture; 0: as it
        is.
        """
        if place == 0 or isinstance(self.picture, str):
            return self
        view = replace(self.picture, pixels=self.picture.views[place - 1], several_pages=False)
        return replace(self, picture=view)

    @property
    def failure(self) -> Failure:
        """Say why there is no picture."""
        return Failure(self.sha256, str(self.path), str(self.picture))


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


def decoded(
    paths: Iterable[Path],
    workers: int,
    ahead: int,
    preprocessing: Preprocessing = AS_USUAL,
    numbers: Sequence[int] = (),
    expected: Mapping[Path, bytes] = NOTHING,
) -> Generator[Decoded]:
    """Read and decode files in `workers` threads, at most `ahead` of the caller; yield in order.

    Each path is taken as late as possible. numbers: see `decode_gray`. expected: SHA-256 by path; a
    file with other bytes has no picture, so that nobody takes it for the image that it was.
    """
    queue: deque[Future[Decoded]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")  # Pillow releases the GIL
    try:
        for path in paths:
            queue.append(pool.submit(_decode, path, preprocessing, numbers, expected.get(path)))
            if len(queue) > ahead:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def batches(images: Iterable[Decoded], batch_size: int) -> Generator[Batch]:
    """Put images together; every batch but the last has `batch_size` files."""
    remaining = iter(images)
    while some := list(islice(remaining, batch_size)):
        yield batch(some)


def batch(images: Iterable[Decoded]) -> Batch:
    """Make one batch of these files."""
    good: list[tuple[Decoded, DecodedImage]] = []
    failed = []
    for image in images:
        if isinstance(image.picture, DecodedImage):
            good.append((image, image.picture))
        else:
            failed.append(image.failure)
    shape = (len(good), 1, SIZE, SIZE)
    return Batch(
        hashes=tuple(image.sha256 for image, _ in good),
        pixels=np.array([picture.pixels for _, picture in good], dtype=np.uint8).reshape(shape),
        paths=tuple(image.path for image, _ in good),
        several_pages=tuple(image.path for image, picture in good if picture.several_pages),
        failed=tuple(failed),
    )


def _decode(
    path: Path, preprocessing: Preprocessing, numbers: Sequence[int], expected: bytes | None
) -> Decoded:
    started = time.perf_counter()
    try:
        check_regular(path.stat())
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        return Decoded(path, b"", reason, None, time.perf_counter() - started, 0.0)
    read = time.perf_counter()
    picture: DecodedImage | str
    stats = None
    try:
        picture = decode_gray(data, preprocessing, numbers)
        stats = compute_stats(picture)
    except UnreadableImageError as error:
        picture = str(error)
    key = sha256(data).digest()
    if expected not in (None, key):
        key, picture, stats = expected, CHANGED, None
    return Decoded(path, key, picture, stats, read - started, time.perf_counter() - read)
