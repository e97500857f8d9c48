"""Connections to Ray clusters that are not there, and resources that are none."""

import socket
import time
from typing import Any

import pytest

from cache.errors import DeviceError
from cache.ray_cluster import connected, resources

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ('{"CPU": 2}', {"num_cpus": 2}),
        ('{"GPU": 0.5}', {"num_cpus": 0, "num_gpus": 0.5}),
        ('{"CPU": 3, "GPU": 1}', {"num_cpus": 3, "num_gpus": 1}),
        ('{"TPU": 4}', {"num_cpus": 1, "resources": {"TPU": 4}}),
        ({"CPU": 1, "big": 1}, {"num_cpus": 1, "resources": {"big": 1}}),
    ],
)
def test_resources_become_what_ray_calls_them(given: Any, options: dict[str, Any]) -> None:
    assert resources(given) == options


@pytest.mark.parametrize(
    "given", ["", "CPU", "2", "[2]", "{}", '{"CPU": 0}', '{"CPU": "2"}', '{"CPU": true}']
)
def test_other_resources_are_an_error_that_says_how(given: str) -> None:
    with pytest.raises(DeviceError, match=r'must be JSON .* as \{"CPU": 2\}'):
        resources(given)


@pytest.mark.parametrize("name", ["memory", "object_store_memory"])
def test_what_ray_takes_for_no_resource_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match=f": {name} can't be asked for"):
        resources({"CPU": 1, name: 1000})


def test_a_cluster_that_is_not_there_is_an_error_at_once() -> None:
    """Ray itself waits for minutes, and ends the process then."""
    pytest.importorskip("ray")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    started = time.perf_counter()
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "nowhere", "ray://nowhere"):
        with pytest.raises(DeviceError, match="no Ray cluster answers"), connected(address):
            raise AssertionError("connected")
    assert time.perf_counter() - started < 10
