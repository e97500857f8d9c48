"""More images than one machine takes: one worker against the local pipeline, the driver's memory,
and how fast files are listed, hashes remembered, and segments found and compacted.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.measuring import machine, table  # noqa: E402
from benchmarks.pictures import cifar, gels, repeated  # noqa: E402
from cache.key_set import KeySet  # noqa: E402
from cache.maintenance.compact import compact  # noqa: E402
from cache.ray_cluster import connected  # noqa: E402
from cache.segment import Rows, write_segment  # noqa: E402
from cache.store import Cache, open_cache, read, read_headers  # noqa: E402
from extract.artifact_store import ArtifactStore  # noqa: E402
from extract.backends.backend import usable_engines  # noqa: E402
from extract.dataset import scan  # noqa: E402
from extract.devices import usable_cores  # noqa: E402
from extract.distributed.job import Job  # noqa: E402
from extract.distributed.ray import extract_on_ray  # noqa: E402
from extract.distributed.shards import list_shards  # noqa: E402
from extract.distributed.worker import Part  # noqa: E402
from extract.embedding_spec import EmbeddingSpec, engine_artifacts, load_backbone  # noqa: E402
from extract.pipeline import RunnerOptions, extract  # noqa: E402
from extract.sources.hash_index import Hashed, known_among, remember  # noqa: E402

Row = tuple[str, ...]
ROUNDS = 3
SHARD = 2048
# A process of its own that runs the command line, and says how much memory of its own it had at
# most (KiB): what is shared with Ray's object store is not the driver's.
DRIVER = r"""
import re, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
highest, status = 0, Path("/proc/self/status")

def watch():
    global highest
    while True:
        highest = max(highest, int(re.search(r"RssAnon:\s+(\d+)", status.read_text())[1]))
        time.sleep(0.05)

