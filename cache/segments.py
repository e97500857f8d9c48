"""One immutable HDF5 file of rows: write once, read, verify. The layout is in `cache/README.md`."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cache.atomic import replacing
from cache.errors import CacheError
from cache.identity import Identity

FORMAT = "frostline-segment"
CHUNK_ROWS = 256


@dataclass(frozen=True)
class Rows:
    """N embeddings and their keys.

    hashes: uint8 [N, 32], SHA-256 of each image file's bytes; views: uint16 [N];
    embeddings: float32 [N, D].
    """

    hashes: NDArray[np.uint8]
    views: NDArray[np.uint16]
    embeddings: NDArray[np.float32]


@dataclass(frozen=True)
class Failure:
    """An image that could not be read, where it lay, and why."""

    sha256: bytes
    path: str
    reason: str


@dataclass(frozen=True)
class Header:
    """What a segment says without its embeddings. keys: SHA-256 and view of each row."""

    identity: Identity
    keys: tuple[tuple[bytes, int], ...]
    failures: tuple[Failure, ...]
    provenance: dict[str, Any]
    sha256: str


def write_segment(
    folder: Path,
    identity: Identity,
    rows: Rows,
    failures: Sequence[Failure],
    provenance: dict[str, Any],
) -> Path:
    """Write one segment whole, or not at all, and return its path.

    Its name is its content's hash: the same rows written twice are one file.

    Raises:
        CacheError: a row holds NaN or infinity, or has another length than the identity says.
        OSError: the disk is full, or the folder can't be written.
    """
    if rows.embeddings.shape != (len(rows.hashes), identity.embedding_dim):
        raise CacheError(
            f"embeddings of shape {rows.embeddings.shape} for {identity.name}, which has "
            f"{identity.embedding_dim} numbers per row: the backbone's table entry is wrong"
        )
    if not np.isfinite(rows.embeddings).all():
        raise CacheError(
            f"{identity.backbone} on {identity.device} at {identity.precision} gave NaN or "
            "infinity: nothing of this batch was kept; try --precision fp32 or other --weights"
        )
    sha256 = _payload_sha256(rows, failures)
    path = folder / f"{sha256[:16]}.h5"
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["identity"] = identity.to_json()
        file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
        file.attrs["sha256"] = sha256
        _write_array(file, "hash", rows.hashes)
        _write_array(file, "view", rows.views)
        _write_array(file, "embedding", rows.embeddings)
        file["failures"] = json.dumps([_failure_row(f) for f in failures])
    return path


def read_header(path: Path) -> Header:
    """Read everything but the embeddings.

    Raises:
        CacheError: the file is truncated, damaged, not a segment of ours, or can't be opened now.
    """
    with _reading(path) as file:
        hashes, views = file["hash"][:], file["view"][:]
        identity = Identity.from_json(file.attrs["identity"])
        _check_arrays(file, identity)
        return Header(
            identity=identity,
            keys=tuple((h.tobytes(), int(v)) for h, v in zip(hashes, views, strict=True)),
            failures=tuple(
                Failure(bytes.fromhex(row["sha256"]), row["path"], row["reason"])
                for row in json.loads(file["failures"][()])
            ),
            provenance=json.loads(file.attrs["provenance"]),
            sha256=file.attrs["sha256"],
        )


def read_embeddings(path: Path) -> NDArray[np.float32]:
    """Read the embeddings, float32 [N, D], in the order of the header's keys. Raises CacheError."""
    with _reading(path) as file:
        embeddings: NDArray[np.float32] = file["embedding"][:]
    return embeddings


def verify_segment(path: Path) -> None:
    """Recompute the payload's SHA-256.

    Raises:
        CacheError: the content is not what was written.
    """
    header = read_header(path)
    with _reading(path) as file:
        rows = Rows(file["hash"][:], file["view"][:], file["embedding"][:])
    if _payload_sha256(rows, header.failures) != header.sha256:
        raise _damaged(path, "its content does not match its checksum")


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Open a segment; whatever h5py, JSON or a missing part raises becomes one clear error."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise ValueError("it is not a Frostline segment")
            yield file
    except CacheError:  # an identity of another version: nothing is wrong with the file
        raise
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise CacheError(
                f"{path} can't be opened ({error}): mend that and try again"
            ) from error
        raise _damaged(path, str(error)) from error


def _check_arrays(file: Any, identity: Identity) -> None:
    n = len(file["hash"])
    arrays = [file[name] for name in ("hash", "view", "embedding")]
    if (shapes := [array.shape for array in arrays]) != [
        (n, 32),
        (n,),
        (n, identity.embedding_dim),
    ]:
        raise ValueError(f"its arrays have the shapes {shapes}")
    if (dtypes := [array.dtype.name for array in arrays]) != ["uint8", "uint16", "float32"]:
        raise ValueError(f"its arrays have the types {dtypes}")


def _damaged(path: Path, why: str) -> CacheError:
    return CacheError(
        f"{path} can't be used: {why}. Delete this file and run extract again: "
        "only its rows are computed anew."
    )


def _write_array(file: Any, name: str, array: NDArray[Any]) -> None:
    # HDF5 checks Fletcher-32 on every read of a chunk; an empty array can have no chunks.
    chunks = (min(CHUNK_ROWS, len(array)), *array.shape[1:]) if len(array) else None
    file.create_dataset(name, data=array, chunks=chunks, fletcher32=chunks is not None)


def _payload_sha256(rows: Rows, failures: Sequence[Failure]) -> str:
    digest = hashlib.sha256()
    for array in (rows.hashes, rows.views, rows.embeddings):
        digest.update(np.ascontiguousarray(array).data)
    digest.update(json.dumps([_failure_row(f) for f in failures]).encode())
    return digest.hexdigest()


def _failure_row(failure: Failure) -> dict[str, str]:
    return {"sha256": failure.sha256.hex(), "path": failure.path, "reason": failure.reason}
