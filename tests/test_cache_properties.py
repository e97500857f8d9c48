"""Whatever people and machines do to images and caches, in any order: the invariants hold."""

import multiprocessing
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray
from PIL import Image

import extract.writer
from cache.maintenance.compact import compact
from cache.maintenance.verify import verify
from cache.store import Cache, as_keys, open_cache, read_all, summarize
from evaluate.workspace.known_datasets import record
from evaluate.workspace.prune import gone_from, images_there
from extract.backbones import BACKBONES
from extract.backends.backend import ENGINES, Engine
from extract.dataset import ImageSet, scan
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone, load_backbone
from extract.imaging.decode import decode_gray
from extract.model_zoo.backbone import Backbone
from extract.sources import hash_index
from tests.killing import PLACES, Death, dying
from tests.toy import Toy, extract_one, no_file

pytestmark = pytest.mark.slow

EXAMPLES, SOAK_EXAMPLES = 12, 150
DEATHS = st.builds(
    Death, st.sampled_from(sorted(PLACES.keys() - {"compute"})), st.integers(1, 6), st.booleans()
)
PICK = st.integers(0, 1000)


def answer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stand for a backbone: eight numbers that depend on the image alone. No threads to fork."""
    strips = pixels.reshape(len(pixels), 8, -1).astype(np.float64)
    means: NDArray[np.float32] = strips.mean(axis=2).astype(np.float32)
    return means


class Caches(RuleBasedStateMachine):
    """toy: the backbone whose cache it is. Set by the test."""

    toy: LoadedBackbone

    @initialize()
    def begin(self) -> None:
        self.place = Path(tempfile.mkdtemp())
        self.data, self.root = self.place / "images", self.place / "cache"
        self.table = self.root / "scan.sqlite"
        key = EmbeddingSpec(self.toy, "cpu", ("torch",), "fp32").key
        self.cache: Cache = open_cache(self.root, key)
        self.rows: dict[bytes, NDArray[np.float32]] = {}  # of every image that ever was
        self.promised: set[bytes] = set()  # images whose rows must be there
        self.clock = 0
        record(self.root)
        for label in "ab":
            self._write(self.data / label / "first.png", broken=False)

    def _write(self, path: Path, broken: bool) -> None:
        self.clock += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(self.clock).integers(0, 256, (6, 6), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        if broken:
            path.write_bytes(path.read_bytes()[:60] + bytes([self.clock % 256]))
        # Every change shows in the time, as with files that are not touched twice in a tick.
        os.utime(path, ns=(self.clock * 10**9, self.clock * 10**9))

    def _files(self) -> list[Path]:
        return sorted(self.data.glob("*/*.png"))

    def _one(self, pick: int) -> Path | None:
        """Choose a file, but never the last of its class."""
        files = [path for path in self._files() if path.name != "first.png"]
        return files[pick % len(files)] if files else None

    def _scan(self) -> ImageSet:
        remembered, fresh = scan(self.data, table=self.table), scan(self.data)
        assert remembered.trouble is None
        assert remembered.files == fresh.files
        record(self.root, self.data, (file.sha256 for file in fresh.files))
        for file in fresh.files:
            if file.path.stat().st_size > 61:
                pixels = decode_gray(file.path.read_bytes()).pixels
                self.rows[file.sha256] = answer(pixels[np.newaxis])[0]
        return fresh

    def _in_a_child(self, death: Death, work: Callable[[], object]) -> bool:
        """Do a piece of work in a forked process that dies; say whether it lived."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
            child = os.fork()
        if child == 0:
            owner, name = PLACES[death.place]
            setattr(owner, name, dying(getattr(owner, name), death, iter(range(1, 10**6))))
            try:
                work()
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) in (0, -9)
        return status == 0

    def _extract(self, images: ImageSet) -> None:
        extract_one(self.toy, images.files, self.root, batch_size=2)

    @rule(label=st.sampled_from("ab"), broken=st.sampled_from([False, False, False, True]))
    def add(self, label: str, broken: bool) -> None:
        self._write(self.data / label / f"{self.clock}.png", broken)

    @rule(pick=PICK)
    def change(self, pick: int) -> None:
        if path := self._one(pick):
            self._write(path, broken=False)

    @rule(pick=PICK)
    def remove(self, pick: int) -> None:
        if path := self._one(pick):
            path.unlink()

    @rule(pick=PICK)
    def relabel(self, pick: int) -> None:
        if path := self._one(pick):
            path.rename(self.data / ("b" if path.parent.name == "a" else "a") / path.name)

    @rule(pick=PICK)
    def copy(self, pick: int) -> None:
        if path := self._one(pick):
            self.clock += 1
            shutil.copy2(path, path.with_name(f"{self.clock}.png"))

    @rule()
    def extract_all(self) -> None:
        images = self._scan()
        self._extract(images)
        present = {file.sha256 for file in images.files}
        self.promised |= present & self.rows.keys()
        assert summarize(self.cache).lacking(present) == frozenset()
        assert list(self.cache.folder.glob(".*.tmp")) == []

    @rule(death=DEATHS)
    def extract_and_die(self, death: Death) -> None:
        images = self._scan()
        if self._in_a_child(death, lambda: self._extract(images)):
            self.promised |= {file.sha256 for file in images.files} & self.rows.keys()

    @rule()
    def compact_all(self) -> None:
        before = read_all(self.cache)
        compact(self.cache)
        after = read_all(self.cache)
        assert len(self.cache.segments) <= 1
        assert np.array_equal(before.hashes, after.hashes)
        assert np.array_equal(before.embeddings, after.embeddings)

    @rule(death=DEATHS)
    def compact_and_die(self, death: Death) -> None:
        self._in_a_child(death, lambda: compact(self.cache))

    @rule(death=DEATHS)
    def prune_and_die(self, death: Death) -> None:
        known, present = images_there(self.root, (), [], lambda folder: self._scan())
        gone = gone_from(self.cache, known, present).gone
        self._in_a_child(death, lambda: compact(self.cache, gone))
        self.promised &= present

    @rule()
    def prune(self) -> None:
        images = self._scan()
        known, present = images_there(self.root, (), [], lambda folder: images)
        assert present == {file.sha256 for file in images.files}
        compact(self.cache, gone_from(self.cache, known, present).gone)
        self.promised &= present
        assert set(as_keys(read_all(self.cache).hashes)) <= present
        assert summarize(self.cache).failures.keys() <= present

    @invariant()
    def every_row_is_the_right_one_and_none_is_lost(self) -> None:
        if not hasattr(self, "cache"):
            return
        assert [error for _, error in verify(self.root) if error] == []
        found = read_all(self.cache)
        keys = as_keys(found.hashes)
        assert keys == sorted(set(keys))
        assert self.promised <= set(keys) <= self.rows.keys()
        for key, row in zip(keys, found.embeddings, strict=True):
            assert row.tobytes() == self.rows[key].tobytes()

    def teardown(self) -> None:
        if hasattr(self, "place"):
            shutil.rmtree(self.place)


def keep_invariants(examples: int, derandomize: bool) -> None:
    """Run the machine, in a process that has no other thread when it forks."""
    extract.writer.SEGMENT_ROWS, hash_index.SETTLED_NS = 3, 0
    ENGINES["torch"] = Engine("torch", ("fp32",), lambda *_: answer)
    BACKBONES["toy"] = Backbone(8, "fc", lambda name: Toy(), no_file)
    Caches.toy = load_backbone("toy", "random")
    run_state_machine_as_test(
        Caches,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            derandomize=derandomize,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_sequence_keeps_the_invariants(soak: bool, figure: Callable[[str], None]) -> None:
    examples = SOAK_EXAMPLES if soak else EXAMPLES
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killing"])
    process = context.Process(target=keep_invariants, args=(examples, not soak))
    process.start()
    process.join()
    assert process.exitcode == 0
    figure(f"sequences of 25 steps that kept the invariants: {examples}")
