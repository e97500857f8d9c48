"""What the tests share: real images, real caches, and a backbone small enough to watch."""

import os

# Before torch is imported: threads that spin while they wait take the other tests' cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.errors import DeviceError
from cache.store import Cache, find_caches
from extract.artifact_store import Artifact, ArtifactStore
from extract.backbones import BACKBONES
from extract.dataset import scan
from extract.devices import require_device
from extract.embedding_spec import LoadedBackbone, load_backbone
from extract.model_zoo.backbone import Backbone
from tests.toy import Toy, no_file

ROOT = Path(__file__).resolve().parent.parent
GEL = ROOT.parent / "shared" / "gel"
FIXTURES = Path(__file__).parent / "fixtures" / "cache"


@pytest.fixture(scope="session", autouse=True)
def in_brief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Time models and provoke errors briefly, and convert each backbone once for all workspaces.

    test_timing.py, the tests of what is kept, and `make run` take their time.
    """
    common, artifact = ArtifactStore(tmp_path_factory.mktemp("engines")), ArtifactStore.artifact

    def shared(artifacts: ArtifactStore, label: str, **key: Any) -> Artifact:
        # Of weights, what is kept is what they were; of graphs, the weights are in their name.
        graph = label.endswith("-fp32") and artifacts.folder.parts[-2:] == ("cache", "engines")
        return artifact(common if graph else artifacts, label, **key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.evaluation.TIMING_S", 0.05)
        patch.setattr("evaluate.uncertainty.fitting.CORRUPTED", 6)
        patch.setattr(ArtifactStore, "artifact", shared)
        yield


FIGURES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make soak` ask for the long runs of the tests that have one."""
    parser.addoption("--soak", action="store_true", help="run long tests at full length")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only `make soak` runs."""
    if not config.getoption("--soak"):
        long = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what the long tests counted."""
    if config.stash[FIGURES]:
        terminalreporter.section("figures")
        for line in config.stash[FIGURES]:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether long tests run at full length."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Note a line for the end of the session."""
    return request.config.stash[FIGURES].append


def require_or_skip(device: str) -> None:
    """Choose a device, or skip the test with the reason why it is not there."""
    try:
        require_device(device)
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def gel() -> Path:
    """The reference study's real images; CI must have them."""
    if not GEL.is_dir():
        assert not os.environ.get("CI"), f"CI must have the real images in {GEL}"
        pytest.skip("the reference study's images do not lie beside the repository")
    return GEL


@pytest.fixture(scope="session")
def caches() -> dict[str, Cache]:
    """The committed caches of the sample images (make fixtures), by device."""
    return {cache.key.device: cache for cache in find_caches(FIXTURES)}


@pytest.fixture(scope="session")
def labels() -> dict[bytes, str]:
    """The classes of the sample images that the committed caches hold."""
    return scan(ROOT / "dataset").labels


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> LoadedBackbone:
    """A backbone of 8 numbers, in the table for the length of a test."""
    monkeypatch.setitem(BACKBONES, "toy", Backbone(8, "fc", lambda name: Toy(), no_file))
    return load_backbone("toy", "random")


@pytest.fixture
def few(tmp_path: Path) -> Callable[[int, int], Path]:
    """Copy N training and M test images of each class of the samples below tmp_path/data."""

    def copy(training: int, testing: int) -> Path:
        for part, count in (("dataset", training), ("test_images", testing)):
            for label in ("gel", "not_gel"):
                target = tmp_path / "data" / part / label
                target.mkdir(parents=True)
                for path in sorted((ROOT / part / label).iterdir())[:count]:
                    shutil.copy(path, target)
        return tmp_path / "data"

    return copy


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """A server that speaks S3, on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def memory() -> Iterator[Any]:
    """The file system behind memory://, empty."""
    import fsspec

    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()
