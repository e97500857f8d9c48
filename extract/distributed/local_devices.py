"""One process for each chip of a host: each fills the same caches with images of its own."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import reduce
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import cast

from PIL import Image

from cache.errors import DeviceError, FrostlineError
from cache.progress import Progress, silent
from extract.dataset_statistics.image_index import ImageIndex
from extract.devices import DEVICES, usable_cores
from extract.distributed.job import Job
from extract.embedding_spec import EmbeddingSpec
from extract.pipeline import DEFAULT, Extraction, Extractor, RunnerOptions, combine
from extract.signals import SIGNALS, stoppable
from extract.sources.image_file import ImageFile

POLL_SECONDS = 0.2  # between two looks at whether the user asked to stop
PROGRESS_SECONDS = 0.1  # between two words of a child about its progress
MESH_PORT = 8476  # of the first chip, as in torch_xla._internal.tpu


@dataclass
class WorkerStatus:
    """What the processes reported.

    Attributes:
        counts: Rows done and rows to do, by process.
        done: Final results, by process.
        errors: What stopped a process.
    """

    counts: dict[Connection, tuple[int, int]] = field(default_factory=dict)
    done: dict[Connection, list[Extraction]] = field(default_factory=dict)
    errors: dict[Connection, Exception] = field(default_factory=dict)


def local_devices(device: str) -> int:
    """Return how many chips of an XLA device this host has; 1 for others.

    TPU_VISIBLE_CHIPS can leave out some. xla-cpu has as many as CPU_NUM_DEVICES says. The XLA
    runtime is not started.
    """
    return len(_local_devices(device))


def extract_on_local_devices(
    specs: Sequence[EmbeddingSpec],
    images: Sequence[ImageFile],
    root: Path,
    progress: Progress = silent,
    options: RunnerOptions = DEFAULT,
) -> list[Extraction]:
    """Do what `extract` does, with a process for each chip of the specs' device.

    Each process has every n-th of the images that lack a row, and commits by itself; none waits for
    another. If one fails, the others stop after their batch; if one is killed, they finish. Both
    keep what they computed.

    Args:
        specs: All of one device.
        options: Its `workers` are those of all processes together.

    Raises:
        KeyboardInterrupt: the user asked to stop; computed rows are saved.
        DeviceError: a chip can't be used, or its process was killed. What else a process raises,
            as `extract` would, is raised here.
    """
    device, unique = specs[0].device, {image.sha256: image for image in images}
    with stoppable() as asked_to_stop, Extractor(specs, root, options) as run:
        todo = {key: image for key, image in unique.items() if run.lacks(key, options.views)}
        run.fill([image for key, image in unique.items() if key not in todo], views=options.views)
        used = _local_devices(device)[: len(todo)]
        threads = max(1, (options.workers or usable_cores()) // max(1, len(used)))
        job = Job(
            tuple(specs), str(root), replace(options, workers=threads), Image.MAX_IMAGE_PIXELS
        )
        shares = _shares(list(todo.values()), used)
        with _working(device, job, shares) as children:
            status = _follow(list(children), progress, asked_to_stop)
        if status.errors:
            raise next(iter(status.errors.values()))
        _raise_for_killed(device, [p for c, p in children.items() if c not in status.done])
        parts = [run.summaries(), *status.done.values()]
        return [reduce(combine, of_target) for of_target in zip(*parts, strict=True)]


def _local_devices(device: str) -> list[str]:
    """Return what chips are called where one is chosen."""
    if DEVICES[device].pjrt == "CPU":
        return [str(chip) for chip in range(int(os.environ.get("CPU_NUM_DEVICES", "1")))]
    if DEVICES[device].pjrt is None:
        return ["0"]
    if visible := os.environ.get("TPU_VISIBLE_CHIPS"):
        return visible.split(",")
    from torch_xla._internal import tpu

    return [str(chip) for chip in range(tpu.num_available_chips())]


def _environment(device: str, chip: str) -> dict[str, str]:
    """Return what makes a process see one chip, and no other process.

    Without it, the processes of a TPU host wait for each other when they start. The values are
    those of "non-communicating processes" (gist.github.com/skye, tpu_topology_env_vars.py).
    """
    if DEVICES[device].pjrt == "CPU":
        return {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "1"}
    port = str(MESH_PORT + int(chip))
    return {
        "PJRT_DEVICE": "TPU",
        "TPU_VISIBLE_CHIPS": chip,
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_MESH_CONTROLLER_ADDRESS": f"localhost:{port}",
        "TPU_MESH_CONTROLLER_PORT": port,
    }


def _shares(images: list[ImageFile], used: Sequence[str]) -> dict[str, list[ImageFile]]:
    """Give each chip every n-th image, in any order: what a killed process left is not one's."""
    random.shuffle(images)
    return {chip: images[number :: len(used)] for number, chip in enumerate(used)}


