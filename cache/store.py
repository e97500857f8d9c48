"""A cache: a folder of segments with one identity, read as if it were one table."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheError
from cache.identity import Identity
from cache.segments import Failure, Segment, read_identity, read_segment


@dataclass(frozen=True)
class Cache:
    """The embeddings of one identity: the segments in `folder`."""

    folder: Path
    identity: Identity

    @property
    def segments(self) -> list[Path]:
        """The segment files, in the order that decides between duplicates."""
        return sorted(self.folder.glob("*.h5"))


@dataclass(frozen=True)
class Provenance:
    """How a cache's rows came to be. Recorded, but not identity."""

    weights: str
    engines: tuple[str, ...]
    seconds_per_image: float


def open_cache(root: Path, identity: Identity) -> Cache:
    """Return the cache of this identity below `root` (a workspace's `cache/`), there or not yet."""
    return Cache(root / identity.name, identity)


def find_caches(root: Path) -> list[Cache]:
    """Return every cache below `root`, by name.

    Raises:
        CacheError: a segment there is damaged or foreign.
    """
    firsts = {path.parent: path for path in sorted(root.glob("*/*.h5"), reverse=True)}
    return [Cache(folder, read_identity(firsts[folder])) for folder in sorted(firsts)]


def stored(cache: Cache, view: int = 0) -> frozenset[bytes]:
    """Return the SHA-256 of every image that has a row. Raises CacheError on a damaged segment."""
    return frozenset(
        key
        for segment in _read_all(cache)
        for key, row_view in zip(segment.rows.keys(), segment.rows.views, strict=True)
        if row_view == view
    )


def lacking(cache: Cache, hashes: Iterable[bytes]) -> frozenset[bytes]:
    """Return which of these images nobody has tried to extract: no row, and no failure."""
    return frozenset(hashes) - stored(cache) - failures(cache).keys()


def read(cache: Cache, hashes: Sequence[bytes], view: int = 0) -> NDArray[np.float32]:
    """Return the embeddings of these images, in this order: float32 [len(hashes), D].

    A row that several segments hold is taken from the first by name, whoever wrote it.

    Raises:
        CacheError: an image has no row, or a segment is damaged.
    """
    wanted: dict[bytes, list[int]] = {}
    for position, key in enumerate(hashes):
        wanted.setdefault(key, []).append(position)
    embeddings = np.empty((len(hashes), cache.identity.embedding_dim), dtype=np.float32)
    for segment in _read_all(cache):
        rows = segment.rows
        for key, row_view, embedding in zip(rows.keys(), rows.views, rows.embeddings, strict=True):
            if row_view == view:
                embeddings[wanted.pop(key, [])] = embedding
    if wanted:
        raise CacheError(
            f"{cache.folder} lacks {len(wanted)} of {len(hashes)} images: "
            "run extract on this folder of images first"
        )
    return embeddings


def failures(cache: Cache) -> dict[bytes, Failure]:
    """Return the images that could not be read, by SHA-256. Raises CacheError on damage."""
    return {f.sha256: f for segment in _read_all(cache) for f in segment.failures}


def provenance(cache: Cache) -> Provenance:
    """Sum up how the rows were made. Raises CacheError on damage, or where there are no rows."""
    notes = [segment.provenance for segment in _read_all(cache)]
    rows = sum(note["rows"] for note in notes)
    if not rows:
        raise CacheError(f"{cache.folder} holds no rows: run extract first")
    return Provenance(
        weights=Counter(note["weights"] for note in notes).most_common(1)[0][0],
        engines=tuple(sorted({note["engine"] for note in notes})),
        seconds_per_image=sum(note["seconds"] for note in notes) / rows,
    )


def _read_all(cache: Cache) -> Iterator[Segment]:
    """Yield the segments one at a time, each held against the cache's identity."""
    for path in cache.segments:
        segment = read_segment(path)
        if differences := segment.identity.differences(cache.identity):
            raise CacheError(
                f"{path} belongs to another cache ({'; '.join(differences)}): "
                f"move it to the folder {segment.identity.name}"
            )
        yield segment
