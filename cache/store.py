"""A cache: a folder of segments with one key, read as if it were one table."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cache.embedding_key import EmbeddingKey
from cache.errors import CacheError, Failure, SegmentGoneError
from cache.key_set import KeySet
from cache.progress import Progress, silent
from cache.provenance import merge_notes, words
from cache.segment import Header, Rows, read_each_header, read_embeddings, read_header
from cache.storage import cache_folders, segment_files

WINDOW_BYTES = 1 << 26  # copied at once, however large the cache
ATTEMPTS = 10  # at reading what others compact meanwhile; each attempt is another compaction

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cache:
    """The embeddings of one key: the segments in `folder`, which may be behind a URL."""

    folder: Path
    key: EmbeddingKey

    @property
    def segments(self) -> list[Path]:
        """The segment files, in the order that decides between duplicates."""
        return segment_files(self.folder)


@dataclass(frozen=True)
class CacheSummary:
    """What a cache holds besides embeddings.

    Attributes:
        stored: SHA-256 of every image that has a row of view 0.
        failures: Images that could not be read and have no row, by SHA-256.
        provenance: Of all segments, summed up.
    """

    stored: KeySet
    failures: dict[bytes, Failure]
    provenance: dict[str, Any]

    @property
    def weights(self) -> str:
        """Where the backbone's weights came from; of several names for them, the first."""
        return words(self.provenance.get("weights", ""))[0]

    @property
    def seconds_per_image(self) -> float:
        """What a row cost, on average; 0 where there is none."""
        rows = self.provenance.get("rows", 0)
        return float(self.provenance["seconds"] / rows) if rows else 0.0

    def lacking(self, hashes: Iterable[bytes]) -> frozenset[bytes]:
        """Return which of these images nobody has tried to extract: no row, and no failure."""
        return frozenset(self.stored.missing(hashes) - self.failures.keys())


@dataclass(frozen=True)
class Index:
    """Where each row of one view is, by hash and without duplicates.

    Attributes:
        paths: The segments.
        hashes: S32 [N], sorted.
        segment: int64 [N], a position in `paths`.
        row: int64 [N], within the segment.
    """

    paths: tuple[Path, ...]
    hashes: NDArray[np.bytes_]
    segment: NDArray[np.int64]
    row: NDArray[np.int64]


def open_cache(root: Path, key: EmbeddingKey) -> Cache:
    """Return the cache of this key below `root` (a workspace's `cache/`), there or not yet."""
    return Cache(root / key.name, key)


def find_caches(root: Path) -> list[Cache]:
    """Return every cache below `root`, by name.

    Raises:
        CacheError: a segment there is damaged or foreign.
    """
    attempts = [partial(_cache_in, folder) for folder in cache_folders(root)]
    return [cache for attempt in attempts if (cache := with_retries(attempt))]


def summarize(cache: Cache) -> CacheSummary:
    """Say what a cache holds. Raises CacheError on a damaged or foreign segment."""
    return summarize_headers(read_headers(cache))


def summarize_headers(segments: Sequence[tuple[Path, Header]]) -> CacheSummary:
    """Say what the segments hold that `read_headers` gave."""
    headers = [header for _, header in segments]
    clean = [(header, header.views == 0) for header in headers]
    stored = KeySet((header.hashes[rows], header.views[rows]) for header, rows in clean)
    failures = first_failures(segments)
    return CacheSummary(
        stored=stored,
        failures={key: failures[key] for key in sorted(stored.missing(failures))},
        provenance=merge_notes([header.provenance for header in headers]),
    )


def read(cache: Cache, hashes: Sequence[bytes] | None = None, view: int = 0) -> NDArray[np.float32]:
    """Return the embeddings of these images, in this order: read-only float32 [len(hashes), D].

    Without `hashes`, all images in the order of their hashes. Rows that lie one after the other in
    a compacted segment are mapped into memory, not copied: nothing is read until it is used, and
    then nothing is checked but by `verify`. A row that several segments hold is taken from the
    first by name, whoever wrote it.

    Raises:
        CacheError: an image has no row, or a segment is damaged.
    """
    return with_retries(lambda: _read(cache, hashes, view))


