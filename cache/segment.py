"""One immutable HDF5 file of rows: write once, read, verify. The layout is in `cache/README.md`."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from cache.embedding_key import EmbeddingKey
from cache.errors import CacheError, Failure, SegmentGoneError
from cache.files import check_file
from cache.provenance import read_note
from cache.records import parse_json
from cache.storage import BEGINNING, Beginning, beginnings, content, is_url, put, size_of

FORMAT = "frostline-segment"
CHUNK_ROWS = 256
HASH_BLOCK = 1 << 24  # bytes hashed at once, so that a file larger than memory can be verified
# From HDF5 1.10 on, metadata carry checksums of their own: a damaged attribute is an error.
LIBVER = ("v110", "v110")
TEXT_CHUNK = 1 << 16  # bytes of the failures' JSON in one chunk
TYPES = {"hash": "|u1", "view": "<u2", "embedding": "<f4"}
PARTS = {**TYPES, "failures": "|u1"}


@dataclass(frozen=True)
class Rows:
    """N embeddings and their keys.

    Attributes:
        hashes: uint8 [N, 32]; SHA-256 of each image file's bytes.
        views: uint16 [N]; 0 is the clean image.
        embeddings: float32 [N, D].
    """

    hashes: NDArray[np.uint8]
    views: NDArray[np.uint16]
    embeddings: NDArray[np.float32]


@dataclass(frozen=True)
class Header:
    """A segment without its embeddings.

    Attributes:
        key: Of the cache that it belongs to.
        hashes: uint8 [N, 32].
        views: uint16 [N].
        failures: Images that could not be read.
        provenance: How the rows were computed.
        sha256: Checksum of rows and failures, in hexadecimal.
        compacted: Its embeddings can be mapped into memory.
    """

    key: EmbeddingKey
    hashes: NDArray[np.uint8]
    views: NDArray[np.uint16]
    failures: tuple[Failure, ...]
    provenance: dict[str, Any]
    sha256: str
    compacted: bool


@dataclass(frozen=True)
class _Unread:
    """A failure as it is stored."""

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    path: str
    reason: str


def write_segment(
    folder: Path,
    key: EmbeddingKey,
    rows: Rows,
    failures: Sequence[Failure],
    provenance: dict[str, Any],
) -> Path:
    """Write one segment whole, or not at all, and return its path.

    Its name is its content's hash: the same rows written twice are one file.

    Raises:
        CacheError: a row holds NaN or infinity, or has another length than the key says.
            Or the folder's URL can't be reached.
        OSError: the disk is full, or the folder can't be written.
    """
    if rows.embeddings.shape != (len(rows.hashes), key.embedding_dim):
        raise CacheError(
            f"embeddings of shape {rows.embeddings.shape} for {key.name}, which has "
            f"{key.embedding_dim} numbers per row: the backbone's table entry is wrong"
        )
    if not np.isfinite(rows.embeddings).all():
        raise CacheError(
            f"{key.backbone} on {key.device} at {key.precision} gave NaN or "
            "infinity: nothing of this batch was kept; try --precision fp32 or other --weights"
        )
    sha256 = payload_sha256(rows, failures)
    # Built in memory: HDF5 2.0 ends the process when a full disk cuts a write of its own short.
    with h5py.File("segment", "w", libver=LIBVER, driver="core", backing_store=False) as file:
        write_header(file, key, failures, provenance, sha256)
        _write_array(file, "hash", rows.hashes)
        _write_array(file, "view", rows.views)
        _write_array(file, "embedding", rows.embeddings)
        file.flush()
        image = file.id.get_file_image()
    path = folder / segment_name(sha256)
    put(path, image)
    return path


def segment_name(sha256: str) -> str:
    """Name a segment by its payload's checksum."""
    return f"{sha256[:16]}.h5"


def write_header(
    file: Any,
    key: EmbeddingKey,
    failures: Sequence[Failure],
    provenance: dict[str, Any],
    sha256: str,
) -> None:
    """Write everything but the rows into an open file."""
    words = {
        "format": FORMAT,
        "identity": key.to_json(),
        "provenance": json.dumps(provenance, sort_keys=True),
        "sha256": sha256,
    }
    for name, text in words.items():
        # Of fixed length: those lie in the header, which HDF5 checks. Text of any other kind lies
        # in a heap without checksum, where one flipped bit can make HDF5 2.0 loop endlessly.
        file.attrs[name] = np.bytes_(text.encode())
    _write_array(file, "failures", np.frombuffer(_failures_json(failures), np.uint8), TEXT_CHUNK)