@contextmanager
def _working(
    device: str, job: Job, shares: dict[str, list[ImageFile]]
) -> Iterator[dict[Connection, SpawnProcess]]:
    """Start the children, and wait for them on leaving, with whatever they have left to commit."""
    context, children = get_context("spawn"), dict[Connection, SpawnProcess]()
    try:
        with _signals_blocked():
            for chip, images in shares.items():
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_work, args=(theirs, device, chip, job, images), name=chip
                )
                process.start()
                theirs.close()
                children[ours] = process
        yield children
    except KeyboardInterrupt:  # asked twice: at once
        for process in children.values():
            process.kill()
        raise
    finally:
        for connection in children:
            connection.close()
        for process in children.values():
            process.join()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Have children ignore what asks to stop: a Ctrl-C reaches them, too, but this process tells
    them.
    """
    resource_tracker.ensure_running()  # started later, it would let signals through again
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow(
    connections: Sequence[Connection], progress: Progress, asked_to_stop: Callable[[], bool]
) -> WorkerStatus:
    """Hear the children until the last has ended, and stop them if need be."""
    status, open_, stopping = WorkerStatus(), set(connections), False
    while open_:
        for ready in cast(list[Connection], wait(list(open_), POLL_SECONDS)):
            try:
                message = ready.recv()
            except (EOFError, OSError):  # it has ended; by a kill, perhaps in the midst of a word
                open_.discard(ready)
                continue
            if isinstance(message, tuple):
                status.counts[ready] = message
                done, total = map(sum, zip(*status.counts.values(), strict=True))
                progress(done, total)
            elif isinstance(message, Exception):
                status.errors[ready] = message
            else:
                status.done[ready] = message
        if (asked_to_stop() or status.errors) and not stopping:
            stopping = True
            for connection in open_:
                with suppress(OSError):  # it has just ended
                    connection.send("stop")
    return status


def _raise_for_killed(device: str, processes: Sequence[SpawnProcess]) -> None:
    if processes:
        ends = (f"that of chip {p.name} with exit code {p.exitcode}" for p in processes)
        raise DeviceError(
            f"--device {device}: of the processes of its chips, {', '.join(ends)} ended before its "
            "work was done (-9: killed, perhaps as memory was full). Finished work is saved; run "
            "the same command again to resume."
        )


def _work(parent: Connection, device: str, chip: str, job: Job, images: list[ImageFile]) -> None:
    """Be the process of one chip."""
    os.environ.update(_environment(device, chip))
    Image.MAX_IMAGE_PIXELS = job.max_pixels
    try:
        import torch_xla

        # One process is one chip. By itself, launch would start threads, not processes, where it
        # finds several devices (the CPU's, or two cores of a chip), and tracing is not for threads.
        torch_xla.launch(_fill, (parent, job, images), debug_single_process=True)
    except (RuntimeError, OSError) as error:  # XLA's, and its plugins'
        _send(parent, DeviceError(f"--device {device}: chip {chip} can't be used: {error}"))


def _fill(ordinal: int, parent: Connection, job: Job, images: list[ImageFile]) -> None:
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            _send(parent, (done, total))

    try:
        options = job.options
        job.check()
        with (
            ImageIndex(options.index) as index,
            Extractor(job.specs, Path(job.root), options) as run,
        ):
            # Whatever the parent sends, or its end, means to stop.
            run.fill(images, progress, options.views, index.add, asked_to_stop=parent.poll)
    except (FrostlineError, OSError) as error:
        _send(parent, error)
    else:
        _send(parent, run.summaries())


def _send(
    parent: Connection, message: tuple[int, int] | list[Extraction] | FrostlineError | OSError
) -> None:
    with suppress(OSError):  # it was killed: nobody listens
        parent.send(message)
