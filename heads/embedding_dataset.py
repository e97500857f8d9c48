"""A cache's embeddings of labelled images, memory-mapped if the cache is compacted."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.errors import CacheError
from cache.segment import read_embeddings
from cache.store import Cache, as_keys, as_s32, build_index, read, read_headers, with_retries

ROWS_AT_ONCE = 4096  # of a pass over all embeddings


@dataclass(frozen=True)
class EmbeddingDataset:
    """N labelled images with V views each, the first the clean one.

    Attributes:
        embeddings: float [V, N, D]; with `at`, float [1, M, D] of a cache, perhaps memory-mapped.
        labels: int64 [N].
        classes: Number of classes.
        at: Row of each image's views among the M, int64 [V, N].
    """

    embeddings: Tensor
    labels: Tensor
    classes: int
    at: Tensor | None = None

    @property
    def views(self) -> int:
        """Number of augmented views of each image."""
        return len(self.embeddings if self.at is None else self.at) - 1

    @property
    def row_numbers(self) -> Tensor:
        """Row of each view of each image in the flat embeddings, int64 [V, N]."""
        if self.at is not None:
            return self.at
        return torch.arange((self.views + 1) * len(self.labels)).view(self.views + 1, -1)

    def clean(self, images: Tensor) -> Tensor:
        """Return the clean views of images, float [n, D]."""
        return self.embeddings[0, images if self.at is None else self.at[0, images]]

    def to(self, device: str) -> tuple[Tensor, Tensor]:
        """Return the embeddings [M, D] on a device, and `row_numbers` there.

        An accelerator gets the rows of these images only.
        """
        flat = self.embeddings.flatten(0, 1)
        if device == "cpu" or self.at is None:
            return flat.to(device), self.row_numbers
        own = torch.arange(self.at.numel()).view(self.at.shape)
        return flat[self.at.flatten()].to(device), own


def labelled(
    cache: Cache, hashes: NDArray[np.uint8], labels: Tensor, classes: int, views: int = 0
) -> EmbeddingDataset:
    """Return the embeddings of images and of their augmented views.

    A compacted cache is memory-mapped and may be larger than memory; others are copied.

    Args:
        cache: The embeddings.
        hashes: uint8 [N, 32].
        labels: int64 [N].
        classes: Number of classes.
        views: Number of augmented views.

    Raises:
        CacheError: An image has no row, or it holds NaN or infinity.
    """
    dataset = with_retries(partial(_mapped, cache, hashes, labels, classes, views))
    if dataset is None:
        keys = as_keys(hashes)
        embeddings = torch.empty(views + 1, len(hashes), cache.key.embedding_dim)
        embeddings[0] = _tensor(read(cache, keys))
        try:
            for view in range(1, views + 1):
                embeddings[view] = _tensor(read(cache, keys, view))
        except CacheError as error:
            raise CacheError(f"{error} (run extract --views {views})") from None
        dataset = EmbeddingDataset(embeddings, labels, classes)
    flat = dataset.embeddings.flatten(0, 1)
    for rows in torch.split(dataset.row_numbers.flatten(), ROWS_AT_ONCE):
        if not flat[rows].isfinite().all():
            raise CacheError(f"{cache.folder} holds NaN or infinity: run `cache verify`")
    return dataset


def _mapped(
    cache: Cache, hashes: NDArray[np.uint8], labels: Tensor, classes: int, views: int
) -> EmbeddingDataset | None:
    """Map a cache that is one compacted segment with all these rows; else return None."""
    headers = read_headers(cache)
    if len(headers) != 1 or not headers[0][1].compacted:
        return None
    keys, rows_of_views = as_s32(hashes), []
    for view in range(views + 1):
        table = build_index(headers, view)
        positions = np.searchsorted(table.hashes, keys)
        if not len(table.hashes) or (table.hashes.take(positions, mode="clip") != keys).any():
            return None
        rows_of_views.append(torch.from_numpy(table.row[positions]))
    embeddings = _tensor(read_embeddings(headers[0][0]))[None]
    return EmbeddingDataset(embeddings, labels, classes, torch.stack(rows_of_views))


def _tensor(embeddings: NDArray[np.float32]) -> Tensor:
    """Return a read-only array as a tensor, which is never written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(embeddings)
