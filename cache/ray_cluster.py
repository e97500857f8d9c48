"""A connection to a Ray cluster: our packages go along, and what was started here ends here."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache.errors import DeviceError
from cache.records import RecordError, parse_json

WORDS = ("auto", "local")
PACKAGES = ("cache", "extract", "heads")  # what tasks and actors import of ours
OWN = {"memory", "object_store_memory"}  # of every node, but no resources as others are
LARGEST_AMOUNT = 2**53  # beyond it, sums are no longer exact
ANSWERS_WITHIN_S = 10  # ray itself waits for minutes, and ends the process then


@contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Connect to a Ray cluster; leave it at the end, and end it if it was started here.

    An existing connection is used. Workers get our packages; Python and libraries must be installed
    there.

    Args:
        address: `auto` (the cluster of this machine, or of RAY_ADDRESS), `HOST:PORT` or
            `ray://HOST:PORT`; None: of RAY_ADDRESS, or a new one of this machine's usable cores.

    Raises:
        DeviceError: ray is not installed, or no cluster answers.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError:
        raise DeviceError(
            "--on ray needs Ray, which is not installed: pip install 'ray[data,client]>=2.50'"
        ) from None

    if ray.is_initialized():
        yield
        return
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    _require_answer(where)
    logging.getLogger("ray").setLevel(logging.ERROR)
    settings: dict[str, Any] = {"log_to_driver": False, "runtime_env": _environment()}
    if where == "local":
        settings |= {"include_dashboard": False, "num_cpus": _usable_cores()}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(where, logging_level=logging.ERROR, **settings)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_cluster(where, str(error)) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # ray has put its own in its place
    try:
        yield
    finally:
        ray.shutdown()


def resources(given: str | Mapping[str, float]) -> dict[str, Any]:
    """Return these resources as options of Ray's tasks, actors and `map_batches`.

    Args:
        given: Amounts by name, or that as JSON: CPU, GPU, and any that the cluster's nodes have,
            such as TPU. Without CPU it is 1, or 0 beside GPUs, as in Ray Data.

    Raises:
        DeviceError: it is something else.
    """
    try:
        amounts = parse_json(given, dict[str, Any]) if isinstance(given, str) else dict(given)
    except RecordError:
        amounts = {}
    if not amounts or not all(map(_is_amount, amounts.values())):
        raise DeviceError(
            f"--resources {given}: it must be JSON with an amount above 0 by name, "
            'as {"CPU": 2} or {"GPU": 1}'
        )
    if mistaken := sorted(OWN & amounts.keys()):
        raise DeviceError(f"--resources {given}: {mistaken[0]} can't be asked for: leave it out")
    options: dict[str, Any] = {"num_cpus": amounts.pop("CPU", 0 if "GPU" in amounts else 1)}
    if "GPU" in amounts:
        options["num_gpus"] = amounts.pop("GPU")
    return options | ({"resources": amounts} if amounts else {})


def workers_that_fit(options: Mapping[str, Any]) -> dict[str, int]:
    """Return how many workers of such `resources` each living node could run at once, by node id;
    what runs there already is not asked. Needs to be `connected`.

    Raises:
        DeviceError: none fits on any node.
    """
    import ray

    wanted = {"CPU": options["num_cpus"], "GPU": options.get("num_gpus", 0)}
    wanted |= options.get("resources", {})
    wanted = {name: amount for name, amount in wanted.items() if amount}
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    resources_of = {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}
    fitting = {
        node: min(int(has.get(name, 0) // amount) for name, amount in wanted.items())
        for node, has in resources_of.items()
    }
    if not any(fitting.values()):
        most = {name: max(h.get(name, 0) for h in resources_of.values()) for name in wanted}
        raise DeviceError(
            f"--resources: no node of the cluster has {json.dumps(wanted)} "
            f"(the most on any: {json.dumps(most)}): ask for less"
        )
    return fitting


def _is_amount(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value <= LARGEST_AMOUNT


def _environment() -> dict[str, Any]:
    root = Path(__file__).resolve().parent.parent
    return {"py_modules": [str(root / package) for package in PACKAGES]}


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _require_answer(address: str) -> None:
    """Make sure that somebody listens there."""
    if address in WORDS:  # which ray itself looks up at once
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise _no_cluster(address, "it is neither `auto` nor HOST:PORT nor ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWERS_WITHIN_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, why: str) -> DeviceError:
    return DeviceError(
        f"--address {address}: no Ray cluster answers ({why}). Start one with `ray start --head`; "
        "set RAY_AUTH_MODE=token if it asks for a token; or leave out --address to use this "
        "machine alone"
    )
