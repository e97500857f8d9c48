"""Heads trained on a Ray cluster are those trained here, and nothing that was trained is lost."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from cache.errors import CacheError, DeviceError
from cache.progress import Progress, silent
from cache.ray_cluster import connected, resources, workers_that_fit
from cache.store import Cache
from heads.batched.fit import TrainingData
from heads.embedding_dataset import labelled
from heads.ray import device_of, train_on_ray
from heads.search.space import SearchPlan, combinations
from heads.search.trials import read_trials
from heads.training import TRIALS, HeadsRun, TrainingSettings, train_heads

pytestmark = pytest.mark.cluster

ray = pytest.importorskip("ray")

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}
ONE_CORE = resources({"CPU": 1})
RATES = [0.001, 0.003, 0.01, 0.03]


@pytest.fixture(scope="module", autouse=True)
def nodes() -> Iterator[Any]:
    """Connect to a cluster of two nodes of one core; the second can be killed."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    second = made.add_node(**NODE)
    with connected(made.address):
        yield made, second
    made.shutdown()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Study:
    """What heads are trained on, here or on the cluster, into a folder of their own."""

    cache: Cache
    labels: dict[bytes, str]
    folder: Path

    def here(self, sweep: SearchPlan) -> tuple[Path, HeadsRun]:
        """Train as on two cores, whatever this machine has."""
        before, root = torch.get_num_threads(), self.folder / "here"
        torch.set_num_threads(2)
        done = train_heads(self.cache, self.labels, "data", sweep, root)
        torch.set_num_threads(before)
        return root, done

    def on_ray(self, sweep: SearchPlan, progress: Progress = silent) -> tuple[Path, HeadsRun]:
        trainer, root = partial(train_on_ray, cache=self.cache, options=ONE_CORE), self.folder
        settings = TrainingSettings(trainer=trainer, progress=progress)
        done = train_heads(self.cache, self.labels, "data", sweep, root, settings)
        return root, done


@pytest.fixture
def study(caches: dict[str, Cache], labels: dict[bytes, str], tmp_path: Path) -> Study:
    return Study(caches["cpu"], labels, tmp_path)


def sweep(rates: list[float], epochs: int = 3, **settings: Any) -> SearchPlan:
    heads = {"head": ["single", "multi", "prototype"], "optimizer": ["adam"]}
    grid: dict[str, list[Any]] = {**heads, "learning_rate": rates, "epochs": [epochs]}
    return SearchPlan(tuple(combinations(grid)), **settings)


def heads_in(root: Path) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Return every head's tensors, by file."""
    return {
        path.name: {name: tensor.numpy() for name, tensor in load_file(path).items()}
        for path in root.glob("*.safetensors")
    }


def test_heads_are_those_trained_here(study: Study) -> None:
    """To the last bit: chunks are as on two cores. But fits, as here they have both cores."""
    judged = sweep(RATES[:2], cv=2)
    told: list[tuple[int, int]] = []
    here, _ = study.here(judged)
    there, done = study.on_ray(judged, lambda epochs, of: told.append((epochs, of)))

    assert (done.tried, done.trained) == (2 * 5, 3)
    expected, found = heads_in(here), heads_in(there)
    assert found.keys() == expected.keys()
    for file, tensors in expected.items():
        for name, tensor in tensors.items():
            if "prototype" in file:
                np.testing.assert_allclose(found[file][name], tensor, rtol=0, atol=1e-5)
            else:
                assert found[file][name].tobytes() == tensor.tobytes()
    trials = [read_trials(root / TRIALS).sort_index() for root in (here, there)]
    columns = ["validation_accuracy", "validation_loss", "training_loss"]
    trained = [table.loc[table["head"] != "prototype", columns] for table in trials]
    assert trained[0].equals(trained[1])
    assert [epochs for epochs, _ in told] == sorted(epochs for epochs, _ in told)
    assert told[-1][0] == told[-1][1]


def test_an_error_of_a_task_arrives_as_itself(study: Study) -> None:
    hashes = np.frombuffer(b"".join(study.labels), np.uint8).reshape(-1, 32)
    numbers = torch.tensor([label == "gel" for label in study.labels.values()]).long()
    data = TrainingData(study.labels, labelled(study.cache, hashes, numbers, 2))
    empty = Cache(study.folder / "empty", study.cache.key)
    trained = train_on_ray(
        sweep(RATES).candidates, data, True, lambda epochs: None, empty, ONE_CORE
    )
    with pytest.raises(CacheError, match="lacks 92 of 92 images: run extract"):
        list(trained)


def test_what_arrived_before_ctrl_c_is_kept(study: Study) -> None:
    def ctrl_c(epochs: int, of: int) -> None:
        raise KeyboardInterrupt

    folds = sweep(RATES, cv=2)
    with pytest.raises(KeyboardInterrupt):
        study.on_ray(folds, ctrl_c)
    kept = len(read_trials(study.folder / TRIALS))
    assert 0 < kept < 2 * 9
    _, done = study.on_ray(folds)
    assert done.tried == 2 * 9 - kept


def test_who_is_connected_stays_so() -> None:
    with connected("auto"):
        assert ray.is_initialized()
    assert ray.is_initialized()


def test_workers_are_counted_node_by_node() -> None:
    """Two cores on two nodes are none for a task of two."""
    assert sorted(workers_that_fit(ONE_CORE).values()) == [1, 1]
    assert sorted(workers_that_fit(resources({"CPU": 0.5})).values()) == [2, 2]
    for asked in ({"CPU": 2}, {"GPU": 1}, {"CPU": 1, "TPU": 4}):
        with pytest.raises(DeviceError, match=r"no node of the cluster has .*: ask for less"):
            workers_that_fit(resources(asked))


@pytest.mark.parametrize(
    ("asked", "device"), [({"CPU": 2}, "cpu"), ({"GPU": 0.5}, "cuda"), ({"TPU": 4}, "xla")]
)
def test_a_task_works_on_what_it_asked_for(asked: dict[str, float], device: str) -> None:
    assert device_of(resources(asked)) == device


def test_a_dead_nodes_part_is_trained_elsewhere(study: Study, nodes: Any) -> None:
    """The last test here: one node is left."""
    cluster, second = nodes
    alive = [second]

    def kill(epochs: int, of: int) -> None:
        if alive:
            cluster.remove_node(alive.pop(), allow_graceful=False)

    everything = sweep(RATES, epochs=20, cv=4)
    here, _ = study.here(everything)
    there, done = study.on_ray(everything, kill)
    assert not alive
    assert (done.tried, len(done.heads)) == (4 * 9, 3)
    assert heads_in(there).keys() == heads_in(here).keys()
