"""Extraction on a cluster: what is sent there, and what is made of all that comes back."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.errors import CacheError, DatasetError, DeviceError, FrostlineError
from cache.files import commit, temporary_file
from cache.locks import sharing
from cache.ray_cluster import connected, resources
from evaluate.workspace.known_datasets import record
from extract.dataset_statistics.image_index import ImageIndex
from extract.imaging.preprocessing import AUTO
from extract.pipeline import combine
from extract.signals import interruptible
from extract.sources.class_names import between_sets, check_class_names
from extract.sources.csv_manifest import SUFFIX, Row, adding_to, is_list, list_remarks
from extract.sources.file_names import ListingNotes
from extract.sources.hash_index import Hashed, known_among, remember
from extract.sources.image_file import is_remote
from extract.timings import sum_stages
from frostline.cli.console import bar, print_extractions, print_workers, say, warn
from frostline.cli.option_groups import EmbeddingOptions, TrainingOptions, group

if TYPE_CHECKING:
    from cache.errors import Failure
    from cache.store import Cache
    from evaluate.workspace.layout import Workspace
    from extract.dataset import ImageSet
    from extract.distributed.job import Job
    from extract.distributed.worker import JobResult, Part
    from extract.pipeline import Extraction
    from heads.batched.fit import Trainer
    from heads.store import TrainedHead

SHOWN = 5  # failed shards named
# Choices that go by all images.
OF_ALL = (("normalize", "dataset"), ("precision", "int8"), ("full_scale", AUTO))


@dataclass(frozen=True)
class Cluster:
    """Where and how shards are done.

    Attributes:
        address: See `cache/ray_cluster.py`.
        resources: Of each worker, as JSON.
        shard_size: Files of each shard.
        max_failed_shards: So many may fail before the run stops.
    """

    address: str | None = None
    resources: str = "{}"
    shard_size: int = 0
    max_failed_shards: int = 0


@dataclass
class OfSource:
    """What came back of one source.

    Attributes:
        labels: Images by class.
        first: A file of each class.
    """

    labels: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    unopened: list[Failure] = field(default_factory=list)
    notes: ListingNotes = field(default_factory=ListingNotes)

    def add(self, done: JobResult) -> None:
        """Take what became of one shard."""
        for member in done.files:
            self.labels[member.label] += 1
            self.first.setdefault(member.label, member.name)
        self.unopened += done.unopened
        self.notes.add(done.notes)

    def check(self, path: Path) -> None:
        """Make sure that this can be a set of images. Raises DatasetError."""
        check_class_names(path, self.labels, lambda name: (self.labels[name], self.first[name]))
        lost, images = len(self.unopened), self.labels.total()
        if lost > images:
            raise DatasetError(
                f"{path}: {lost:,} of {lost + images:,} file(s) can't be opened. The first: "
                f"{self.unopened[0].path}: {self.unopened[0].reason}"
            )


@dataclass
class Sums:
    """What came back so far.

    Attributes:
        workers: Of each, its images and seconds, and the latter by stage.
        sources: What came back of each.
    """

    files: int = 0
    extractions: list[Extraction] = field(default_factory=list)
    unopened: list[Failure] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    workers: dict[str, defaultdict[str, float]] = field(default_factory=dict)
    sources: defaultdict[str, OfSource] = field(default_factory=lambda: defaultdict(OfSource))

    def add(self, done: JobResult) -> None:
        """Take what became of one shard."""
        if done.error:
            self.errors.append(f"{done.source}, shard {done.number}: {done.error}")
            return
        self.files += len(done.files) + len(done.unopened)
        self.unopened += done.unopened
        self.sources[done.source].add(done)
        mine = self.workers.setdefault(done.worker, defaultdict(float))
        mine["images"] += len(done.files)
        mine["seconds"] += done.seconds
        for stage, seconds in sum_stages(each.spent for each in done.extractions).items():
            mine[stage] += seconds
        pairs = zip(self.extractions, done.extractions, strict=False)
        self.extractions = [combine(*pair) for pair in pairs] or list(done.extractions)


class Kept:
    """Keeps what workers found out about files: hashes, looks, and a list of each source.

    lists: where these will lie, by source. They are written whole, by `finish`, or not at all.
    """

    def __init__(self, workspace: Workspace, sources: Mapping[str, Path]) -> None:
        self.place, self.stack, self.open = workspace, ExitStack(), ExitStack()
        self.finished, self.sources = False, sources
        self.lists = {
            name: workspace.lists / f"{_named(path)}.csv" for name, path in sources.items()
        }
        if len(set(self.lists.values())) < len(self.lists):  # two folders of the same name
            self.lists = {name: workspace.lists / f"{name}.csv" for name in sources}

    def __enter__(self) -> Kept:
        with ExitStack() as stack:
            self.index = stack.enter_context(ImageIndex(self.place.image_index))
            stack.enter_context(sharing(self.place.lists))  # removes what a killed run has left
            self.written = {
                name: stack.enter_context(temporary_file(path.parent))
                for name, path in self.lists.items()
            }
            stack.enter_context(self.open)
            self.add_to = {
                name: self.open.enter_context(adding_to(path))
                for name, path in self.written.items()
            }
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    def add(self, done: JobResult) -> None:
        """Take what became of one shard.

        Raises:
            CacheError: the table of hashes can't be used.
            OSError: the disk is full.
        """
        for sha256, stats in done.image_stats.items():
            self.index.note(sha256, stats)
        record(self.place.cache, self.sources[done.source], (m.hashed.sha256 for m in done.files))
        self.add_to[done.source](Row(m.label, m.name, m.hashed.sha256) for m in done.files)
        with _usable(self.place.scan_table):
            remember(self.place.scan_table, (member.hashed for member in done.files))

    def finish(self) -> None:
        """Give the lists their names. Raises OSError."""
        self.open.close()
        for name, path in self.lists.items():
            commit(self.written[name], path)
        self.finished = True


def extract_at_scale(
    sources: Mapping[str, Path], workspace: Workspace, root: Path, cluster: Cluster,
    choices: Mapping[str, Any],
) -> None:  # fmt: skip
    """Fill caches below `root` by a cluster, and write lists of the images with their hashes.

    Args:
        sources: Of images by option; they are listed here, and hashed and decoded where the work is
            done. Devices are asked for there, too.
        choices: Of `extract`, by option.

    Raises:
        DatasetError: something was chosen that takes all images at one place.
        FrostlineError: more shards failed than may. Finished work is saved.
    """
    from PIL import Image

    from extract.backends.backend import usable_engines
    from extract.distributed.job import Job
    from extract.pipeline import RunnerOptions
    from frostline.cli.steps import check_weights, targets_of

    _refuse(choices)
    options = group(EmbeddingOptions, choices)
    check_weights(options.arch, options.weights)
    devices = options.device or [device_of(resources(cluster.resources))]
    engines = {name: usable_engines(name, options.engine, options.precision) for name in devices}
    workspace.prepare()
    specs = targets_of(options, engines, workspace)
    job = Job(
        specs=tuple(specs),
        root=str(_everywhere(root)),
        options=RunnerOptions(options.strict, options.workers, options.images_at_once),
        max_pixels=Image.MAX_IMAGE_PIXELS,
    )
    sources = {name: _everywhere(path) for name, path in sources.items()}
    _extract(sources, workspace, job, cluster, choices["augmented"])


def _refuse(choices: Mapping[str, Any]) -> None:
    for name, value in choices.items():
        if (value and name in ("per_class", "test_per_class")) or (name, value) in OF_ALL:
            raise DatasetError(
                f"--{name.replace('_', '-')} {value} goes by all images together, which --on ray "
                "never has at one place: leave it out, or run on one machine"
            )


def _everywhere(path: Path) -> Path:
    """Return a path that means the same to whoever runs elsewhere."""
    return path if is_remote(path) else path.absolute()


def _extract(
    sources: Mapping[str, Path], workspace: Workspace, job: Job,
    cluster: Cluster, views: int,
) -> None:  # fmt: skip
    from extract.distributed.ray import extract_on_ray

    sums, total, wanted = Sums(), 0, resources(cluster.resources)
    with ExitStack() as stack:
        stack.enter_context(interruptible())
        progress = stack.enter_context(bar("Embedding on Ray", "images"))

        def listed(files: int) -> None:
            nonlocal total
            progress(0, total := files)

        for source in sources.values():
            record(workspace.cache, source)
        kept = stack.enter_context(Kept(workspace, sources))
        parts = _parts(sources, workspace, cluster.shard_size, views)
        dones = extract_on_ray(parts, job, wanted, cluster.address, listed)
        dones = stack.enter_context(closing(dones))
        for done in dones:
            sums.add(done)
            kept.add(done)
            progress(sums.files, max(total, sums.files))
            if len(sums.errors) > cluster.max_failed_shards:
                break
        fault = _fault(sums, sources)
        if not sums.errors and not fault:
            kept.finish()
    _tell(sums, kept, workspace, cluster)
    if fault:
        raise fault


def _fault(sums: Sums, sources: Mapping[str, Path]) -> DatasetError | None:
    """Say why some source can't be a set of images, now that all is known; warn of the rest."""
    for name, source in sums.sources.items():
        for remark in source.notes.remarks(sources[name]):
            warn(remark)
        for line in between_sets(sums.sources["dataset"].labels, source.labels):
            warn(f"{sources[name]}: {line}")
    try:
        for name, source in sums.sources.items():
            source.check(sources[name])
    except DatasetError as error:
        return error
    return None


