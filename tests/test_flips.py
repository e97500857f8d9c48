"""A flipped bit anywhere in a file of a workspace is found, or is of no consequence."""

import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cache.arrays import write_arrays
from cache.errors import CacheError, Failure, FrostlineError
from cache.maintenance.compact import compact
from cache.segment import Header, read_embeddings, read_header, verify_segment, write_segment
from cache.store import Cache, open_cache, read
from cache.tables import checksum_path
from evaluate.audit.findings import (
    TEST,
    Audit,
    DuplicatePair,
    Outlier,
    Seen,
    audit_path,
    read_audit,
    write_audit,
)
from evaluate.backbone_loader import NETWORK_FORMAT, check_network, network_path
from evaluate.baseline.checkpoint import read_checkpoint, write_checkpoint
from evaluate.explanation.gradcam import Maps, maps_path, read_maps, write_maps
from evaluate.leaderboard import studies
from evaluate.predict import find_model
from evaluate.predictions import Predictions, predictions_path, read_predictions, write_predictions
from evaluate.results import add_result
from evaluate.uncertainty.scores import Uncertainty, doubt_path, read_doubt, write_doubt
from evaluate.workspace.layout import Workspace
from heads.config import HeadConfig
from heads.inference import probabilities
from heads.search.space import SearchPlan
from heads.store import read_head
from heads.training import train_heads
from tests.reported import row
from tests.test_cache import IDENTITY, NOTE, rows
from tests.toy import key

pytestmark = pytest.mark.slow

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
    words = (header.key, header.failures, header.provenance, header.sha256)
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


Read = Callable[[], object]


@pytest.fixture(scope="module")
def readers(
    caches: dict[str, Cache],
    labels: dict[bytes, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[Path, Read]:
    """Every kind of file that a workspace keeps beside its segments, and what is read from it."""
    place = Workspace(tmp_path_factory.mktemp("flips"))
    sweep = SearchPlan((HeadConfig("single", "adam"), HeadConfig("knn", "none")))
    heads = train_heads(caches["cpu"], labels, "dataset", sweep, place.heads).heads
    keys = tuple(sorted(labels)[:8])
    embeddings = np.array(read(caches["cpu"], keys))
    saved = heads[0]
    chances = probabilities(saved.logits(embeddings), saved.info.temperature)
    paths = tuple(Path(f"gel/{key.hex()[:6]}.png") for key in keys)
    given = Predictions(paths, keys, np.arange(8) % 2, chances, np.arange(8) == 3)
    classes, head = saved.info.classes, saved.info.id
    predictions = predictions_path(place.heads, head, "t1", "torch")
    write_predictions(predictions, given, classes)
    maps = maps_path(place.heads, head)
    write_maps(maps, Maps(keys, np.arange(8 * 49, dtype=np.uint8).reshape(8, 7, 7)))
    doubt = doubt_path(place.heads, head)
    powers = {"neighbour": 0.9, "margin": float("nan")}
    known = Uncertainty("neighbour", powers, {"validation": 18}, 3, 0.25, 0.05, 0.8)
    write_doubt(doubt, known, {"bank": embeddings[:4]})
    audit = audit_path(place, "d1", "t1")
    seen = [
        Seen(str(path), key.hex(), "gel", TEST, -1) for path, key in zip(paths, keys, strict=True)
    ]
    pairs = (DuplicatePair(0, 1, 0.97, 3, exact=False), DuplicatePair(2, 3, None, 0, exact=True))
    odd = (Outlier(2, "size", "9 x 9"),)
    write_audit(audit, Audit("d", "t", None, tuple(seen), pairs, (("a.png", "cut"),), odd))
    network = network_path(place, "net")
    write_arrays(network, {"fc.weight": embeddings[:2]}, NETWORK_FORMAT)
    checkpoint = place.networks / "net.checkpoint.safetensors"
    write_checkpoint(
        checkpoint, {"sums": torch.arange(4.0)}, {"batch": 3, "curves": {"loss": [1.0]}}
    )
    return {
        **{
            each.path: partial(
                lambda each: (repr(read_head(each.path).info), each.logits(embeddings).tolist()),
                each,
            )
            for each in heads
        },
        predictions: lambda: repr(read_predictions(predictions, classes)),
        checksum_path(predictions): lambda: repr(read_predictions(predictions, classes)),
        maps: lambda: repr(read_maps(maps)),
        doubt: lambda: repr(read_doubt(doubt)),
        doubt.with_suffix(".npz"): lambda: repr(read_doubt(doubt)),
        audit: lambda: repr(read_audit(audit)),
        network: lambda: check_network(place, "net"),
        checkpoint: lambda: repr(read_checkpoint(checkpoint)),
    }


KINDS = 10  # of files in `readers`


@pytest.mark.parametrize("number", range(KINDS))
def test_a_flipped_bit_gives_what_was_written_or_an_error_that_names_the_file(
    number: int, readers: dict[Path, Read], soak: bool, figure: Callable[[str], None]
) -> None:
    path, what_is_read = list(readers.items())[number]
    assert len(readers) == KINDS
    whole, before, found = path.read_bytes(), what_is_read(), 0
    bits = [(position, bit) for position in range(len(whole)) for bit in range(8)]
    if not soak:
        # As many at the beginning, where names and sizes are, as anywhere.
        some = random.Random(3)
        bits = some.sample(bits[: 8 * 4096], min(150, len(bits))) + some.sample(bits, 150)
    try:
        for position, bit in bits:
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                assert what_is_read() == before, f"bit {bit} of byte {position}"
            except FrostlineError as error:
                assert path.name.removesuffix(".sha256").removesuffix(".npz") in str(error)
                found += 1
    finally:
        path.write_bytes(whole)
    assert found > len(bits) / 2
    figure(f"flipped bits in {path.name}: {found} of {len(bits)} found, the others harmless")


def test_a_flipped_bit_in_the_table_for_people_is_a_result_or_an_error(
    tmp_path: Path, soak: bool
) -> None:
    """People may edit it: a changed digit can't be told from a corrected one."""
    path = tmp_path / "results.csv"
    for number in range(3):
        add_result(path, row(f"head-{number}"))
    whole = path.read_bytes()
    bits = [(position, bit) for position in range(len(whole)) for bit in range(8)]
    for position, bit in bits if soak else random.Random(4).sample(bits, 150):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        with suppress(FrostlineError):
            studies(path)
        with suppress(FrostlineError):
            find_model(Workspace(tmp_path), "best")


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
