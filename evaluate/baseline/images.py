"""What a network is trained on: images decoded in every epoch, ahead of the computation."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.errors import DatasetError, Failure
from extract.dataset import ImageSet
from extract.devices import usable_cores
from extract.imaging.decode import DecodedImage
from extract.imaging.preprocessing import Preprocessing
from extract.loader import CHANGED, Decoded, decode_files
from extract.sources.image_file import ImageFile

AHEAD = 64  # images that are decoded, or being decoded, before they are needed: 3 MB


@dataclass(frozen=True)
class Readable:
    """The training images that can be decoded.

    Attributes:
        files: Those images, in the order of their SHA-256.
        failures: Why the others can't.
    """

    files: tuple[ImageFile, ...]
    failures: tuple[Failure, ...]


def readable(
    images: ImageSet, preprocessing: Preprocessing, advance: Callable[[int], None]
) -> Readable:
    """Find out which files can be decoded.

    All are decoded once for that: one that can't be must not shift the batches of an epoch.

    Args:
        advance: Receives how many images were tried.
    """
    files = sorted(images.unique, key=lambda file: file.sha256)
    good, failures = list[ImageFile](), list[Failure]()
    stream = decode_files([file.path for file in files], usable_cores(), AHEAD, preprocessing)
    for file, image in zip(files, stream, strict=True):
        if isinstance(image.picture, str):
            failures.append(image.failure)
        elif image.sha256 != file.sha256:
            failures.append(Failure(file.sha256, str(file.path), CHANGED))
        else:
            good.append(file)
        advance(1)
    return Readable(tuple(good), tuple(failures))


def batches_of_pixels(
    files: Sequence[ImageFile],
    batches: Sequence[Sequence[tuple[int, int]]],
    preprocessing: Preprocessing,
) -> Generator[NDArray[np.uint8]]:
    """Yield a batch of pixels, uint8 [n, 1, 224, 224], for each batch of (file, view) numbers.

    View 0 is the clean one, others are augmented by the policy of `decoding`.

    Raises:
        DatasetError: a file can't be decoded any more, or has changed.
    """
    wanted = [pair for batch in batches for pair in batch]
    with ExitStack() as stack:
        # One stream for all images of a view: most epochs need a single one.
        streams = {}
        for view in sorted({view for _, view in wanted}):
            paths = [files[file].path for file, of in wanted if of == view]
            views = (view,) if view else ()
            stream = decode_files(paths, usable_cores(), AHEAD, preprocessing, views)
            streams[view] = stack.enter_context(closing(stream))
        for batch in batches:
            yield np.stack([_pixels(next(streams[v]), files[f], v) for f, v in batch])


def _pixels(image: Decoded, file: ImageFile, view: int) -> NDArray[np.uint8]:
    reason = image.picture if isinstance(image.picture, str) else CHANGED
    if not isinstance(image.picture, DecodedImage) or image.sha256 != file.sha256:
        raise DatasetError(
            f"{file.path} can't be used any more ({reason}): put it back and run the same command "
            "again, which resumes here; without it, training starts again"
        )
    return image.picture.views[0] if view else image.picture.pixels
