"""The extraction run: every image is decoded once, and goes through each backbone that lacks it."""

import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from cache.errors import UnreadableImageError
from cache.progress import Progress, silent
from cache.segments import Failure
from cache.sharing import sharing
from cache.store import Cache, open_cache, row_key
from extract.batches import BATCHES_AHEAD, decoded
from extract.decoding import AS_USUAL
from extract.devices import usable_cores
from extract.kept import Shelf
from extract.lane import Lane
from extract.looks import Looks
from extract.scan import ImageFile
from extract.stopping import stoppable
from extract.target import Target


@dataclass(frozen=True)
class Extraction:
    """What one pass did for one target.

    computed, present: rows computed now, and those that were there or were given by another
    process meanwhile; of clean views alone, as many as images. failed: every image of this call
    that has no row, and why. several_pages: files of which one page was used. engine: what
    computed, None if nothing was to be. deviation: its largest distance from torch at fp32, as a
    share of an embedding's length, where that was measured. trouble: the engines that should have
    been used, and why they were not. views: augmented ones that were asked for. spent: seconds by
    stage; those of reading and decoding, which are of all threads, and of waiting are shared out
    among the targets.
    """

    cache: Cache
    computed: int
    present: int
    failed: tuple[Failure, ...]
    several_pages: tuple[Path, ...]
    engine: str | None
    deviation: float | None
    trouble: tuple[str, ...]
    views: int
    spent: dict[str, float]


def extract(
    targets: Sequence[Target],
    images: Sequence[ImageFile],
    root: Path,
    progress: Progress = silent,
    strict: bool = False,
    workers: int | None = None,
    batch_size: int | None = None,
    shelf: Shelf | None = None,
    views: int = 0,
    looks: Path | None = None,
) -> list[Extraction]:
    """Compute the rows that the targets' caches below `root` lack, and say what was done for each.

    All targets decode alike. Each image is read and decoded once, in `workers` threads (default:
    one per core), for all targets that lack it. Segments are committed as the run goes on and
    whenever it ends: finished, asked to stop (after the batch it is at), or stopped by an error.
    Other processes may fill the same caches meanwhile. Engines are built only if a row is missing,
    and kept on the `shelf`. strict: stop at the first unreadable image. views: augmented ones of
    each image, besides the clean one. looks: the table where it is noted what decoded images look
    like. progress counts rows.

    Raises:
        CacheError: a segment is damaged.
        DeviceError: no engine of a target can be built, or it differs from torch too much.
        UnreadableImageError: an image can't be read, and `strict`.
        KeyboardInterrupt: the user asked to stop; what was computed is kept.
        OSError: the disk is full, or a cache can't be written.
    """
    unique = {image.sha256: image for image in images}
    with ExitStack() as stack:
        asked_to_stop = stack.enter_context(stoppable())
        pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="write"))
        lanes, alone = list[Lane](), True
        for target in targets:
            cache = open_cache(root, target.identity)
            alone &= stack.enter_context(sharing(cache.folder))
            lane = stack.enter_context(Lane(target, cache, batch_size, shelf, pool))
            lane.look_for(unique, views)
            lanes.append(lane)
        files = [file for key, file in unique.items() if any(lane.wants(key) for lane in lanes)]
        if not alone:  # two that go the same way would do the same work
            random.shuffle(files)
        total, shown = sum(len(lane.missing) for lane in lanes), 0
        # Padded, an image looks otherwise than its copies elsewhere.
        as_usual = all(lane.target.decoding.fit == AS_USUAL.fit for lane in lanes)
        seen = stack.enter_context(Looks(looks if as_usual else None))
        for _ in _filled(lanes, files, workers or usable_cores(), views, seen):
            if (done := sum(lane.done for lane in lanes)) != shown:
                progress(shown := done, total)
            failed = next((failure for lane in lanes for failure in lane.failed), None)
            if strict and failed:
                raise UnreadableImageError(f"{failed.path}: {failed.reason} (--strict)")
            if asked_to_stop():
                break
    return [_summary(lane, len(unique) * (views + 1)) for lane in lanes]


def _filled(
    lanes: Sequence[Lane], files: Sequence[ImageFile], workers: int, views: int, seen: Looks
) -> Iterator[None]:
    """Decode the files and fill the lanes; yield after each step that dealt with some images."""
    under_way: deque[ImageFile] = deque()

    def paths() -> Iterator[Path]:
        """Leave out what others have committed by the time that its turn comes."""
        for file in files:
            if any(lane.wants(file.sha256) for lane in lanes):
                under_way.append(file)
                yield file.path
            else:
                _skip(lanes, file)

    ahead = BATCHES_AHEAD * max(lane.batch_size for lane in lanes)
    decoding, numbers = lanes[0].target.decoding, range(1, views + 1)
    with closing(decoded(paths(), workers, ahead, decoding, numbers)) as source:
        started = time.perf_counter()
        for image in source:
            waited = time.perf_counter() - started
            file = under_way.popleft()
            seen.add(image)
            takers = [lane for lane in lanes if lane.wants(file.sha256)]
            for lane in takers:
                lane.take(image, file.sha256, waited, share=1 / len(takers))
            _skip([lane for lane in lanes if lane not in takers], file)
            yield
            started = time.perf_counter()
    for lane in lanes:
        lane.compute()
        yield


def _skip(lanes: Sequence[Lane], file: ImageFile) -> None:
    for lane in lanes:
        keys = [row_key(file.sha256, number) for number in lane.numbers]
        lane.done += sum(key in lane.missing for key in keys)


def _summary(lane: Lane, rows: int) -> Extraction:
    return Extraction(
        cache=lane.writer.cache,
        computed=lane.computed,
        present=rows - lane.computed - lane.lost,
        failed=tuple(lane.failed),
        several_pages=tuple(lane.several_pages),
        engine=lane.built.name if lane.built else None,
        deviation=lane.deviation,
        trouble=lane.built.trouble if lane.built else (),
        views=len(lane.numbers) - 1,
        spent=dict(lane.spent),
    )
