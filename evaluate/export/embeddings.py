"""Cached embeddings for other tools: NumPy's `.npz` or Parquet."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import CacheError
from cache.files import check_replaceable, replacing
from cache.segment import Rows
from cache.store import Cache, as_keys, read_all
from evaluate.text import valid
from extract.sources.image_file import ImageFile

SUFFIXES = (".npz", ".parquet")
MARKS = (b"hash", b"view", b"embedding")  # columns, which name a file of ours


def export(caches: Sequence[Cache], images: Mapping[bytes, ImageFile], out: Path) -> list[Path]:
    """Write every row of the caches, sorted by hash and view; return the files written.

    Columns: `hash` (SHA-256 of the image file, in hex), `view`, `embedding` (float32 [D]), `path`
    and `label` (empty where `images`, by hash, has none). Equal caches give equal files. Several
    caches become groups of arrays in one `.npz` (`CACHE/hash` …), or a Parquet file each
    (`rows.CACHE.parquet` for `rows.parquet`).

    Raises:
        CacheError: a segment is damaged, or `out` has another suffix.
        ResultsError: a file that was not written here would be overwritten.
        OSError: the disk is full, or the file can't be written.
    """
    if out.suffix not in SUFFIXES:
        raise CacheError(f"--out {out}: give a file name that ends in {' or '.join(SUFFIXES)}")
    tables = {cache.key.name: (cache, images) for cache in caches}
    several = out.suffix == ".parquet" and len(tables) > 1
    paths = [out.with_suffix(f".{name}.parquet") for name in tables] if several else [out]
    for path in paths:
        check_replaceable(path, *MARKS, what="--out")
    if out.suffix == ".npz":
        with replacing(out) as temporary, temporary.open("wb") as file:
            prefix = "{}/" if len(tables) > 1 else ""
            arrays = {
                prefix.format(name) + column: values
                for name, table in tables.items()
                for column, values in _columns(*table).items()
            }
            np.savez(file, allow_pickle=False, **arrays)
        return paths
    for path, table in zip(paths, tables.values(), strict=False):
        _write_parquet(path, _columns(*table))
    return paths


def _columns(cache: Cache, images: Mapping[bytes, ImageFile]) -> dict[str, Any]:
    rows: Rows = read_all(cache)
    keys = as_keys(rows.hashes)
    found = [images.get(key) for key in keys]
    return {
        "hash": np.array([key.hex() for key in keys], dtype="U64"),
        "view": rows.views,
        "embedding": rows.embeddings,
        "path": np.array([valid(str(f.path)) if f else "" for f in found], dtype=np.str_),
        "label": np.array([valid(f.label) if f else "" for f in found], dtype=np.str_),
    }


def _write_parquet(path: Path, columns: dict[str, Any]) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    embedding = columns["embedding"]
    lists = pyarrow.FixedSizeListArray.from_arrays(embedding.reshape(-1), embedding.shape[1])
    with replacing(path) as temporary:
        write_table(pyarrow.table({**columns, "embedding": lists}), temporary)
