"""Extraction on a cluster of three nodes, each with a core of its own, all on this machine."""

import json
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cache.ray_cluster import connected
from cache.store import find_caches, read_all, read_headers
from extract.dataset import scan
from extract.dataset_statistics.image_index import stats_of
from extract.sources.hash_index import known_files
from extract.sources.local_copy import make_local
from frostline.cli.main import cli
from tests.conftest import ROOT

CIFAR = ROOT.parent / "shared" / "cifar10.zip"
ON_RAY = ("--on", "ray", "--resources", json.dumps({"CPU": 1}))
QUICK = {"health_check_initial_delay_ms": 1000, "health_check_failure_threshold": 3,
         "health_check_period_ms": 500}  # fmt: skip
Few = Callable[[int, int], Path]

# Ray deprecates what it does itself, and leaves sockets to be closed.
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes; a dead one is noticed within seconds."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": QUICK}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    with connected(nodes.address):
        yield nodes
    nodes.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no test_images, only what is asked for is extracted."""
    monkeypatch.chdir(tmp_path)


def extract(workspace: Path, *options: str, dataset: Path, arch: str = "basic_cnn") -> Result:
    given = ["--workspace", str(workspace), "--dataset", str(dataset), "--arch", arch, *options]
    result = CliRunner().invoke(cli, ["extract", "--weights", "random", *given])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def rows(workspace: Path) -> tuple[bytes, bytes, int]:
    """Return a cache's keys and its numbers, to the last bit, and how many rows are stored."""
    (cache,) = find_caches(workspace / "cache")
    found = read_all(cache)
    stored = sum(len(header.hashes) for _, header in read_headers(cache))
    return found.hashes.tobytes(), found.embeddings.tobytes(), stored


def segments(workspace: Path) -> list[Path]:
    return sorted(workspace.glob("cache/*/*.h5"))


def test_a_cluster_gives_the_very_rows_of_one_machine(
    cluster: Any, few: Few, tmp_path: Path
) -> None:
    data = few(12, 4)
    (data / "dataset" / "gel" / "broken.png").write_bytes(b"no image")
    sources = ("--test", str(data / "test_images"))
    here = extract(tmp_path / "here", *sources, dataset=data / "dataset")
    there = extract(
        tmp_path / "there", *sources, *ON_RAY, "--shard-size", "8", dataset=data / "dataset"
    )
    assert "32 image(s) computed" in here.output and "32 image(s) computed" in there.output
    assert rows(tmp_path / "there") == rows(tmp_path / "here")
    assert rows(tmp_path / "there")[2] == 32
    for workspace in (tmp_path / "here", tmp_path / "there"):
        (line,) = (workspace / "failures.csv").read_text().splitlines()[1:]
        assert line.startswith(f"{data}/dataset/gel/broken.png,not an image")
    # Whoever goes on here need not read the files again, nor decode them to look at them.
    table = tmp_path / "there" / "cache" / "scan.sqlite"
    images = scan(tmp_path / "there" / "lists" / "data-dataset.csv")
    assert {file.sha256 for file in images.files} <= {f.sha256 for f in known_files(table).values()}
    assert images.labels == scan(data / "dataset").labels
    found, unreadable = stats_of(images.files, tmp_path / "there" / "cache" / "looks.sqlite")
    assert len(found) == 24 and len(unreadable) == 1


@pytest.mark.soak
def test_a_second_run_computes_what_is_new_only(cluster: Any, few: Few, tmp_path: Path) -> None:
    data = few(6, 1) / "dataset"
    extract(tmp_path / "w", *ON_RAY, "--shard-size", "5", dataset=data)
    before = segments(tmp_path / "w")
    late = (ROOT / "test_images" / "gel" / "gel_1.jpg").read_bytes()
    (data / "gel" / "late.jpg").write_bytes(late)
    again = extract(tmp_path / "w", *ON_RAY, "--shard-size", "7", dataset=data)
    assert "1 image(s) computed, 12 already" in again.output
    assert {*before} < {*segments(tmp_path / "w")} and rows(tmp_path / "w")[2] == 13


