"""Extraction: every image is decoded once, and goes through each backbone that lacks it."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from cache.errors import Failure, UnreadableImageError
from cache.locks import sharing
from cache.progress import Progress, silent
from cache.store import Cache, open_cache, row_key
from extract.cache_filler import CacheFiller
from extract.devices import usable_cores
from extract.imaging.preprocessing import AS_USUAL
from extract.loader import BATCHES_AHEAD, Decoded, decode_files
from extract.signals import stoppable
from extract.timings import sum_stages
from extract.writer import SEGMENT_SECONDS

if TYPE_CHECKING:
    from extract.artifact_store import ArtifactStore
    from extract.embedding_spec import EmbeddingSpec
    from extract.sources.image_file import ImageFile

OnImage = Callable[[Decoded], None]


@dataclass(frozen=True)
class Extraction:
    """What was done for one spec.

    Attributes:
        cache: Of the spec.
        computed: Rows computed now.
        present: Rows that were present, or that another process wrote meanwhile.
        failed: Images of this call that have no row, and why.
        several_pages: Files of which only one page was used.
        engine: What computed; None if no row was missing.
        deviation: Its largest distance from torch at fp32, as a share of an embedding's length;
            None if it was not measured.
        trouble: Why preferred engines were not used.
        views: Augmented views that were asked for.
        spent: Seconds by stage. Reading, decoding (of all threads) and waiting are shared out among
            the specs.
        verified_earlier: An earlier command measured the deviation.
    """

    cache: Cache
    computed: int
    present: int
    failed: tuple[Failure, ...]
    several_pages: tuple[str, ...]
    engine: str | None
    deviation: float | None
    trouble: tuple[str, ...]
    views: int
    spent: dict[str, float]
    verified_earlier: bool = False


@dataclass(frozen=True)
class RunnerOptions:
    """How an extraction runs; it changes no row.

    Attributes:
        strict: Stop at the first unreadable image.
        workers: Threads that decode; None: one per core.
        batch_size: Images per batch; None: the engine's own.
        artifacts: Where built engines are stored; None: nowhere.
        views: Augmented views of each image, besides the clean one.
        index: SQLite file of image statistics, filled with what is decoded; None: none.
    """

    strict: bool = False
    workers: int | None = None
    batch_size: int | None = None
    artifacts: ArtifactStore | None = None
    views: int = 0
    index: Path | None = None


DEFAULT = RunnerOptions()


def extract(
    specs: Sequence[EmbeddingSpec],
    images: Sequence[ImageFile],
    root: Path,
    progress: Progress = silent,
    options: RunnerOptions = DEFAULT,
) -> list[Extraction]:
    """Compute the rows that the specs' caches below `root` lack.

    Returns:
        What was done, one for each spec.

    Raises:
        KeyboardInterrupt: the user asked to stop; computed rows are saved.
        FrostlineError, OSError: as `Extractor.fill`.
    """
    from extract.dataset_statistics.image_index import ImageIndex

    with (
        stoppable() as asked_to_stop,
        ImageIndex(options.index) as index,
        Extractor(specs, root, options) as run,
    ):
        run.fill(images, progress, options.views, index.add, asked_to_stop=asked_to_stop)
    return run.summaries()


def combine(one: Extraction, other: Extraction) -> Extraction:
    """Sum up what was done for the same spec."""
    engines = {each.engine for each in (one, other) if each.engine}
    deviations = [each.deviation for each in (one, other) if each.deviation is not None]
    return replace(
        one,
        computed=one.computed + other.computed,
        present=one.present + other.present,
        failed=one.failed + other.failed,
        several_pages=one.several_pages + other.several_pages,
        engine=" and ".join(sorted(engines)) or None,
        deviation=max(deviations, default=None),
        verified_earlier=one.verified_earlier and other.verified_earlier,
        trouble=tuple(dict.fromkeys(one.trouble + other.trouble)),
        views=max(one.views, other.views),
        spent=sum_stages([one.spent, other.spent]),
    )


class Extractor:
    """Fills the caches of some specs below `root`; engines stay built from one call to the next.

    - All specs have the same preprocessing.
    - Other processes may fill the same caches meanwhile.
    - Engines are built only if a row is missing.
    - On leaving, computed rows are committed, also after an error.

    Args:
        specs: One for each cache.
        root: The folder or URL that holds the caches.
        options: Of these, `views` and `index` are for `extract`; here `fill` is given both.
        segment_seconds: See `SegmentWriter`.
    """

    def __init__(
        self,
        specs: Sequence[EmbeddingSpec],
        root: Path,
        options: RunnerOptions = DEFAULT,
        segment_seconds: float | None = SEGMENT_SECONDS,
    ) -> None:
        self.specs, self.root, self.options = specs, root, options
        self.segment_seconds = segment_seconds
        self.stack, self.fillers = ExitStack(), list[CacheFiller]()
        self.exclusive, self.rows = True, 0

    def __enter__(self) -> Extractor:
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="write"))
            for spec in self.specs:
                cache = open_cache(self.root, spec.key)
                self.exclusive &= stack.enter_context(sharing(cache.folder))
                batch_size, artifacts = self.options.batch_size, self.options.artifacts
                filler = CacheFiller(spec, cache, batch_size, artifacts, pool, self.segment_seconds)
                self.fillers.append(stack.enter_context(filler))
            self.stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stack.__exit__(kind, error, trace)

    def fill(
        self,
        images: Sequence[ImageFile],
        progress: Progress = silent,
        views: int = 0,
        on_image: OnImage = lambda image: None,
        names: Mapping[str, str] | None = None,
        asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Compute the rows of these images that are missing.

        Each image is read and decoded once, for all specs that lack it. Segments are committed as
        the run goes on.

        Args:
            progress: Counts rows.
            views: Augmented views of each image, besides the clean one.
            on_image: Receives each image that was decoded without padding.
            names: By path, of files that users know by another name.
            asked_to_stop: Is asked after each batch.

        Raises:
            CacheError: a segment is damaged.
            DeviceError: no engine of a spec can be built, or it differs from torch too much.
            UnreadableImageError: an image can't be read, and options.strict.
            OSError: the disk is full, or a cache can't be written.
        """
        unique = {image.sha256: image for image in images}
        self.rows = len(unique) * (views + 1)
        for filler in self.fillers:
            filler.begin(unique, views, names or {})
        files = [file for file in unique.values() if self._is_missing(file)]
        # Two processes in the same order would do the same work. Where segments must be the same
        # each time, the order stays.
        if not self.exclusive and self.segment_seconds is not None:
            random.shuffle(files)
        total, shown = sum(len(filler.missing) for filler in self.fillers), 0
        for _ in self._filled(files, views, on_image):
            if (done := sum(filler.done for filler in self.fillers)) != shown:
                progress(shown := done, total)
            failed = next((failure for filler in self.fillers for failure in filler.failed), None)
            if self.options.strict and failed:
                raise UnreadableImageError(f"{failed.path}: {failed.reason} (--strict)")
            if asked_to_stop():
                break

    def refresh(self) -> None:
        """Read which rows other processes have committed meanwhile."""
        for filler in self.fillers:
            filler.writer.refresh()

    def lacks(self, image: bytes, views: int) -> bool:
        """Return whether a row of an image was missing at the last `refresh`."""
        keys = [row_key(image, number) for number in range(views + 1)]
        return any(key not in filler.writer.stored for filler in self.fillers for key in keys)

    def commit(self) -> None:
        """Write the computed rows, and wait until they are on the disk. Raises OSError."""
        for filler in self.fillers:
            filler.commit()

    def summaries(self) -> list[Extraction]:
        """Return what the last `fill` did for each spec; complete when it is committed."""
        return [_summary(filler, self.rows) for filler in self.fillers]

    def _is_missing(self, file: ImageFile) -> bool:
        return any(filler.missing_views(file.sha256) for filler in self.fillers)

    def _filled(self, files: Sequence[ImageFile], views: int, on_image: OnImage) -> Iterator[None]:
        """Decode the files for all fillers; yield after each file and batch."""
        decoding: deque[ImageFile] = deque()

        def paths() -> Iterator[Path]:
            """Leave out what others have committed by the time that its turn comes."""
            for file in files:
                if self._is_missing(file):
                    decoding.append(file)
                    yield file.path
                else:
                    _skip(self.fillers, file)

        ahead = BATCHES_AHEAD * max(filler.embedder.batch_size for filler in self.fillers)
        preprocessing, numbers = self.specs[0].preprocessing, range(1, views + 1)
        hashes = {file.path: file.sha256 for file in files}
        workers = self.options.workers or usable_cores()
        images = decode_files(paths(), workers, ahead, preprocessing, numbers, hashes)
        with closing(images):
            started = time.perf_counter()
            for image in images:
                waited = time.perf_counter() - started
                file = decoding.popleft()
                if preprocessing.fit == AS_USUAL.fit:  # padded, it looks otherwise than its copies
                    on_image(image)
                receivers = [filler for filler in self.fillers if filler.missing_views(file.sha256)]
                for filler in receivers:
                    filler.add(image, file.sha256, waited, share=1 / len(receivers))
                _skip([filler for filler in self.fillers if filler not in receivers], file)
                yield
                started = time.perf_counter()
        for filler in self.fillers:
            filler.compute()
            yield


def _skip(fillers: Sequence[CacheFiller], file: ImageFile) -> None:
    for filler in fillers:
        keys = [row_key(file.sha256, number) for number in filler.numbers]
        filler.done += sum(key in filler.missing for key in keys)


def _summary(filler: CacheFiller, rows: int) -> Extraction:
    backend, deviation = filler.embedder.backend, filler.embedder.deviation
    return Extraction(
        cache=filler.writer.cache,
        computed=filler.computed,
        present=rows - filler.computed - filler.lost,
        failed=tuple(filler.failed),
        several_pages=tuple(filler.several_pages),
        engine=backend.name if backend else None,
        deviation=deviation.share if deviation else None,
        verified_earlier=bool(deviation and deviation.earlier),
        trouble=backend.trouble if backend else (),
        views=len(filler.numbers) - 1,
        spent=dict(filler.spent),
    )
