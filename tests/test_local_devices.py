"""A process for each chip of a host, here of the CPU as XLA divides it."""

import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from cache.errors import DeviceError, UnreadableImageError
from cache.progress import silent
from cache.store import Cache, read, read_headers
from extract.dataset import scan
from extract.distributed.local_devices import _environment as environment
from extract.distributed.local_devices import extract_on_local_devices, local_devices
from extract.embedding_spec import EmbeddingSpec, load_backbone
from extract.pipeline import Extraction, RunnerOptions, extract
from extract.sources.image_file import ImageFile
from tests.conftest import require_or_skip
from tests.killing import draw_images

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {"batch_size": 4, "workers": 1}
OPTIONS = RunnerOptions(**SETTINGS)
QUICKLY = "--xla_backend_optimization_level=0"  # to compile; rows are then others


@dataclass(frozen=True)
class Study:
    """A backbone that every process can make, on XLA's CPU, and a folder for its caches."""

    spec: EmbeddingSpec
    root: Path

    def on_chips(
        self, images: list[ImageFile], flags: str = QUICKLY, **settings: Any
    ) -> Extraction:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XLA_FLAGS", flags)  # of the children; it is read once in a process
            progress = settings.pop("progress", silent)
            (done,) = extract_on_local_devices(
                [self.spec], images, self.root, progress, RunnerOptions(**settings)
            )
        return done

    @property
    def stored(self) -> Counter[bytes]:
        """How often the segments have each image."""
        (folder,) = self.root.glob("basic_cnn*")
        headers = read_headers(Cache(folder, self.spec.key))
        return Counter(bytes(key) for _, header in headers for key in header.hashes)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    require_or_skip("xla-cpu")
    backbone = load_backbone("basic_cnn", "random", 0)
    return Study(EmbeddingSpec(backbone, "xla-cpu", ("xla",), "fp32"), tmp_path / "cache")


@pytest.fixture
def drawn(tmp_path: Path) -> Callable[[int], list[ImageFile]]:
    return lambda count: list(scan(draw_images(tmp_path / "images", count)).files)


@pytest.fixture
def unreadable(tmp_path: Path) -> ImageFile:
    path = tmp_path / "unreadable.png"
    path.write_bytes(b"no image")
    return ImageFile(path, "a", b"u" * 32)


@pytest.fixture(autouse=True)
def two_chips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPU_NUM_DEVICES", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_four_processes_give_the_rows_of_one(
    study: Study, drawn: Callable[[int], list[ImageFile]], unreadable: ImageFile, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("CPU_NUM_DEVICES", "4")
    images, index_file = drawn(42), tmp_path / "looks.sqlite"
    told: list[tuple[int, int]] = []
    done = study.on_chips(
        [*images, images[0], unreadable], progress=lambda *r: told.append(r), index=index_file,
        flags=os.environ.get("XLA_FLAGS", ""), **SETTINGS,
    )  # fmt: skip

    assert (done.computed, done.present, done.engine) == (42, 0, "xla")
    assert [failure.path for failure in done.failed] == [str(unreadable.path)]
    assert told[-1] == (43, 43) and told == sorted(told)
    assert study.stored == Counter(image.sha256 for image in images)
    assert len(done.cache.segments) == 4
    with closing(sqlite3.connect(index_file)) as table:
        assert table.execute("SELECT count(*) FROM image_stats").fetchone() == (42,)

    (alone,) = extract([study.spec], images, tmp_path / "alone", options=OPTIONS)
    assert (read(done.cache) == read(alone.cache)).all()


def test_what_is_there_needs_no_process(
    study: Study, drawn: Callable[[int], list[ImageFile]]
) -> None:
    images = drawn(3)
    extract([study.spec], images, study.root, options=OPTIONS)
    done = study.on_chips(images, progress=lambda *rows: pytest.fail("work was done"))
    assert (done.computed, done.present, done.engine) == (0, 3, None)


@pytest.mark.soak
def test_a_killed_process_costs_its_own_images(
    study: Study, drawn: Callable[[int], list[ImageFile]]
) -> None:
    images = drawn(120)

    def progress(done: int, total: int) -> None:
        for child in active_children()[:1] if len(active_children()) == 2 else ():
            child.kill()

    with pytest.raises(DeviceError, match=r"of chip [01] with exit code -9 ended .* is kept"):
        study.on_chips(images, progress=progress, **SETTINGS)
    kept = study.stored
    assert 60 <= kept.total() < 120  # those of the other process, all of them

    (done,) = extract([study.spec], images, study.root, options=OPTIONS)
    assert (done.computed, done.present) == (120 - kept.total(), kept.total())
    assert study.stored == Counter(image.sha256 for image in images)


def test_asked_to_stop_a_process_keeps_what_it_has(
    study: Study, drawn: Callable[[int], list[ImageFile]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPU_NUM_DEVICES", "1")
    asked: list[int] = []

    def progress(done: int, total: int) -> None:
        if not asked:
            asked.append(done)
            os.kill(os.getpid(), signal.SIGTERM)  # SIGINT may be ignored, as with nohup

    with pytest.raises(KeyboardInterrupt):
        study.on_chips(drawn(400), progress=progress, **SETTINGS)
    assert asked[0] <= study.stored.total() < 400
    assert not active_children()


@pytest.mark.soak
def test_the_first_unreadable_image_stops_all_if_strict(
    study: Study, drawn: Callable[[int], list[ImageFile]], unreadable: ImageFile
) -> None:
    bad = [replace(unreadable, sha256=bytes([number]) * 32) for number in range(20)]
    with pytest.raises(UnreadableImageError, match=r"unreadable\.png: .* \(--strict\)"):
        study.on_chips([*drawn(400), *bad], strict=True, **SETTINGS)
    assert study.stored.total() < 400
    assert not active_children()


def test_a_chip_that_can_not_be_used_is_named(
    study: Study, drawn: Callable[[int], list[ImageFile]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPU_VISIBLE_CHIPS", "0")  # this machine has none
    absent = replace(study, spec=replace(study.spec, device="tpu"))
    with pytest.raises(DeviceError, match="--device tpu: chip 0 can't be used: "):
        absent.on_chips(drawn(1), **SETTINGS)


@pytest.mark.parametrize(
    ("device", "variable", "count"),
    [("xla-cpu", "4", 4), ("xla-cpu", None, 1), ("tpu", "1,3", 2), ("cpu", "4", 1)],
)
def test_chips_are_counted(
    device: str, variable: str | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "TPU_VISIBLE_CHIPS" if device == "tpu" else "CPU_NUM_DEVICES"
    monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(name, variable)
    assert local_devices(device) == count


def test_torch_xla_takes_the_chip_that_a_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    tpu = pytest.importorskip("torch_xla._internal.tpu")
    for name, value in environment("tpu", "2").items():
        monkeypatch.setenv(name, value)
    tpu.configure_one_chip_topology()
    assert os.environ["TPU_VISIBLE_CHIPS"] == "2"
    assert os.environ["TPU_PROCESS_BOUNDS"] == "1,1,1"