threading.Thread(target=watch, daemon=True).start()
from frostline.cli.main import cli
cli(sys.argv[2:], standalone_mode=False)
print("highest", highest)
"""


def one_worker(folder: Path, images: Path, what: str, name: str) -> list[Row]:
    """Time one worker on Ray, with all cores, against the local pipeline, engines being built."""
    artifacts = ArtifactStore(folder / "engines")
    spec = EmbeddingSpec(
        load_backbone(name, "auto"), "cpu", usable_engines("cpu", None, "bf16"), "bf16"
    )
    cores = usable_cores()

    def local() -> float:
        started = time.perf_counter()
        files = scan(images).files
        (done,) = extract(
            [spec],
            files,
            Path(tempfile.mkdtemp(dir=folder)),
            options=RunnerOptions(artifacts=artifacts),
        )
        return done.computed / (time.perf_counter() - started - done.spent.get("build", 0))

    def on_ray() -> float:
        root = Path(tempfile.mkdtemp(dir=folder))
        engine_artifacts(root).folder.symlink_to(artifacts.folder)
        job = Job((spec,), str(root), RunnerOptions(), None)
        parts = (Part("dataset", shard, 0, {}) for shard in list_shards(images, SHARD))
        dones = list(extract_on_ray(parts, job, {"num_cpus": cores}, None, print_nothing))
        computed = sum(done.extractions[0].computed for done in dones)
        built = sum(done.extractions[0].spent.get("build", 0) for done in dones)
        return computed / (sum(done.seconds for done in dones) - built)

    rates: dict[str, list[float]] = {"local": [], "ray": []}
    with connected(None):
        for _ in range(ROUNDS):
            rates["local"].append(local())
            rates["ray"].append(on_ray())
    here, there = (statistics.median(rates[name]) for name in ("local", "ray"))
    return [
        (f"{name} bf16, one worker, {what}", f"{there:.0f} images/s",
         f"local pipeline {here:.0f} images/s", f"{there / here:.2f}×", "≥ 0.9×")
    ]  # fmt: skip


def print_nothing(files: int) -> None:
    """Hear how many files are listed."""


def drivers_memory(folder: Path, data: Path) -> list[Row]:
    """Measure the driver's own memory with lists of 1,000 and 1,000,000 files.

    The long list names the same 1,000 real images again and again: each is listed, sent, looked at
    and answered for as any other.
    """
    images = repeated(gels(data), folder / "thousand", 1000)
    files = [(file.path, file.label) for file in scan(images).files]
    highest = {}
    for number in (1_000, 1_000_000):
        listed = folder / f"{number}.csv"
        with listed.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("path", "label"))
            table.writerows(files[place % len(files)] for place in range(number))
        started = time.perf_counter()
        highest[number] = driver(listed, folder / f"of{number}")
        seconds = time.perf_counter() - started
    few, many = (highest[number] / 1024 for number in highest)
    return [
        ("driver's own memory, 1,000,000 files", f"{many:.0f} MiB ({seconds:.0f} s)",
         f"1,000: {few:.0f} MiB", f"{many / few:.2f}×", "flat")
    ]  # fmt: skip


def driver(images: Path, workspace: Path) -> int:
    """Run DRIVER; see there."""
    command = [
        sys.executable, "-c", DRIVER, str(ROOT), "extract", "--on", "ray", "--resources",
        json.dumps({"CPU": 1}), "--arch", "basic_cnn", "--weights", "random", "--dataset",
        str(images), "--test", str(images.with_name("1000.csv")), "--workspace", str(workspace),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return int(done.stdout.rpartition("highest ")[2])


def files_and_hashes(folder: Path) -> list[Row]:
    """Time listing 100,000 files of one class, and remembering and finding their hashes."""
    number = 100_000
    place = folder / "many" / "class"
    place.mkdir(parents=True)
    for i in range(number):
        (place / f"{i:06}.jpg").touch()
    started = time.perf_counter()
    names = [name for shard in list_shards(folder / "many", SHARD) for name in shard.paths]
    listed = time.perf_counter() - started
    noise = np.random.default_rng(0)
    known = [Hashed(name.encode(), 1, 1, noise.bytes(32)) for name in names]
    scan_table = folder / "scan.sqlite"
    parts = [known[start : start + SHARD] for start in range(0, number, SHARD)]
    started = time.perf_counter()
    for part in parts:
        remember(scan_table, part)
    remembered = time.perf_counter() - started
    started = time.perf_counter()
    for start in range(0, number, SHARD):
        known_among(scan_table, names[start : start + SHARD])
    found = time.perf_counter() - started
    bytes_each = scan_table.stat().st_size / number
    return [
        ("files listed", f"{number / listed:,.0f} per second", "–", "–", "–"),
        ("hashes remembered", f"{number / remembered:,.0f} per second",
         f"{bytes_each:.0f} bytes each", "–", "–"),
        ("hashes found", f"{number / found:,.0f} per second", "–", "–", "–"),
    ]  # fmt: skip


def segments_of(folder: Path, rows: int) -> Cache:
    """Write a cache of random rows as workers do, 1,024 in a segment."""
    spec = EmbeddingSpec(load_backbone("resnet18", "random"), "cpu", ("torch",), "fp32")
    cache, noise = open_cache(folder, spec.key), np.random.default_rng(0)
    for size in chunks(rows):
        hashes = noise.integers(0, 256, (size, 32), dtype=np.uint8)
        embeddings = noise.random((size, 512), dtype=np.float32)
        segment = Rows(hashes, np.zeros(size, np.uint16), embeddings)
        write_segment(cache.folder, cache.key, segment, (), {"rows": size})
    return cache


def chunks(rows: int) -> Iterator[int]:
    """Divide rows into segments."""
    for start in range(0, rows, 1024):
        yield min(1024, rows - start)


def segments(folder: Path) -> list[Row]:
    """Time what a worker does first, compaction, and reading, for 200,000 rows of 512 numbers."""
    rows = 200_000
    cache = segments_of(folder / "cache", rows)
    taken: dict[str, float] = {}

    def timed(name: str, work: Any) -> Any:
        started = time.perf_counter()
        result = work()
        taken[name] = time.perf_counter() - started
        return result

    found = timed("headers", lambda: read_headers(cache))
    timed("keys", lambda: KeySet((header.hashes, header.views) for _, header in found))
    timed("compact", lambda: compact(cache))
    timed("read", lambda: read(cache))
    size = rows * 512 * 4 / 2**20
    return [
        (f"headers of {len(found)} segments, {rows:,} rows", f"{taken['headers']:.2f} s",
         f"as sorted keys {taken['keys']:.2f} s", "–", "–"),
        (f"compacting {rows:,} rows of 512", f"{taken['compact']:.1f} s",
         f"{size / taken['compact']:.0f} MiB/s", "–", "–"),
        (f"reading {rows:,} compacted rows (mapped)", f"{taken['read']:.2f} s", "–", "–", "–"),
    ]  # fmt: skip


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    data = parser.parse_args().data
    rows: list[Row] = [("what", "ours", "against", "ratio", "asked")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        some = repeated(gels(data), folder / "gels", 2000)
        parts: list[Callable[[], list[Row]]] = [
            lambda: one_worker(folder, some, "2,000 gels", "mobilenet_v3_large"),
            lambda: drivers_memory(folder, data),
            lambda: files_and_hashes(folder),
            lambda: segments(folder),
        ]
        if (data / "cifar10.zip").exists():
            test = cifar(data, folder / "ten", "test")
            parts[1:1] = [
                lambda: one_worker(folder, test, "10,000 of CIFAR-10", "mobilenet_v3_large")
            ]
        for part in parts:
            started = time.perf_counter()
            rows += part()
            print(f"{time.perf_counter() - started:.0f} s: {rows[-1]}", file=sys.stderr)
    print("## At scale\n")
    print(f"{machine('ray', 'torch', 'openvino')}. Medians of {ROUNDS}, in turns; the rest once.\n")
    print(table(rows))


if __name__ == "__main__":
    main()
