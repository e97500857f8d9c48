"""Many segments → one, contiguous and in order, which readers map into memory."""

import os
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from shutil import disk_usage

import h5py
import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheError, Failure
from cache.files import commit, temporary_file
from cache.locks import sharing
from cache.progress import Progress, silent
from cache.provenance import merge_notes
from cache.segment import (
    LIBVER,
    TYPES,
    Header,
    Rows,
    payload_sha256,
    segment_name,
    verify_segment,
    write_header,
    write_segment,
)
from cache.storage import is_url
from cache.store import (
    Cache,
    Index,
    as_keys,
    as_s32,
    build_index,
    copy_rows,
    first_failures,
    read_headers,
    view_numbers,
    with_retries,
)

ALIGNMENT = 64  # bytes: a cache line, and the widest vector registers
METADATA_BYTES = 1 << 20  # what HDF5 may need around the rows, generously

Segments = Sequence[tuple[Path, Header]]


def compact(
    cache: Cache, drop: Collection[bytes] = frozenset(), progress: Progress = silent
) -> Path | None:
    """Rewrite a cache as one segment, sorted by view and hash; return it, or None if none is left.

    The same rows always make the same file, provenance aside. `drop`: images to leave out. Every
    segment is verified before, and deleted only when the new one is safe on the disk; segments
    written meanwhile stay as they are.

    Args:
        progress: Counts rows, verified and copied.

    Raises:
        CacheError: a segment is damaged, or the disk has too little room, or the cache is behind a
            URL. Nothing is lost then.
        OSError: the disk is full, or the cache can't be written.
    """
    if is_url(cache.folder):
        raise CacheError(
            f"{cache.folder} is behind a URL, where segments are not rewritten: fetch the cache "
            f"(cache fetch {cache.folder.parent}) and compact it here"
        )
    with sharing(cache.folder):
        return with_retries(partial(_compact, cache, drop, progress))


def _compact(cache: Cache, drop: Collection[bytes], progress: Progress) -> Path | None:
    segments = read_headers(cache)
    if len(segments) == 1 and segments[0][1].compacted and not _contains(segments[0][1], drop):
        return segments[0][0]
    rows = sum(len(header.hashes) for _, header in segments)
    done = 0
    for old, header in segments:
        verify_segment(old)
        progress(done := done + len(header.hashes), 2 * rows)
    tables = {view: _without(build_index(segments, view), drop) for view in view_numbers(segments)}
    failures = _failures(segments, tables, drop)
    path: Path | None = None
    if any(len(table.hashes) for table in tables.values()):
        copied = partial(_report_copied, progress, rows, 2 * rows)
        path = _write(cache, segments, tables, failures, copied)
    elif failures:
        empty = Rows(
            np.empty((0, 32), np.uint8),
            np.empty(0, np.uint16),
            np.empty((0, cache.key.embedding_dim), np.float32),
        )
        path = write_segment(cache.folder, cache.key, empty, failures, _provenance(segments))
    for old, _ in segments:
        if old != path:
            old.unlink(missing_ok=True)
    return path


def _write(
    cache: Cache,
    segments: Segments,
    tables: dict[int, Index],
    failures: Sequence[Failure],
    progress: Progress,
) -> Path:
    hashes = np.concatenate([table.hashes for table in tables.values()])
    views = np.concatenate(
        [np.full(len(table.hashes), view, np.uint16) for view, table in tables.items()]
    )
    shape = (len(hashes), cache.key.embedding_dim)
    words = sum(len(f.path) + len(f.reason) + 200 for f in failures)
    size = len(hashes) * (4 * shape[1] + 34) + 4 * words + METADATA_BYTES
    _check_space(cache.folder, size)
    keys = hashes.view(np.uint8).reshape(-1, 32)
    with temporary_file(cache.folder) as temporary:
        alignment = {"alignment_threshold": ALIGNMENT, "alignment_interval": ALIGNMENT}
        with h5py.File(temporary, "w", libver=LIBVER, **alignment) as file:
            _reserve(temporary, size)
            # The checksum's room; its value comes last.
            write_header(file, cache.key, failures, _provenance(segments), sha256="0" * 64)
            file.create_dataset("hash", data=keys, dtype=TYPES["hash"])
            file.create_dataset("view", data=views, dtype=TYPES["view"])
            offset = _allocate(file, shape)
        embeddings = np.memmap(temporary, TYPES["embedding"], "r+", offset, shape)
        _fill(embeddings, [path for path, _ in segments], tables, progress)
        sha256 = payload_sha256(Rows(keys, views, embeddings), failures)
        with h5py.File(temporary, "r+", libver=LIBVER) as file:
            file.attrs.modify("sha256", np.bytes_(sha256))
        path = cache.folder / segment_name(sha256)
        commit(temporary, path)
    return path


def _allocate(file: h5py.File, shape: tuple[int, int]) -> int:
    """Make room for the embeddings in one piece, and return where it begins in the file."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.h5d.create(file.id, b"embedding", h5py.h5t.IEEE_F32LE, space, layout)
    offset: int = dataset.get_offset()
    return offset


def _fill(
    embeddings: NDArray[np.float32],
    paths: Sequence[Path],
    tables: dict[int, Index],
    progress: Progress,
) -> None:
    """Copy the rows of every view to their places."""
    segment = np.concatenate([table.segment for table in tables.values()])
    row = np.concatenate([table.row for table in tables.values()])
    copy_rows(embeddings, paths, segment, row, progress)


def _report_copied(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    """Tell the progress of copying as a part of the whole."""
    progress(before + done, total)


def _contains(header: Header, keys: Collection[bytes]) -> bool:
    failed = {failure.sha256 for failure in header.failures}
    return bool(keys) and not failed.union(as_keys(header.hashes)).isdisjoint(keys)


def _without(table: Index, drop: Collection[bytes]) -> Index:
    if not drop:
        return table
    dropped = as_s32(np.frombuffer(b"".join(drop), np.uint8))
    rest = ~np.isin(table.hashes, dropped)
    return Index(table.paths, table.hashes[rest], table.segment[rest], table.row[rest])


def _failures(
    segments: Segments, tables: dict[int, Index], drop: Collection[bytes]
) -> tuple[Failure, ...]:
    """Keep one failure per image, the first segment's, and none of an image that has a row now."""
    first = first_failures(segments)
    keys = sorted(first.keys() - set(drop))
    hashes = as_s32(np.frombuffer(b"".join(keys), np.uint8))
    stored = np.zeros(len(keys), bool)
    for table in tables.values():
        stored |= np.isin(hashes, table.hashes)
    return tuple(first[key] for key, has_row in zip(keys, stored, strict=True) if not has_row)


def _provenance(segments: Segments) -> dict[str, object]:
    return merge_notes([header.provenance for _, header in segments])


def _reserve(path: Path, size: int) -> None:
    """Put real room on the disk behind every byte, where the system can (Linux).

    Otherwise a disk that fills up meanwhile would end the process at some write, by HDF5 or into
    mapped memory, instead of raising OSError. HDF5 cuts off what is too much.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def _check_space(folder: Path, needed: int) -> None:
    if (free := disk_usage(folder).free) < needed:
        raise CacheError(
            f"{folder}: compacting needs {needed / 2**20:,.0f} MiB beside the old segments, "
            f"{free / 2**20:,.0f} MiB are free: make room; nothing was changed"
        )
