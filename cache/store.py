"""A cache: a folder of segments with one identity, read as if it were one table."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheError
from cache.identity import Identity
from cache.segments import Failure, Header, read_embeddings, read_header


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
class Contents:
    """What a cache holds, embeddings aside.

    stored: SHA-256 of every image that has a row of view 0. failures: by SHA-256, the images that
    could not be read. weights: where they came from, as first recorded. seconds_per_image: what
    a row cost, on average; 0 where there is none.
    """

    stored: frozenset[bytes]
    failures: dict[bytes, Failure]
    weights: str
    seconds_per_image: float

    def lacking(self, hashes: Iterable[bytes]) -> frozenset[bytes]:
        """Return which of these images nobody has tried to extract: no row, and no failure."""
        return frozenset(hashes) - self.stored - self.failures.keys()


def open_cache(root: Path, identity: Identity) -> Cache:
    """Return the cache of this identity below `root` (a workspace's `cache/`), there or not yet."""
    return Cache(root / identity.name, identity)


def find_caches(root: Path) -> list[Cache]:
    """Return every cache below `root`, by name.

    Raises:
        CacheError: a segment there is damaged or foreign.
    """
    firsts = {path.parent: path for path in sorted(root.glob("*/*.h5"), reverse=True)}
    return [Cache(folder, read_header(firsts[folder]).identity) for folder in sorted(firsts)]


def contents(cache: Cache) -> Contents:
    """Say what a cache holds. Raises CacheError on a damaged or foreign segment."""
    headers = [header for _, header in _headers(cache)]
    rows = sum(len(header.keys) for header in headers)
    seconds = sum(header.provenance["seconds"] for header in headers)
    return Contents(
        stored=frozenset(key for header in headers for key, view in header.keys if view == 0),
        failures={f.sha256: f for header in headers for f in header.failures},
        weights=headers[0].provenance["weights"] if headers else "",
        seconds_per_image=seconds / rows if rows else 0.0,
    )


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
    for path, header in _headers(cache):
        found = {key: i for i, (key, v) in enumerate(header.keys) if v == view and key in wanted}
        if found:
            rows = read_embeddings(path)
            for key, i in found.items():
                embeddings[wanted.pop(key)] = rows[i]
    if wanted:
        raise CacheError(
            f"{cache.folder} lacks {len(wanted)} of {len(hashes)} images: "
            "run extract on this folder of images first"
        )
    return embeddings


def _headers(cache: Cache) -> Iterator[tuple[Path, Header]]:
    """Yield each segment and its header, held against the cache's identity."""
    for path in cache.segments:
        header = read_header(path)
        if differences := header.identity.differences(cache.identity):
            raise CacheError(
                f"{path} belongs to another cache ({'; '.join(differences)}): "
                f"move it to the folder {header.identity.name}"
            )
        yield path, header
