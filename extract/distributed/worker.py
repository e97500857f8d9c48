"""One shard of a data set: fetch, hash, compute, commit, report; on any machine."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import file_digest
from pathlib import Path
from platform import node
from tempfile import TemporaryDirectory
from time import perf_counter

from PIL import Image

from cache.errors import Failure, FrostlineError, UnreadableImageError
from extract.artifact_store import ArtifactStore
from extract.distributed.job import Job
from extract.distributed.shards import Shard, fetch_files
from extract.embedding_spec import engine_artifacts
from extract.imaging.image_stats import ImageStats
from extract.loader import Decoded
from extract.pipeline import Extraction, Extractor
from extract.sources.file_names import ListingNotes
from extract.sources.hash_index import Hashed, key_of
from extract.sources.image_file import ImageFile, is_remote, to_path
from extract.sources.url import UNKNOWN

# RuntimeError: what torch and OpenVINO raise where a device has too little memory, or is gone.
RECOVERABLE = (FrostlineError, OSError, RuntimeError)


@dataclass(frozen=True)
class Part:
    """A shard to process.

    Attributes:
        source: Name of the data set that it is of.
        shard: Its files.
        views: Augmented views of each image, besides the clean one.
        known: Files as they were when they were hashed, by name.
    """

    source: str
    shard: Shard
    views: int
    known: Mapping[str, Hashed]


@dataclass(frozen=True)
class Member:
    """A file of a shard.

    Attributes:
        name: As the user knows it.
        label: Its class.
        hashed: Size, times and SHA-256.
    """

    name: str
    label: str
    hashed: Hashed


@dataclass(frozen=True)
class JobResult:
    """What became of a shard.

    Attributes:
        source: Name of the data set.
        number: Of the shard.
        worker: Machine and process.
        seconds: From the first file to the last segment.
        files: Those that are available.
        image_stats: Of the decoded images, by SHA-256.
        unopened: Files that are not available.
        extractions: In the order of the job's specs.
        error: What stopped it; "" if nothing did.
        notes: What else is in its archive.
    """

    source: str
    number: int
    worker: str
    seconds: float
    files: tuple[Member, ...] = ()
    image_stats: Mapping[bytes, ImageStats] = field(default_factory=dict)
    unopened: tuple[Failure, ...] = ()
    extractions: tuple[Extraction, ...] = ()
    error: str = ""
    notes: ListingNotes = field(default_factory=ListingNotes)


class Worker:
    """Does shards, one after the other; engines are built with the first row that is missing."""

    def __init__(self, job: Job) -> None:
        self.job, self.name = job, f"{node()}:{os.getpid()}"
        self.stack = ExitStack()
        self.extractor: Extractor | None = None

    def do(self, part: Part) -> JobResult:
        """Fill the caches with a shard's rows, and commit them.

        What went wrong is returned, not raised, where users can fix it: other shards continue.
        """
        started = perf_counter()
        result = partial(JobResult, part.source, part.shard.number, self.name)
        Image.MAX_IMAGE_PIXELS = self.job.max_pixels
        try:
            with TemporaryDirectory(prefix="frostline-") as scratch:
                extractor = self._open()
                extractor.refresh()
                files, unopened, notes = self._files(part, extractor, Path(scratch))
                image_stats, extractions = self._fill(part, extractor, files)
        except RECOVERABLE as error:
            with suppress(*RECOVERABLE):  # the same again: what could not be written
                self.close()  # the next shard begins with the caches as they are then
            return result(perf_counter() - started, error=str(error) or repr(error))
        members = tuple(member for member, _ in files)
        seconds = perf_counter() - started
        return result(seconds, members, image_stats, unopened, extractions, notes=notes)

    def close(self) -> None:
        """Commit, and let go of engines and locks. Raises OSError."""
        self.extractor = None
        self.stack.close()

    def _files(
        self, part: Part, extractor: Extractor, scratch: Path
    ) -> tuple[list[tuple[Member, Path]], tuple[Failure, ...], ListingNotes]:
        """Return a shard's files with their hashes and where they can be read now; files that are
        not available; and what else is in its archive.

        Remote files that have all their rows are not fetched: their path does not exist.
        """
        complete = self._complete_files(part, extractor)
        files = [(member, Path(member.name)) for member in complete.values()]
        unopened, notes = [], ListingNotes()
        for file in fetch_files(part.shard, scratch, complete, notes):
            try:
                if file.path is None:
                    raise OSError(file.reason)
                hashed = part.known.get(file.name)
                stamp = (file.size, file.mtime_ns, file.ctime_ns, file.inode)
                if not hashed or not _unchanged(hashed, stamp):
                    with file.path.open("rb") as opened:
                        sha256 = file_digest(opened, "sha256").digest()
                    hashed = Hashed(key_of(file.name), *stamp[:2], sha256, *stamp[2:])
            except OSError as error:
                unopened.append(Failure(b"", file.name, error.strerror or str(error)))
            else:
                files.append((Member(file.name, file.label, hashed), file.path))
        if unopened and self.job.options.strict:
            raise UnreadableImageError(f"{unopened[0].path} can't be opened: {unopened[0].reason}")
        return files, tuple(unopened), notes

    def _complete_files(self, part: Part, extractor: Extractor) -> dict[str, Member]:
        """Return the files, by name, that are as they were hashed, and lack no row.

        Only a listing that says size and time can tell, of files that lie elsewhere.
        """
        shard, complete_files = part.shard, dict[str, Member]()
        listed = zip(shard.names, shard.labels, shard.sizes, shard.mtimes_ns, strict=True)
        for name, label, size, mtime_ns in listed:
            hashed = part.known.get(name)
            same = hashed and _unchanged(hashed, (size, mtime_ns, 0, 0))
            if hashed and same and not extractor.lacks(hashed.sha256, part.views):
                complete_files[name] = Member(name, label, hashed)
        return complete_files

    def _fill(
        self, part: Part, extractor: Extractor, files: Sequence[tuple[Member, Path]]
    ) -> tuple[dict[bytes, ImageStats], tuple[Extraction, ...]]:
        image_stats = dict[bytes, ImageStats]()

        def on_image(image: Decoded) -> None:
            if image.stats:
                image_stats[image.sha256] = image.stats

        images = [ImageFile(path, member.label, member.hashed.sha256) for member, path in files]
        names = {str(path): member.name for member, path in files}
        extractor.fill(images, views=part.views, on_image=on_image, names=names)
        extractor.commit()
        return image_stats, tuple(extractor.summaries())

    def _open(self) -> Extractor:
        if self.extractor is None:
            root = to_path(self.job.root)
            artifacts = engine_artifacts(root) if not is_remote(root) else self._own_artifacts()
            self.job.check()
            # Cut by their number only, rows make the same segments whoever computes them.
            options = replace(self.job.options, artifacts=artifacts)
            extractor = Extractor(self.job.specs, root, options, segment_seconds=None)
            self.extractor = self.stack.enter_context(extractor)
        return self.extractor

    def _own_artifacts(self) -> ArtifactStore:
        folder = self.stack.enter_context(TemporaryDirectory(prefix="frostline-engines-"))
        return ArtifactStore(Path(folder))


def _unchanged(hashed: Hashed, stamp: tuple[int, int, int, int]) -> bool:
    """Return whether a file is as it was hashed; of one without a time nobody knows."""
    return stamp[1] != UNKNOWN and hashed.stamp == stamp
