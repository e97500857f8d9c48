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

    Attributes:
        path: Of the file.
        sha256: Of its bytes; b"" if there were none to read; of a changed file, the expected one.
        picture: The image, or why there is none.
        stats: Its statistics; None if there is no image.
        read_seconds: Of one thread.
        decode_seconds: Of one thread.
    """

    path: Path
    sha256: bytes
    picture: DecodedImage | str
    stats: ImageStats | None
    read_seconds: float
    decode_seconds: float

    def view(self, number: int) -> "Decoded":
        """Return the same file with an augmented view as its picture; 0: as it is."""
        if number == 0 or isinstance(self.picture, str):
            return self
        view = replace(self.picture, pixels=self.picture.views[number - 1], several_pages=False)
        return replace(self, picture=view)

    @property
    def failure(self) -> Failure:
        """Say why there is no picture."""
        return Failure(self.sha256, str(self.path), str(self.picture))


@dataclass(frozen=True)
class Batch:
    """Decoded images.

    Attributes:
        hashes: SHA-256 of the decoded bytes.
        pixels: uint8 [n, 1, 224, 224].
        paths: Of the images.
        several_pages: Paths of those with further pages.
        failed: Files that could not be decoded.
    """

    hashes: tuple[bytes, ...]
    pixels: NDArray[np.uint8]
    paths: tuple[Path, ...]
    several_pages: tuple[Path, ...]
    failed: tuple[Failure, ...]


def decode_files(
    paths: Iterable[Path],
    workers: int,
    ahead: int,
    preprocessing: Preprocessing = AS_USUAL,
    numbers: Sequence[int] = (),
    expected: Mapping[Path, bytes] = NOTHING,
) -> Generator[Decoded]:
    """Read and decode files in threads; yield in order.

    Args:
        paths: Each is taken as late as possible.
        workers: Threads.
        ahead: Files decoded before they are asked for, at most.
        preprocessing: How they become pixels.
        numbers: Augmented views to render besides.
        expected: SHA-256 by path; a file with other bytes has no image, so that it is never taken
            for the one it was.
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


def make_batches(images: Iterable[Decoded], batch_size: int) -> Generator[Batch]:
    """Put images together; every batch but the last has `batch_size` files."""
    remaining = iter(images)
    while some := list(islice(remaining, batch_size)):
        yield make_batch(some)


def make_batch(images: Iterable[Decoded]) -> Batch:
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