def device_of(wanted: Mapping[str, Any]) -> str:
    """Return the device that a worker with these resources has. Raises DeviceError."""
    if "num_gpus" in wanted:
        return "cuda"
    chips = wanted.get("resources", {}).get("TPU", 0)
    if chips > 1:
        raise DeviceError(
            f'--resources: a worker drives one TPU chip, not {chips}: ask for {{"TPU": 1}}, and '
            "every chip gets a worker of its own"
        )
    return "tpu" if chips else "cpu"


def _parts(
    sources: Mapping[str, Path], workspace: Workspace, size: int, views: int
) -> Iterator[Part]:
    """List the sources, a shard at a time, with what is known of its files."""
    from extract.distributed.shards import list_shards
    from extract.distributed.worker import Part
    from frostline.cli.steps import rehash_asked

    for source, path in sources.items():
        notes = ListingNotes()
        for remark in list_remarks(path) if is_list(path) else ():
            warn(remark)
        for shard in list_shards(path, size, notes):
            known = dict[str, Hashed]()
            if not rehash_asked():
                with _usable(workspace.scan_table):
                    known = known_among(workspace.scan_table, shard.names)
            yield Part(source, shard, views if source == "dataset" else 0, known)
        for remark in notes.remarks(path):
            warn(remark)