def read_all(cache: Cache) -> Rows:
    """Return every row of every view, sorted by hash and view; embeddings as from `read`.

    Raises:
        CacheError: a segment is damaged.
    """
    segments = read_headers(cache)
    views = view_numbers(segments)
    tables = [build_index(segments, view) for view in views]
    hashes = _concatenated([table.hashes for table in tables], "S32")
    numbers = np.repeat(np.array(views, np.uint16), [len(table.hashes) for table in tables])
    of_view = [
        read(cache, as_keys(table.hashes.view(np.uint8)), view)
        for view, table in zip(views, tables, strict=True)
    ]
    if len(of_view) == 1:  # in order already, and perhaps mapped
        return Rows(hashes.view(np.uint8).reshape(-1, 32), numbers, of_view[0])
    order = np.lexsort((numbers, hashes))
    empty = np.empty((0, cache.key.embedding_dim), np.float32)
    embeddings = np.concatenate([empty, *of_view])[order]
    return Rows(hashes[order].view(np.uint8).reshape(-1, 32), numbers[order], embeddings)


def build_index(segments: Sequence[tuple[Path, Header]], view: int = 0) -> Index:
    """Find every row of a view in what `read_headers` gave."""
    of_view = [np.flatnonzero(header.views == view) for _, header in segments]
    hashes = _concatenated(
        [as_s32(h.hashes[rows]) for (_, h), rows in zip(segments, of_view, strict=True)], "S32"
    )
    segment = np.repeat(np.arange(len(segments)), [len(rows) for rows in of_view])
    row = _concatenated(of_view, np.int64)
    if not (hashes[1:] > hashes[:-1]).all():
        # Stable: of equal hashes, the one in the first segment by name comes first.
        order = np.argsort(hashes, kind="stable")
        in_order = hashes[order]
        order = order[np.r_[True, in_order[1:] != in_order[:-1]]]
        hashes, segment, row = hashes[order], segment[order], row[order]
    return Index(tuple(path for path, _ in segments), hashes, segment, row)


