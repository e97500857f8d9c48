"""Caches of another place, usually behind a URL, copied into a workspace's."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from cache.errors import CacheError, SegmentGoneError
from cache.files import commit, temporary_file
from cache.key_set import KeySet
from cache.locks import sharing
from cache.progress import Progress, silent
from cache.segment import Header, read_each_header, verify_segment
from cache.storage import cache_folders, copy, segment_files
from cache.store import row_keys, with_retries

CONNECTIONS = 8  # segments on their way at once


@dataclass(frozen=True)
class Fetched:
    """What fetching did for one cache.

    Attributes:
        folder: Where the cache is on this machine.
        copied: Segments copied now.
        rows: Rows in them.
        present: Segments whose rows are here already, whatever their name.
        damaged: What is wrong with the others, which were left out.
    """

    folder: Path
    copied: int
    rows: int
    present: int
    damaged: tuple[CacheError, ...]


def fetch(source: Path, root: Path, progress: Progress = silent) -> list[Fetched]:
    """Copy the segments of every cache below `source` that the caches below `root` lack.

    What counts is rows, not names: what was compacted here is not fetched again, and what was
    pruned here is. Each segment is verified before it gets its name; a damaged one is left out and
    reported. Copied segments stay even after an error; the next call copies the rest.

    Args:
        progress: Counts segments.

    Raises:
        CacheError: there is no cache below `source`, it can't be reached, or a segment below `root`
            is damaged.
        OSError: the disk is full, or `root` can't be written.
    """
    below = {folder.name: segment_files(folder) for folder in cache_folders(source)}
    if not below:
        raise CacheError(f"{source} holds no cache: give what is a workspace's cache/ there")
    total, ticks = sum(map(len, below.values())), count(1)
    return [
        _fetch_one(paths, root / name, lambda: progress(next(ticks), total))
        for name, paths in below.items()
    ]


def _fetch_one(paths: Sequence[Path], folder: Path, tick: Callable[[], None]) -> Fetched:
    """Copy the segments of one cache, some at once."""
    with sharing(folder):
        lacking = with_retries(partial(_lacking, paths, folder))
        present = len(paths) - len(lacking)
        for _ in range(present):
            tick()
        rows, damaged = list[int](), list[CacheError]()
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="fetch") as pool:
            try:
                for outcome in pool.map(partial(_copy, folder), lacking):
                    if isinstance(outcome, CacheError):
                        damaged.append(outcome)
                    else:
                        rows.append(outcome)
                    tick()
            finally:
                pool.shutdown(cancel_futures=True)
    return Fetched(folder, len(rows), sum(rows), present, tuple(damaged))


def _lacking(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Return the segments with rows or failures that are not in `folder`."""
    here = segment_files(folder)
    names = {path.name for path in here}
    new = [path for path in paths if path.name not in names]
    if not here or not new:
        return new
    headers = list[Header]()
    for header in read_each_header(here):
        if isinstance(header, CacheError):
            raise header
        headers.append(header)
    held = KeySet((header.hashes, header.views) for header in headers)
    failed = {failure.sha256 for header in headers for failure in header.failures}
    return [
        path
        for path, header in zip(new, read_each_header(new), strict=True)
        # A damaged one is named when it is copied.
        if isinstance(header, CacheError)
        or not held.issuperset(row_keys(header))
        or held.missing(failure.sha256 for failure in header.failures) - failed
    ]


def _copy(folder: Path, path: Path) -> int | CacheError:
    """Copy one segment; return the number of its rows, or what is wrong with it."""
    with temporary_file(folder) as temporary:
        try:
            copy(path, temporary)
        except FileNotFoundError as error:
            raise SegmentGoneError(f"{path} is gone: its cache changes, fetch again") from error
        try:
            header = verify_segment(temporary, called=path)
            if (name := header.key.name) != folder.name:
                raise CacheError(f"{path} belongs to another cache: move it to the folder {name}")
        except CacheError as error:
            return error
        commit(temporary, folder / path.name)
    return len(header.hashes)
