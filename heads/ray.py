"""Head training on a Ray cluster.

- Parts of a search are tasks, each over the memory-mapped cache.
- Heads are those of one machine with as many cores as the cluster has workers, up to rounding.
- A part whose node dies is trained again elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import torch

from cache.errors import FrostlineError, HeadError
from cache.ray_cluster import workers_that_fit
from cache.store import Cache
from heads.batched.fit import Part, Results, TrainingData, divided, train_part
from heads.batched.trainer import Advance, HeadGroup, TrainingResult
from heads.config import HeadConfig
from heads.embedding_dataset import EmbeddingDataset, labelled

WAITING_TASKS = 2  # per worker, including the one it works on


@dataclass(frozen=True)
class Source:
    """The images of a task.

    Attributes:
        cache: The embeddings, in a folder that every node sees.
        images: Reference to hashes, uint8 [N, 32], and labels, int64 [N], in the object store.
        classes: Number of classes.
        views: Number of augmented views.
        device: Device of torch.
        threads: Threads of the task.
    """

    cache: Cache
    images: Any  # ray.ObjectRef
    classes: int
    views: int
    device: str
    threads: int


def device_of(options: Mapping[str, Any]) -> str:
    """Return torch's device for a task with these options; see `cache.ray_cluster.resources`."""
    if options.get("num_gpus"):
        return "cuda"
    return "xla" if "TPU" in options.get("resources", {}) else "cpu"


def train_on_ray(
    configurations: Sequence[HeadConfig],
    data: TrainingData,
    keep: bool,
    progress: Advance,
    cache: Cache,
    options: Mapping[str, Any],
) -> Iterator[Results]:
    """Train heads as `train` does, on the cluster that this process is connected to.

    Args:
        configurations: One for each head.
        data: The images.
        keep: Return the heads' tensors too.
        progress: Called with the epochs of a part when it is finished.
        cache: The cache of `data`, in a folder that every node sees.
        options: Options of a task; each of its processors is a thread.

    Raises:
        DeviceError: No node has these resources.
        HeadError: Ray gave up.
        FrostlineError: A task raised it.
    """
    import ray

    workers, device = sum(workers_that_fit(options).values()), device_of(options)
    hashes = np.frombuffer(b"".join(data.labels), np.uint8).reshape(-1, 32)
    images = ray.put((hashes, data.rows.labels.numpy()))
    threads = max(1, int(options["num_cpus"]))
    source = Source(cache, images, data.rows.classes, data.rows.views, device, threads)
    task = ray.remote(**options)(_trained)

    def tasks() -> Iterator[tuple[Any, Sequence[HeadConfig]]]:
        shared: Part | None = None
        reference: Any = None
        for part in divided(configurations, data, device, workers):
            own: dict[str, Any] = {"configurations": part.configurations}
            if isinstance(part, HeadGroup):
                own["fold"] = part.fold
            if not _share_masks(part, shared):
                shared, reference = part, ray.put(part)
            yield task.remote(source, reference, own, keep), part.configurations

    for group, results in _results(tasks(), WAITING_TASKS * workers):
        yield group, results
        progress(sum(c.epochs for c in group))


def _share_masks(part: Part, other: Part | None) -> bool:
    """Return whether two parts share the masks, which are most of their size."""
    if isinstance(part, HeadGroup) and isinstance(other, HeadGroup):
        return part.training is other.training
    return False


def _results(tasks: Iterator[tuple[Any, Sequence[HeadConfig]]], at_once: int) -> Iterator[Results]:
    """Yield the results of tasks, at most so many of them started; cancel the rest when closed."""
    import ray

    pending: dict[Any, Sequence[HeadConfig]] = {}
    try:
        while True:
            pending.update(islice(tasks, at_once - len(pending)))
            if not pending:
                return
            for task in ray.wait(list(pending))[0]:
                yield pending.pop(task), _result(task)
    finally:
        for task in pending if ray.is_initialized() else ():
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
            f"The Ray cluster gave up training heads: {error}. Finished work is saved; run the "
            "same command again to resume."
        ) from error
    return results


def _trained(
    source: Source, shared: Part, own: Mapping[str, Any], keep: bool
) -> list[TrainingResult]:
    """Train a part, on a worker.

    Args:
        own: The fields that differ from `shared`.
    """
    if source.device == "xla":
        os.environ["PJRT_DEVICE"] = "TPU"
        import torch_xla  # noqa: F401 - registers the device
    torch.set_num_threads(source.threads)
    return train_part(replace(shared, **own), _rows(source), keep, source.device)


@lru_cache(maxsize=1)
def _rows(source: Source) -> EmbeddingDataset:
    """Open the cache once for all tasks of a worker."""
    import ray

    hashes, labels = ray.get(source.images)
    # Copied: torch warns of the object store's read-only memory.
    labels = torch.from_numpy(labels.copy())
    return labelled(source.cache, hashes, labels, source.classes, source.views)
