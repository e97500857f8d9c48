"""The cache against `numpy.memmap` on the same bytes and against plain appending with h5py.

    python benchmarks/cache.py [--rows 1000000] [--dim 512] [--files 100000]

Needs some 8 GB of disk at full size. Prints a Markdown section; `make bench` keeps it.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import machine, medians, table
from cache.embedding_key import EmbeddingKey
from cache.maintenance.compact import compact
from cache.segment import Rows, write_segment
from cache.store import Cache, build_index, open_cache, read, read_headers
from extract.dataset import scan

SEGMENT_ROWS = 1024
PICKED = 20_000
NOTE = {"weights": "random:0", "engine": "torch", "rows": SEGMENT_ROWS, "seconds": 1.0}


def key(dim: int) -> EmbeddingKey:
    """Name a cache of nothing in particular."""
    return EmbeddingKey(
        backbone="benchmark", weights_sha256="0" * 64, embedding_dim=dim, gray="-", bit_depth="-",
        fit="-", interpolation="-", size=224, mean=(0.5,), std=(0.5,), views="0: clean",
        precision="fp32", calibration="", device="cpu",
    )  # fmt: skip


def blocks(rows: int, dim: int) -> list[Rows]:
    """Draw a few segments' rows; each is used many times under other hashes."""
    noise = np.random.default_rng(0)
    views = np.zeros(SEGMENT_ROWS, np.uint16)
    return [
        Rows(
            noise.integers(0, 256, (SEGMENT_ROWS, 32), dtype=np.uint8),
            views,
            noise.standard_normal((SEGMENT_ROWS, dim), dtype=np.float32),
        )
        for _ in range(min(8, rows // SEGMENT_ROWS))
    ]


def write_rows(cache: Cache, rows: int) -> float:
    """Commit segments, each safe on the disk before the next; return the seconds."""
    drawn = blocks(rows, cache.key.embedding_dim)
    started = time.perf_counter()
    for number in range(rows // SEGMENT_ROWS):
        block = drawn[number % len(drawn)]
        hashes = block.hashes.copy()
        hashes[:, :4] ^= np.frombuffer(np.uint32(number).tobytes(), np.uint8)
        segment = Rows(hashes, block.views, block.embeddings)
        write_segment(cache.folder, cache.key, segment, [], NOTE)
    return time.perf_counter() - started


def append_rows(path: Path, rows: int, dim: int, durable: bool) -> float:
    """Append to one growing data set, flushed after each block (durable: fsynced as well)."""
    drawn = blocks(rows, dim)
    started = time.perf_counter()
    with h5py.File(path, "w") as file:
        hashes = file.create_dataset("hash", (0, 32), "u1", maxshape=(None, 32), chunks=(256, 32))
        data = file.create_dataset(
            "embedding", (0, dim), "f4", maxshape=(None, dim), chunks=(256, dim)
        )
        for number in range(rows // SEGMENT_ROWS):
            block, start = drawn[number % len(drawn)], number * SEGMENT_ROWS
            for dataset, values in ((hashes, block.hashes), (data, block.embeddings)):
                dataset.resize(start + SEGMENT_ROWS, axis=0)
                dataset[start:] = values
            file.flush()
            if durable:
                os.fsync(file.id.get_vfd_handle())
    return time.perf_counter() - started


def total(array: NDArray[np.float32]) -> float:
    """Touch every number."""
    return float(array.sum(dtype=np.float32))


def writing(folder: Path, cache: Cache, rows: int) -> list[tuple[str, ...]]:
    """Time the writing of all rows; the cache is left filled."""
    dim = cache.key.embedding_dim
    some = max(SEGMENT_ROWS, rows // 10)
    spare = Cache(folder / "spare", cache.key)
    taken: dict[str, list[float]] = {"ours": [], "plain": [], "durable": []}
    for _ in range(5):
        taken["ours"].append(write_rows(spare, some))
        taken["plain"].append(append_rows(folder / "plain.h5", some, dim, durable=False))
        taken["durable"].append(append_rows(folder / "plain.h5", some, dim, durable=True))
        shutil.rmtree(spare.folder)
    (folder / "plain.h5").unlink()
    write_rows(cache, rows)
    ours, plain, durable = (float(np.median(taken[name])) for name in taken)
    rate = f"{some / ours:,.0f} rows/s"
    return [
        ("write, a segment fsynced every 1,024 rows", rate, "h5py appending, flushed",
         f"{plain / ours:.2f}×", "–"),
        ("", "", "h5py appending, fsynced as often", f"{durable / ours:.2f}×", "–"),
    ]  # fmt: skip


def compacting(folder: Path, cache: Cache, rows: int) -> list[tuple[str, ...]]:
    """Time the compaction of all segments, against copying the same bytes."""
    size = 4 * rows * cache.key.embedding_dim
    started = time.perf_counter()
    compact(cache)
    ours = time.perf_counter() - started
    embeddings = read(cache)
    started = time.perf_counter()
    with (folder / "raw").open("wb") as file:
        file.write(embeddings.data)
        os.fsync(file.fileno())
    copied = time.perf_counter() - started
    rate = f"{ours:.1f} s, {size / ours / 1e6:,.0f} MB/s"
    return [
        ("compact: verify all, sort, copy, checksum", rate, "writing the same bytes, fsynced",
         f"{copied / ours:.2f}×", "–"),
    ]  # fmt: skip


def reading(folder: Path, cache: Cache) -> list[tuple[str, ...]]:
    """Time opening, reading everything and picking rows, against numpy.memmap of the bytes."""
    shape = read(cache).shape

    def memmap() -> NDArray[np.float32]:
        return np.memmap(folder / "raw", np.float32, "r", 0, shape)

    opened = medians({"ours": lambda: read(cache), "memmap": memmap})
    whole = medians(
        {"ours": lambda: total(read(cache)), "memmap": lambda: total(memmap())},
    )
    keys = [h.tobytes() for h in build_index(read_headers(cache)).hashes.view("V32")]
    places = np.sort(np.random.default_rng(1).choice(shape[0], min(PICKED, shape[0]), False))
    wanted = [keys[i] for i in places]
    picked = medians({"ours": lambda: read(cache, wanted), "memmap": lambda: memmap()[places]})
    gigabytes = shape[0] * shape[1] * 4 / 1e9
    return [
        (f"open {shape[0]:,} × {shape[1]}", f"{opened['ours'] * 1e3:.0f} ms", "numpy.memmap",
         f"{opened['memmap'] * 1e3:.1f} ms", "< 100 ms"),
        ("open and read every number", f"{gigabytes / whole['ours']:.1f} GB/s", "numpy.memmap",
         f"{whole['memmap'] / whole['ours']:.2f}×", "≥ 0.80×"),
        (f"open and pick {len(wanted):,} rows by hash", f"{picked['ours'] * 1e3:.0f} ms",
         "numpy.memmap, places known", f"{picked['memmap'] / picked['ours']:.2f}×", "–"),
    ]  # fmt: skip


def scanning(folder: Path, files: int) -> list[tuple[str, ...]]:
    """Time the scan of unchanged files, against hashing them and against looking at them only."""
    images, table_file = folder / "images", folder / "scan.sqlite"
    for number in range(files):
        path = images / ("a", "b")[number % 2] / f"{number:07}.png"
        if number < 2:
            path.parent.mkdir(parents=True)
        path.write_bytes(number.to_bytes(8, "big") * 1000)
        os.utime(path, ns=(10**18, 10**18))
    scan(images, table=table_file)

    def look() -> None:
        for parent, _, names in os.walk(images):
            for name in names:
                os.stat(os.path.join(parent, name))  # noqa: PTH116, PTH118 - the bare minimum

    taken = medians(
        {"ours": lambda: scan(images, table=table_file), "hash": lambda: scan(images), "walk": look}
    )
    return [
        (f"scan {files:,} unchanged files", f"{taken['ours']:.2f} s", "hashing each (8 kB)",
         f"{taken['hash'] / taken['ours']:.1f}×", "< 2 s"),
        ("", "", "os.walk and os.stat alone", f"{taken['walk'] / taken['ours']:.2f}×", "–"),
    ]  # fmt: skip


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--files", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = open_cache(folder, key(options.dim))
        lines: list[tuple[str, ...]] = [("what", "ours", "peer", "ours against it", "asked")]
        lines += writing(folder, cache, options.rows)
        lines += compacting(folder, cache, options.rows)
        lines += reading(folder, cache)
        lines += scanning(folder, options.files)
    print("## Cache\n")
    print(f"{machine('numpy', 'h5py')}. Medians of 5, in turns; compaction once.\n")
    print(table(lines))
    print("\nA ratio above 1 means ours is faster, below 1 slower.")


if __name__ == "__main__":
    main()