def _tell(sums: Sums, kept: Kept, workspace: Workspace, cluster: Cluster) -> None:
    print_extractions(sums.extractions, sums.files, sums.unopened, workspace.failures)
    print_workers(sums.workers)
    for error in sums.errors[:SHOWN]:
        warn(error)
    if len(sums.errors) > cluster.max_failed_shards:
        raise FrostlineError(
            f"{len(sums.errors)} shard(s) failed, and --max-failed-shards is "
            f"{cluster.max_failed_shards}: "
            f"{sums.errors[0]}. Fix this and run the same command again. Finished work is saved."
        )
    if sums.errors:
        warn(
            f"{len(sums.errors)} shard(s) failed, so no list of all images was written: fix or "
            "remove them and run the same command again"
        )
        return
    for source, path in kept.lists.items() if kept.finished else ():
        say(f"All images of --{source} with their hashes: {path}")


def _named(path: Path) -> str:
    """Name a list by the last two parts of what it lists."""
    parts = path.as_posix().removesuffix(SUFFIX).split("/")
    return "-".join(part for part in parts[-2:] if part).replace(":", "-")


@contextmanager
def _usable(table: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise CacheError(
            f"{table} can't be used ({error}): delete it, it only saves time"
        ) from None


def train_at_scale(
    caches: Sequence[Cache], training: ImageSet, workspace: Workspace, options: TrainingOptions,
    groups: Mapping[bytes, int], cluster: Cluster,
) -> list[TrainedHead]:  # fmt: skip
    """Train the heads of a plan on each cache, parts of it at a time on the workers of a cluster.

    The resources of a worker say what device trains.
    """
    from frostline.cli.steps import train
    from heads.ray import train_on_ray

    if options.train_on != "cpu":
        raise DeviceError(
            f"--train-on {options.train_on} is for this machine: on Ray, --resources says what "
            "trains"
        )
    wanted = resources(cluster.resources)

    def trainer_of(cache: Cache) -> Trainer:
        there = replace(cache, folder=_everywhere(cache.folder))
        return partial(train_on_ray, cache=there, options=wanted)

    with connected(cluster.address), interruptible():
        return train(caches, training, workspace, options, groups, trainer_of)
