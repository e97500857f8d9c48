"""Head training on a Ray cluster: parts of a sweep are tasks, each over the mapped cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import torch

from cache.errors import FrostlineError, HeadError
from cache.ray_cluster import workers_that_fit
from cache.store import Cache
from heads.batched.fit import ClosedFormHeads, Results, TrainingData, divided, fit
from heads.batched.trainer import EmbeddingDataset, HeadGroup, TrainingResult, train_together
from heads.config import HeadConfig
from heads.embedding_dataset import labelled

WAITING_TASKS = 2  # per worker, the one it works on included


@dataclass(frozen=True)
class Source:
    """Where a task finds its images: in which cache; in Ray's object store, their hashes, uint8
    [N, 32], and labels, int64 [N]; how many classes and augmented views there are.
    """

    cache: Cache
    images: Any  # ray.ObjectRef, which is known only where ray is
    classes: int
    views: int


def device_of(options: Mapping[str, Any]) -> str:
    """Return what torch calls the device of a task with these options; see `cache.cluster`."""
    if options.get("num_gpus"):
        return "cuda"
    return "xla" if "TPU" in options.get("resources", {}) else "cpu"


def train_on_ray(  # noqa: PLR0913
    configurations: Sequence[HeadConfig],
    data: TrainingData,
    keep: bool,
    device: str,
    progress: Callable[[int], None],
    cache: Cache,
    options: Mapping[str, Any],
) -> Iterator[Results]:
    """Train heads as `train` does, on the cluster that this process is connected to.

    device: of torch, on the workers; see `device_of`. cache: which `data` is of, in a folder that
    every node sees. options: of a task; of its processors, each is a thread. The parts are those of
    a machine with as many cores as tasks that fit on the cluster, so heads are the same, up to
    rounding; to the last bit with one thread each and equal processors. A part whose node dies is
    trained again elsewhere. progress is told of epochs when their part is done.

    Raises:
        DeviceError: no node has these resources.
        HeadError: Ray gave up. Whatever else a task raises of ours, as CacheError, comes from here.
    """
    import ray

    workers = sum(workers_that_fit(options).values())
    hashes = np.frombuffer(b"".join(data.labels), np.uint8).reshape(-1, 32)
    images = ray.put((hashes, data.rows.labels.numpy()))
    source = Source(cache, images, data.rows.classes, data.rows.views)
    threads = max(1, int(options["num_cpus"]))
    task = ray.remote(**options)(_trained)

    def started() -> Iterator[tuple[Any, Sequence[HeadConfig]]]:
        whole: ClosedFormHeads | HeadGroup | None = None
        sent: Any = None
        for part in divided(configurations, data, device, workers):
            own: dict[str, Any] = {"configurations": part.configurations}
            if isinstance(part, HeadGroup):
                own["fold"] = part.fold
            if not _are_of_one(part, whole):
                whole, sent = part, ray.put(part)
            yield task.remote(source, sent, own, keep, device, threads), part.configurations

    for group, results in _finished(started(), WAITING_TASKS * workers):
        yield group, results
        progress(sum(c.epochs for c in group))


def _are_of_one(
    part: ClosedFormHeads | HeadGroup, whole: ClosedFormHeads | HeadGroup | None
) -> bool:
    """Say whether two parts share the masks, which are the most of them."""
    return (
        isinstance(part, HeadGroup)
        and isinstance(whole, HeadGroup)
        and part.training is whole.training
    )


def _finished(tasks: Iterator[tuple[Any, Sequence[HeadConfig]]], at_once: int) -> Iterator[Results]:
    """Yield what tasks return as they do, with so many started at a time; left early, cancel."""
    import ray

    under_way: dict[Any, Sequence[HeadConfig]] = {}
    try:
        while True:
            under_way.update(islice(tasks, at_once - len(under_way)))
            if not under_way:
                return
            for task in ray.wait(list(under_way))[0]:
                yield under_way.pop(task), _result(task)
    finally:
        # Who is disconnected by now has no tasks any more.
        for task in under_way if ray.is_initialized() else ():
            ray.cancel(task)


def _result(task: Any) -> list[TrainingResult]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        results: list[TrainingResult] = ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, FrostlineError):
            raise error.cause from None
        raise
    except RayError as error:
        raise HeadError(
            f"the Ray cluster gave up on training heads: {error}; what is finished is kept, the "
            "same command goes on from there"
        ) from error
    return results


def _trained(
    source: Source,
    whole: ClosedFormHeads | HeadGroup,
    own: dict[str, Any],
    keep: bool,
    device: str,
    threads: int,
) -> list[TrainingResult]:
    """Train a part, on a worker. own: what distinguishes it from others that share its masks."""
    if device == "xla":
        os.environ["PJRT_DEVICE"] = "TPU"
        import torch_xla  # noqa: F401 - torch knows the device only then
    torch.set_num_threads(threads)
    rows, part = _rows(source), replace(whole, **own)
    if isinstance(part, HeadGroup):
        return train_together(part, rows, keep, device)
    return fit(part, rows, keep)


@lru_cache(maxsize=1)
def _rows(source: Source) -> EmbeddingDataset:
    """Open the cache once for all tasks of a worker."""
    import ray

    hashes, labels = ray.get(source.images)
    # Copied: what lies in Ray's object store can't be written to, and torch minds.
    return labelled(
        source.cache, hashes, torch.from_numpy(labels.copy()), source.classes, source.views
    )
