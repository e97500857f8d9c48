"""A cache's embeddings of labelled images, mapped into memory where they can be."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.errors import CacheError
from cache.segment import read_embeddings
from cache.store import Cache, as_keys, as_s32, index, read, read_headers, retried
from heads.batched.trainer import ROWS_AT_ONCE, EmbeddingDataset


def labelled(
    cache: Cache, hashes: NDArray[np.uint8], labels: Tensor, classes: int, views: int = 0
) -> EmbeddingDataset:
    """Return the embeddings of some images, and of so many augmented views of each.

    hashes: uint8 [N, 32]. labels: int64 [N]. A compacted cache is mapped: memory is taken only
    while rows are worked on, and can be less than they are. Of any other, rows are copied.

    Raises:
        CacheError: an image has no row, or it holds NaN or infinity.
    """
    rows = retried(partial(_mapped, cache, hashes, labels, classes, views))
    if rows is None:
        keys = as_keys(hashes)
        embeddings = torch.empty(views + 1, len(hashes), cache.key.embedding_dim)
        embeddings[0] = _tensor(read(cache, keys))
        try:
            for view in range(1, views + 1):
                embeddings[view] = _tensor(read(cache, keys, view))
        except CacheError as error:
            raise CacheError(f"{error} (run extract --views {views})") from None
        rows = EmbeddingDataset(embeddings, labels, classes)
    flat = rows.embeddings.flatten(0, 1)
    for some in torch.split(rows.places.flatten(), ROWS_AT_ONCE):
        if not flat[some].isfinite().all():
            raise CacheError(f"{cache.folder} holds NaN or infinity: run `cache verify`")
    return rows


def _mapped(
    cache: Cache, hashes: NDArray[np.uint8], labels: Tensor, classes: int, views: int
) -> EmbeddingDataset | None:
    """Map a cache that is one compacted segment with all these rows; None if it isn't."""
    found = read_headers(cache)
    if len(found) != 1 or not found[0][1].compacted:
        return None
    wanted, at = as_s32(hashes), []
    for view in range(views + 1):
        table = index(found, view)
        places = np.searchsorted(table.hashes, wanted)
        if not len(table.hashes) or (table.hashes.take(places, mode="clip") != wanted).any():
            return None
        at.append(torch.from_numpy(table.row[places]))
    return EmbeddingDataset(
        _tensor(read_embeddings(found[0][0]))[None], labels, classes, torch.stack(at)
    )


def _tensor(embeddings: NDArray[np.float32]) -> Tensor:
    """See an array that can't be written to as a tensor, which nobody writes to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(embeddings)
