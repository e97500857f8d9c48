"""Extraction on a Ray cluster: one row of the dataset is one shard, and pixels never travel."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from cache.errors import DeviceError
from cache.ray_cluster import connected, workers_that_fit
from extract.distributed.job import from_json, to_json
from extract.distributed.worker import JobResult, Part, Worker

if TYPE_CHECKING:
    import pyarrow as pa

    from extract.distributed.job import Job

T = TypeVar("T")

WAITING_SHARDS = 2  # per worker, itself included: the next one waits when one ends


def extract_on_ray(
    parts: Iterable[Part],
    job: Job,
    resources: Mapping[str, Any],
    address: str | None,
    listed: Callable[[int], None],
) -> Generator[JobResult]:
    """Have a cluster do all shards, and yield what became of each as soon as it is known.

    Shards wait compressed in Ray's object store, some 20 KB each, until a worker takes them: this
    process holds references. A shard whose node dies is done again elsewhere.

    Args:
        resources: Of each worker; see `cache.ray_cluster`.
        address: Of the cluster; None: a local one.
        listed: Receives how many files are listed.

    Raises:
        DeviceError: Ray is not installed, or no cluster answers, has resources
            for a worker, or completes.
    """
    listing = iter(parts)
    first = [*islice(listing, 1)]  # what is wrong with a source is said at once
    with connected(address):
        from ray.exceptions import RayError

        overseer, files = _overseer(job, resources), 0
        for part in chain(first, listing):
            overseer("add", pack(part))
            listed(files := files + len(part.shard.paths))
        try:
            while packed := overseer("next"):
                yield unpack(packed, JobResult)
        except RayError as error:
            raise DeviceError(
                f"The Ray cluster gave up: {error}. Finished work is saved; run the same command "
                "again to resume."
            ) from error


def _overseer(job: Job, resources: Mapping[str, Any]) -> Callable[..., Any]:
    """Return what calls the methods of an overseer: here, or in the cluster's first node, as Ray
    Data can't be driven through a `ray://` connection.
    """
    import ray
    from ray.util.client import ray as client

    fitting = sum(workers_that_fit(resources).values())
    if not client.is_connected():  # type: ignore[no-untyped-call]
        overseer = _Overseer(job, resources, fitting)
        return lambda method, *given: getattr(overseer, method)(*given)
    at_head = {"node:__internal_head__": 0.001}
    actor = ray.remote(num_cpus=0, resources=at_head)(_Overseer)
    remote: Any = actor.remote(job, resources, fitting)
    return lambda method, *given: ray.get(getattr(remote, method).remote(*given))


class _Overseer:
    """Owns the dataset of shards, and returns results.

    Attributes:
        fitting: Workers to start with.
    """

    def __init__(self, job: Job, resources: Mapping[str, Any], fitting: int) -> None:
        self.job, self.resources, self.fitting = job, resources, fitting
        self.rows = list[Any]()
        self.done: Iterator[bytes] | None = None

    def add(self, packed: bytes) -> None:
        """Put a shard into Ray's object store."""
        import pyarrow
        import ray

        self.rows.append(ray.put(pyarrow.table({"part": [packed]})))

    def next(self) -> bytes | None:
        """Return what became of another shard; None if that was all."""
        self.done = self.done or self._all()
        return next(self.done, None)

    def _all(self) -> Iterator[bytes]:
        import ray.data

        if not self.rows:
            return
        _configure(ray.data.DataContext.get_current())
        pool = ray.data.ActorPoolStrategy(
            min_size=1,
            initial_size=min(self.fitting, len(self.rows)),
            max_size=len(self.rows),
            max_tasks_in_flight_per_actor=WAITING_SHARDS,
        )
        done = ray.data.from_arrow_refs(self.rows).map_batches(
            _Actor,
            fn_constructor_args=(self.job,),
            batch_size=1,
            batch_format="pyarrow",
            compute=pool,
            **self.resources,
        )
        for row in done.iter_rows():
            yield row["done"]


class _Actor:
    """A worker as Ray Data's actors are: called with a table of one row."""

    def __init__(self, job: Job) -> None:
        self.worker = Worker(job)

    def __call__(self, table: pa.Table) -> pa.Table:
        import pyarrow

        (packed,) = table["part"].to_pylist()
        done = self.worker.do(unpack(packed, Part))
        return pyarrow.table({"done": [pack(done)]})


def pack(message: object) -> bytes:
    """Write a message in a form that Arrow carries."""
    return zlib.compress(to_json(message).encode())


def unpack(packed: bytes, kind: type[T]) -> T:
    """Read what `pack` wrote. Raises DeviceError as `from_json` does."""
    return from_json(zlib.decompress(packed).decode(), kind)


def _configure(context: Any) -> None:
    context.enable_progress_bars = False  # ours tells images, and those of the whole cluster
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # A shard is minutes of work, of a slow backbone more than the half hour that Ray allows.
    context.execution_no_progress_timeout_s = -1
