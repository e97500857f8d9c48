"""A process of its own that fills or compacts a toy cache, and kills itself at a given place.

Children are forked from a clean server that has torch imported, so that each costs milliseconds.
"""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image

import cache.maintenance.compact
import extract.loader
import extract.writer
from cache.store import Cache, find_caches
from extract.backbones import BACKBONES
from extract.dataset import scan
from extract.embedding_spec import load_backbone
from extract.model_zoo.backbone import Backbone
from tests.toy import Toy, extract_one, no_file

BATCH_SIZE = 4
SEGMENT_ROWS = 12
# Where a process can die: what is called there, and where it is looked up.
PLACES: dict[str, tuple[Any, str]] = {
    "decode": (extract.loader, "decode_gray"),
    "compute": (Toy, "forward"),
    "build": (h5py.Group, "create_dataset"),
    "write": (Path, "write_bytes"),
    "fsync": (os, "fsync"),
    "rename": (Path, "replace"),
    "fill": (cache.maintenance.compact, "_fill"),
    "delete": (Path, "unlink"),
}


@dataclass(frozen=True)
class Death:
    """Die at the n-th call of what a place names, before it (a write: halfway) or after it."""

    place: str
    call: int
    after: bool


def draw_images(folder: Path, count: int, seed: int = 0) -> Path:
    """Write small images, no two alike, into two classes."""
    noise = np.random.default_rng(seed)
    for number in range(count):
        path = folder / ("a", "b")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (12, 12), dtype=np.uint8)).save(path)
    return folder


def fill(data: Path, root: Path, death: Death | None = None) -> None:
    """Extract what is missing."""
    _arrange(death)
    images = scan(data).files
    backbone = load_backbone("toy", "random")
    extract_one(backbone, images, root, batch_size=BATCH_SIZE)


def compact(data: Path, root: Path, death: Death | None = None) -> None:
    """Compact what is there."""
    _arrange(death)
    for found in find_caches(root):
        cache.maintenance.compact.compact(found)


def start(
    work: Callable[[Path, Path, Death | None], None],
    data: Path,
    root: Path,
    death: Death | None = None,
) -> multiprocessing.process.BaseProcess:
    """Start a piece of work in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killing"])
    process = context.Process(target=work, args=(data, root, death))
    process.start()
    return process


def finish(process: multiprocessing.process.BaseProcess, within: float | None = None) -> int:
    """Wait for a process, or kill it after some seconds; return its exit code."""
    process.join(within if within is not None else 60)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def random_death(chance: random.Random, places: list[str]) -> Death:
    """Choose where to die, evenly over the places."""
    return Death(chance.choice(places), chance.randint(1, 12), chance.random() < 0.5)


def only_cache(root: Path) -> Cache:
    """Return the one cache there."""
    (found,) = find_caches(root)
    return found


def _arrange(death: Death | None) -> None:
    torch.set_num_threads(1)
    BACKBONES["toy"] = Backbone(8, "fc", lambda name: Toy(), no_file)
    extract.writer.SEGMENT_ROWS = SEGMENT_ROWS
    if death:
        owner, name = PLACES[death.place]
        calls = iter(range(1, 1_000_000))
        setattr(owner, name, dying(getattr(owner, name), death, calls))


def dying(original: Callable[..., Any], death: Death, calls: Any) -> Callable[..., Any]:
    """Wrap a function or method so that the process dies at the chosen call."""

    def wrapped(*arguments: Any, **named: Any) -> Any:
        chosen = next(calls) == death.call
        if chosen and death.place == "write" and not death.after:
            path, data = arguments
            original(path, data[: len(data) // 2])  # half a segment
        if chosen and not death.after:
            _die()
        result = original(*arguments, **named)
        if chosen:
            _die()
        return result

    return wrapped


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal may reach another thread first