def test_a_relative_workspace_is_found_by_workers_elsewhere(cluster: Any, few: Few) -> None:
    data = few(6, 1) / "dataset"
    extract(Path("w"), dataset=data)
    where = ("--workspace", "w", "--dataset", str(data), "--head", "single", "--optimizer", "sgd")
    trained = CliRunner().invoke(cli, ["train-heads", *ON_RAY, *where, "--epochs", "2"])
    assert trained.exit_code == 0, trained.output
    assert "1 head(s) trained" in trained.output


def test_a_node_that_dies_costs_time_only(
    cluster: Any, tmp_path: Path, soak: bool, figure: Callable[[str], None]
) -> None:
    """10,000 images in the long run, else the samples."""
    data, size = ROOT / "dataset", 6
    if soak:
        data, size = make_local(CIFAR / "test", tmp_path / "unpacked"), 256
    extract(tmp_path / "here", dataset=data, arch="resnet18")
    victim, died = cluster.add_node(num_cpus=1), list[int]()
    others = cluster.worker_nodes - {victim}  # a set: its first may be any of them
    cluster.remove_node(others.pop())  # three again

    def kill() -> None:
        while len(segments(tmp_path / "there")) < (8 if soak else 2):
            time.sleep(0.05)
        cluster.remove_node(victim, allow_graceful=False)
        died.append(rows(tmp_path / "there")[2])

    killer = threading.Thread(target=kill)
    killer.start()
    there = extract(
        tmp_path / "there", *ON_RAY, "--shard-size", str(size), dataset=data,
        arch="resnet18",
    )  # fmt: skip
    killer.join()
    cluster.add_node(num_cpus=1)
    keys, numbers, stored = rows(tmp_path / "there")
    assert 0 < died[0] < stored  # it was in the middle
    assert (keys, numbers, stored) == rows(tmp_path / "here")
    figure(f"a node of three killed after {died[0]:,} of {stored:,} rows: {there.output}")


@pytest.mark.soak
def test_a_shard_that_fails_costs_itself(cluster: Any, few: Few, tmp_path: Path) -> None:
    folder, samples = tmp_path / "tars", few(4, 1) / "dataset"
    folder.mkdir()
    for label in ("gel", "not_gel"):
        with tarfile.open(folder / f"{label}.tar", "w") as tar:
            tar.add(samples / label, arcname=label)
    (folder / "torn.tar").write_bytes((folder / "gel.tar").read_bytes()[:50_000])
    stopped = extract(tmp_path / "strict", *ON_RAY, dataset=folder)
    assert stopped.exit_code == 1
    assert "--max-failed-shards is 0" in stopped.output and "torn.tar" in stopped.output
    assert not [*(tmp_path / "strict" / "lists").glob("*.csv")]
    done = extract(tmp_path / "w", *ON_RAY, "--max-failed-shards", "1", dataset=folder)
    assert done.exit_code == 0 and "1 shard(s) failed" in done.output
    assert not [*(tmp_path / "w" / "lists").glob("*.csv")]  # it would lack images
    assert rows(tmp_path / "w")[2] == 8


def test_what_takes_all_images_at_one_place_is_refused(tmp_path: Path) -> None:
    for option in (("--per-class", "5"), ("--normalize", "dataset"), ("--precision", "int8")):
        refused = extract(tmp_path / "w", *ON_RAY, *option, dataset=ROOT / "dataset")
        assert refused.exit_code == 1 and " ".join(option) in refused.output


def test_options_of_clusters_are_refused_elsewhere(tmp_path: Path) -> None:
    for option in (("--shard-size", "5"), ("--address", "auto"), ("--resources", "{}")):
        refused = extract(tmp_path / "w", *option, dataset=ROOT / "dataset")
        assert refused.exit_code == 2 and f"{option[0]} is for --on ray" in refused.output
