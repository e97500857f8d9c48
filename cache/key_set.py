"""The keys of very many rows, in about a quarter of the memory that a Python set takes."""

from collections.abc import Iterable, Iterator, Set

import numpy as np
from numpy.typing import NDArray

LENGTH = 34  # bytes: an image's SHA-256 and a view, as in `cache.store.row_key`
RECENT = 1 << 16  # keys in a Python set before they are sorted into the array


class KeySet(Set[bytes]):
    """A set of `row_key`s that grows: a sorted array, and a small Python set of the latest.

    Its keys take 34 bytes each. It is compared and subtracted like any set; a single `in` costs
    some microseconds, and `missing` far less per key. One thread may add while others ask.
    """

    def __init__(self, rows: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint16]]] = ()) -> None:
        """Take the rows of segments: of each its hashes, uint8 [N, 32], and views, uint16 [N]."""
        parts = list(rows)
        packed = np.empty((sum(len(hashes) for hashes, _ in parts), LENGTH), np.uint8)
        end = 0
        for hashes, views in parts:
            start, end = end, end + len(hashes)
            packed[start:end, :32] = hashes
            packed[start:end, 32:] = views.astype(">u2").view(np.uint8).reshape(-1, 2)
        keys = packed.reshape(-1).view(f"S{LENGTH}")
        keys.sort()
        distinct = np.r_[True, keys[1:] != keys[:-1]][: len(keys)]
        self._sorted: NDArray[np.bytes_] = keys if distinct.all() else keys[distinct]
        self._recent: set[bytes] = set()

    def update(self, keys: Iterable[bytes]) -> None:
        """Add keys; there already or not."""
        self._recent |= self.missing(keys)
        if len(self._recent) >= RECENT:
            new = np.sort(_packed(self._recent))
            self._sorted = np.insert(self._sorted, np.searchsorted(self._sorted, new), new)
            self._recent = set()  # only now: whoever asks meanwhile finds them here or there

    def missing(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return which of these keys are not here."""
        asked = list(set(keys) - self._recent)
        packed = _packed(asked)
        order = np.argsort(packed)
        present = np.empty(len(asked), bool)
        present[order] = self._holds(packed[order])
        return {key for key, known in zip(asked, present.tolist(), strict=True) if not known}

    def issuperset(self, keys: Iterable[bytes]) -> bool:
        """Say whether every one of these keys is here."""
        return not self.missing(keys)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, bytes):
            return False
        return key in self._recent or bool(self._holds(_packed([key]))[0])

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._sorted), RECENT):
            for key in self._sorted[start : start + RECENT].view(f"V{LENGTH}").tolist():
                yield key[:32] if key.endswith(b"\0\0") else key
        yield from self._recent

    def __rsub__(self, other: Iterable[bytes]) -> set[bytes]:
        return self.missing(other)

    @classmethod
    def _from_iterable(cls, keys: Iterable[bytes]) -> set[bytes]:  # type: ignore[override]
        """Let `&` and the like give an ordinary set."""
        return set(keys)

    def _holds(self, packed: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        keys = self._sorted  # another thread may put a longer one in its place meanwhile
        positions = np.searchsorted(keys, packed)
        present: NDArray[np.bool_] = positions < len(keys)
        present[present] = keys[positions[present]] == packed[present]
        return present


def _packed(keys: Iterable[bytes]) -> NDArray[np.bytes_]:
    return np.array(list(keys), f"S{LENGTH}")  # zeros at the end, as of view 0