def read_header(path: Path) -> Header:
    """Read everything but the embeddings.

    Raises:
        CacheError: the file is truncated, damaged, not a segment of ours, or can't be opened now.
    """
    if is_url(path):
        with _clear_errors(path):
            first, size = content(path, BEGINNING), size_of(path)
        return _header_behind(path, first, size)
    with _reading(path) as file:
        return _header(file)


def read_each_header(paths: Sequence[Path]) -> Iterator[Header | CacheError]:
    """Read the headers of segments in one folder; of one that can't be read, yield the error.

    Behind a URL, many are fetched at once.
    """
    ahead = beginnings(paths) if paths and is_url(paths[0]) else repeat((b"", 0))
    for path, (first, size) in zip(paths, ahead, strict=False):
        try:
            yield _header_from(path, first, size)
        except CacheError as error:
            yield error


def read_embeddings(path: Path) -> NDArray[np.float32]:
    """Return the embeddings, float32 [N, D], in the order of the header's hashes.

    Those of a compacted segment are mapped, not read; those of any other, and any behind a URL, are
    checked for NaN.

    Raises:
        CacheError: as for `read_header`, or a row holds NaN or infinity.
    """
    with _reading(path) as file:
        embeddings, mapped = _embeddings(file, path)
        if not mapped:
            _check_finite(embeddings)
    return embeddings


def verify_segment(path: Path, called: Path | None = None) -> Header:
    """Recompute the payload's SHA-256, check every number, and return the header.

    Args:
        path: The file.
        called: The segment's name, if the file has another one for now.

    Raises:
        CacheError: the content is not what was written.
    """
    called = called or path
    with _reading(path, called) as file:
        header = _header(file)
        embeddings, _ = _embeddings(file, path)
        for start in range(0, len(embeddings), CHUNK_ROWS):
            _check_finite(embeddings[start : start + CHUNK_ROWS])
    sha256 = payload_sha256(Rows(header.hashes, header.views, embeddings), header.failures)
    if sha256 != header.sha256:
        raise _damaged(called, "its content does not match its checksum")
    if called.name != segment_name(sha256):
        raise _damaged(called, f"its content belongs into a file called {segment_name(sha256)}")
    return header


def payload_sha256(rows: Rows, failures: Sequence[Failure]) -> str:
    """Hash rows and failures, in hex: what names a segment and what `verify_segment` recomputes."""
    digest = hashlib.sha256()
    for array in (rows.hashes, rows.views, rows.embeddings):
        if array.size:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            for start in range(0, len(data), HASH_BLOCK):
                digest.update(data[start : start + HASH_BLOCK].data)
    digest.update(_failures_json(failures))
    return digest.hexdigest()