def copy_rows(
    embeddings: NDArray[np.float32],
    paths: Sequence[Path],
    segment: NDArray[np.int64],
    row: NDArray[np.int64],
    progress: Progress = silent,
) -> None:
    """Copy rows into an array, one segment after the other.

    Args:
        embeddings: float32 [N, D], to be filled.
        paths: The segments.
        segment: int64 [N], as of an `Index`.
        row: int64 [N], as of an `Index`.
        progress: Counts rows.
    """
    window = max(1, WINDOW_BYTES // (4 * embeddings.shape[1]))
    order = np.argsort(segment, kind="stable")
    ends = np.searchsorted(segment[order], np.arange(len(paths) + 1))
    for path, first, end in zip(paths, ends[:-1], ends[1:], strict=True):
        if first == end:
            continue
        source = read_embeddings(path)
        for start in range(first, end, window):
            here = order[start : min(start + window, end)]
            embeddings[here] = source[row[here]]
            progress(start + len(here), len(row))


def first_failures(segments: Sequence[tuple[Path, Header]]) -> dict[bytes, Failure]:
    """Return one failure per image: of several reasons, the first segment's."""
    headers = [header for _, header in reversed(segments)]
    return {failure.sha256: failure for h in headers for failure in reversed(h.failures)}


def view_numbers(segments: Sequence[tuple[Path, Header]]) -> list[int]:
    """Return the view numbers that occur, in order."""
    return sorted({int(view) for _, header in segments for view in np.unique(header.views)})


def read_headers(cache: Cache) -> list[tuple[Path, Header]]:
    """Read each segment's header and hold it against the cache's key, in order.

    Raises:
        CacheError: a segment is damaged, or belongs to another cache.
    """

    def attempt() -> list[tuple[Path, Header]]:
        segments = []
        paths = cache.segments
        for path, header in zip(paths, read_each_header(paths), strict=True):
            if isinstance(header, CacheError):
                raise header
            segments.append((path, header))
        return segments

    segments = with_retries(attempt)
    for path, header in segments:
        if differences := header.key.differences(cache.key):
            raise CacheError(
                f"{path} belongs to another cache ({'; '.join(differences)}): "
                f"move it to the folder {header.key.name}"
            )
    return segments


def with_retries(attempt: Callable[[], Result]) -> Result:
    """Start again when a segment vanishes while it is read: its rows now lie in a compacted one."""
    for _ in range(ATTEMPTS - 1):
        try:
            return attempt()
        except SegmentGoneError:
            continue
    return attempt()


def as_s32(hashes: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """See uint8 [N, 32] as [N] strings, which numpy sorts and finds as whole keys."""
    strings: NDArray[np.bytes_] = np.ascontiguousarray(hashes).reshape(-1).view("S32")
    return strings


def row_key(sha256: bytes, view: int) -> bytes:
    """Name a row by its image and view; a clean one by its image alone."""
    return sha256 + view.to_bytes(2, "big") if view else sha256


def split_row_key(key: bytes) -> tuple[bytes, int]:
    """Return the image and view of a `row_key`."""
    return key[:32], int.from_bytes(key[32:], "big")


def row_keys(header: Header) -> list[bytes]:
    """Return the key of every row of a segment."""
    return [
        row_key(key, int(view))
        for view in np.unique(header.views)
        for key in as_keys(header.hashes[header.views == view])
    ]


def as_keys(hashes: NDArray[np.uint8]) -> list[bytes]:
    """Return uint8 [N, 32] as N keys of 32 bytes (a string would lose its last zeros)."""
    keys: list[bytes] = np.ascontiguousarray(hashes).reshape(-1).view("V32").tolist()
    return keys


def _cache_in(folder: Path) -> Cache | None:
    """Take a folder's key from its first segment that belongs there; None if it is empty."""
    key = None
    for path in segment_files(folder):
        key = read_header(path).key
        if folder.name == key.name:
            return Cache(folder, key)
    if key is not None:
        raise CacheError(
            f"{folder} holds segments of a cache called {key.name}: give the folder that "
            "name, or delete it and run extract again"
        )
    return None


def _read(cache: Cache, hashes: Sequence[bytes] | None, view: int) -> NDArray[np.float32]:
    table = build_index(read_headers(cache), view)
    positions = np.arange(len(table.hashes)) if hashes is None else _positions(cache, table, hashes)
    segment, row = table.segment[positions], table.row[positions]
    if len(row) and (segment == segment[0]).all() and (np.diff(row) == 1).all():
        embeddings = read_embeddings(table.paths[segment[0]])[row[0] : row[0] + len(row)]
    else:
        embeddings = np.empty((len(positions), cache.key.embedding_dim), dtype=np.float32)
        copy_rows(embeddings, table.paths, segment, row)
    embeddings.flags.writeable = False
    return embeddings


def _positions(cache: Cache, table: Index, hashes: Sequence[bytes]) -> NDArray[np.int64]:
    wanted = as_s32(np.frombuffer(b"".join(hashes), np.uint8))
    positions = np.searchsorted(table.hashes, wanted)
    present = positions < len(table.hashes)
    present[present] = table.hashes[positions[present]] == wanted[present]
    if lacking := len(present) - np.count_nonzero(present):
        raise CacheError(
            f"{cache.folder} lacks {lacking} of {len(hashes)} images: "
            "run extract on this folder of images first"
        )
    return positions


def _concatenated(arrays: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays])
