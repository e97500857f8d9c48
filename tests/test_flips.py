"""A flipped bit anywhere in a segment is found, or is of no consequence."""

import random
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.compact import compact
from cache.errors import CacheError
from cache.segments import (
    Failure,
    Header,
    read_embeddings,
    read_header,
    verify_segment,
    write_segment,
)
from cache.store import open_cache
from tests.test_cache import IDENTITY, NOTE, rows
from tests.toy import key

FLIPS = 600  # of a short run


@pytest.fixture(params=["written", "compacted"])
def segment(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    cache = open_cache(tmp_path, IDENTITY)
    failed = [Failure(key(99), "gel/ü [1].png", "the file is empty")]
    written = write_segment(cache.folder, IDENTITY, rows(*range(40)), failed, NOTE)
    if request.param == "written":
        return written
    compacted = compact(cache)
    assert compacted and read_header(compacted).compacted
    return compacted


def what_it_says(path: Path) -> tuple[bytes, ...]:
    header: Header = read_header(path)
    words = (header.identity, header.failures, header.provenance, header.sha256)
    arrays = (header.hashes, header.views, read_embeddings(path))
    return (repr(words).encode(), *(array.tobytes() for array in arrays))


def payload(path: Path) -> list[int]:
    """Return the offset of every byte of hashes, views and embeddings."""
    offsets: list[int] = []
    with h5py.File(path) as file:
        for name in ("hash", "view", "embedding"):
            dataset = file[name].id
            if (start := dataset.get_offset()) is not None:
                offsets += range(start, start + dataset.get_storage_size())
            else:
                chunks = [dataset.get_chunk_info(i) for i in range(dataset.get_num_chunks())]
                for chunk in chunks:
                    offsets += range(chunk.byte_offset, chunk.byte_offset + chunk.size)
    return offsets


def test_every_flipped_bit_is_found_or_harmless(
    segment: Path, soak: bool, figure: Callable[[str], None]
) -> None:
    whole, before = segment.read_bytes(), what_it_says(segment)
    rows_at = payload(segment)
    bits = [(position, bit) for position in range(len(whole)) for bit in range(8)]
    of_rows = [(position, bit) for position in rows_at for bit in range(8)]
    if not soak:
        bits = random.Random(1).sample(bits, FLIPS)
        of_rows = random.Random(2).sample(of_rows, FLIPS)
    inside, found = set(rows_at), {True: 0, False: 0}
    for position, bit in {*bits, *of_rows}:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        segment.write_bytes(damaged)
        try:
            verify_segment(segment)
        except CacheError as error:
            assert segment.name in str(error)
            found[position in inside] += 1
        else:
            assert position not in inside, f"bit {bit} of byte {position} was not found"
            assert what_it_says(segment) == before
    tried = sum(position in inside for position, _ in {*bits, *of_rows})
    assert found[True] == tried
    others = len({*bits, *of_rows}) - tried
    figure(
        f"flipped bits in a segment's rows: {found[True]} of {tried} found; elsewhere in the file "
        f"{found[False]} of {others} found, the others of no consequence"
    )


def test_foreign_parts_are_refused(segment: Path, tmp_path: Path) -> None:
    """A part that lies in another file could change behind our back."""
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["embedding"] = np.zeros((40, 3), np.float32)
    with h5py.File(segment, "r+") as file:
        del file["embedding"]
        file["embedding"] = h5py.ExternalLink(str(other), "/embedding")
    with pytest.raises(CacheError, match=r"a link to somewhere else.*Delete this file"):
        read_header(segment)


def test_rows_stored_in_another_file_are_refused(segment: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(40 * 12))
    with h5py.File(segment, "r+") as file:
        del file["embedding"]
        external = [(str(tmp_path / "raw"), 0, 40 * 12)]
        file.create_dataset("embedding", (40, 3), np.float32, external=external)
    with pytest.raises(CacheError, match="lies in another file"):
        read_header(segment)


def test_a_compressed_bomb_is_refused_unread(segment: Path) -> None:
    with h5py.File(segment, "r+") as file:
        del file["embedding"]
        file.create_dataset("embedding", (40, 3), np.float32, compression="gzip")
    with pytest.raises(CacheError, match="is compressed"):
        read_header(segment)