@contextmanager
def _reading(
    path: Path, called: Path | None = None, beginning: Beginning | None = None
) -> Iterator[Any]:
    """Open a segment: its file, or of one behind a URL its beginning or all its bytes."""
    with _clear_errors(called or path):
        source: Any = path
        if is_url(path):
            source = beginning or io.BytesIO(content(path))
        else:
            check_file(path)
        with h5py.File(source, "r") as file:
            if _text(file, "format") != FORMAT:
                raise ValueError("it is not a Frostline segment")
            _check_layout(file)
            yield file


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Make one clear error of whatever h5py, JSON or a missing part raises."""
    try:
        yield
    except CacheError:  # an key of another version: nothing is wrong with the file
        raise
    except FileNotFoundError as error:
        raise SegmentGoneError(f"{path} can't be opened ({error})") from error
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise CacheError(
                f"{path} can't be opened: {error.strerror or error}. Fix this and try again."
            ) from error
        raise _damaged(path, str(error)) from error


def _header_from(path: Path, first: bytes, size: int) -> Header:
    if first:
        # Rewritten since it was listed, it may have got another size: then it is read again.
        with suppress(CacheError):
            return _header_behind(path, first, size)
    return read_header(path)


def _header_behind(path: Path, first: bytes, size: int) -> Header:
    """Read the header of a segment behind a URL: from its first bytes, and more if need be."""
    while True:
        beginning = Beginning(first, size)
        try:
            with _reading(path, beginning=beginning) as file:
                header = _header(file)
        except CacheError:
            if not beginning.missed or len(first) >= size:
                raise
        else:
            if not beginning.missed:
                return header
        with _clear_errors(path):
            first = content(path, max(4 * len(first), beginning.missed))


def _header(file: Any) -> Header:
    failures = parse_json(file["failures"][:].tobytes(), list[_Unread])
    return Header(
        key=EmbeddingKey.from_json(_text(file, "identity")),
        hashes=file["hash"][:],
        views=file["view"][:],
        failures=tuple(
            Failure(bytes.fromhex(row.sha256), row.path, row.reason) for row in failures
        ),
        provenance=read_note(_text(file, "provenance")),
        sha256=_text(file, "sha256"),
        compacted=file["embedding"].id.get_offset() is not None,
    )


def _embeddings(file: Any, path: Path) -> tuple[NDArray[np.float32], bool]:
    """Return the embeddings, and whether they are mapped instead of read."""
    dataset = file["embedding"]
    if (offset := dataset.id.get_offset()) is not None and not is_url(path):
        mapped = np.memmap(path, TYPES["embedding"], "r", offset, dataset.shape)
        return np.asarray(mapped), True
    return dataset[:], False


def _check_layout(file: Any) -> None:
    """Make sure that every part lies in this very file, in the type and shape it should have.

    No part is read: what is declared can be larger than any memory.
    """
    for name in PARTS:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"its {name} is missing, or a link to somewhere else")
    parts = {name: file[name] for name in PARTS}
    for name, part in parts.items():
        _check_storage(name, part)
    n, dim = parts["hash"].shape[0], EmbeddingKey.from_json(_text(file, "identity")).embedding_dim
    shapes = [part.shape for part in parts.values()]
    if shapes != [(n, 32), (n,), (n, dim), (parts["failures"].size,)]:
        raise ValueError(f"its arrays have the shapes {shapes}")
    if (types := [part.dtype.str for part in parts.values()]) != list(PARTS.values()):
        raise ValueError(f"its arrays have the types {types}")
    declared, size = sum(part.nbytes for part in parts.values()), file.id.get_filesize()
    if declared > size:
        raise ValueError(f"it declares {declared:,} bytes of rows, and the file has {size:,}")


def _check_storage(name: str, part: Any) -> None:
    """Make sure that an array is stored here, as it is, with Fletcher-32 where it has chunks."""
    if not isinstance(part, h5py.Dataset) or not part.shape:
        raise ValueError(f"its {name} is no array")
    layout = part.id.get_create_plist()
    filters = [layout.get_filter(number)[0] for number in range(layout.get_nfilters())]
    if part.is_virtual or part.external:
        raise ValueError(f"its {name} lies in another file")
    if filters != ([h5py.h5z.FILTER_FLETCHER32] if part.chunks else []):
        raise ValueError(f"its {name} is compressed, or has other HDF5 filters than a checksum")
    if part.chunks and any(c > n for c, n in zip(part.chunks, part.shape, strict=True)):
        raise ValueError(f"its {name} has chunks larger than itself")


def _text(file: Any, name: str) -> str:
    """Read an attribute, if it is a text of fixed length: any other may lie in a damaged heap."""
    if not h5py.h5a.exists(file.id, name.encode()):
        raise ValueError(f"it is not a Frostline segment: it has no attribute {name}")
    attribute = file.attrs.get_id(name)
    if attribute.shape != () or attribute.dtype.kind != "S":
        raise ValueError(f"its attribute {name} is no text of fixed length")
    value: bytes = file.attrs[name]
    return value.decode()


def _check_finite(embeddings: NDArray[np.float32]) -> None:
    if not np.isfinite(embeddings).all():
        raise ValueError("it holds NaN or infinity")


def _damaged(path: Path, why: str) -> CacheError:
    return CacheError(
        f"{path} can't be used: {why}. Delete this file and run extract again: "
        "only its rows are computed again."
    )


def _write_array(file: Any, name: str, array: NDArray[Any], rows: int = CHUNK_ROWS) -> None:
    # HDF5 checks Fletcher-32 on every read of a chunk; an empty array can have no chunks.
    chunks = (min(rows, len(array)), *array.shape[1:]) if len(array) else None
    file.create_dataset(name, data=array, chunks=chunks, fletcher32=chunks is not None)


def _failures_json(failures: Sequence[Failure]) -> bytes:
    rows = [{"sha256": f.sha256.hex(), "path": f.path, "reason": f.reason} for f in failures]
    return json.dumps(rows).encode()
