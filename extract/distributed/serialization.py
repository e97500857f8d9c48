"""What goes to a worker and comes back from it, as JSON text.

JSON, because names of files need not be valid Unicode, which Arrow's text must be. Texts that are
none of these, such as of another version, are a DeviceError.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple
from typing import Any, TypedDict, TypeVar

from cache.errors import DeviceError, Failure
from cache.records import parse_json
from cache.store import Cache
from extract.distributed.shards import Shard
from extract.distributed.worker import JobResult, Member, Part
from extract.imaging.image_stats import ImageStats
from extract.pipeline import Extraction
from extract.sources.file_names import ListingNotes
from extract.sources.hash_index import Hashed, key_of

T = TypeVar("T")
HashedFields = tuple[str, int, int, int, int]
FailureFields = tuple[str, str, str]
# SHA-256 of the image, then the fields of its ImageStats, bits in hex.
StatsFields = tuple[str, str, int, int, str, float, float, int, int, int]


class _Part(TypedDict):
    source: str
    views: int
    known: list[HashedFields | None]
    shard: Shard


class _Extraction(TypedDict):
    computed: int
    present: int
    failed: list[FailureFields]
    several_pages: tuple[str, ...]
    engine: str | None
    deviation: float | None
    trouble: tuple[str, ...]
    views: int
    spent: dict[str, float]


class _Done(TypedDict):
    source: str
    number: int
    worker: str
    seconds: float
    error: str
    files: list[tuple[str, str, HashedFields]]
    image_stats: list[StatsFields]
    unopened: list[FailureFields]
    notes: dict[str, Any]
    extractions: list[_Extraction]


PLAIN = ("source", "number", "worker", "seconds", "error")


def part_to_json(part: Part) -> str:
    """Write a shard that is to be done."""
    known = [_hashed(part.known[n]) if n in part.known else None for n in part.shard.names]
    fields = {"source": part.source, "views": part.views, "known": known}
    return json.dumps({**fields, "shard": asdict(part.shard)})


def part_from_json(text: str) -> Part:
    """Read what `part_to_json` wrote. Raises DeviceError."""
    return _checked(lambda: _part(parse_json(text, _Part)))


def _part(fields: _Part) -> Part:
    shard = fields["shard"]
    pairs = zip(shard.names, fields["known"], strict=True)
    known = {name: _hashed_from(name, values) for name, values in pairs if values}
    return Part(fields["source"], shard, fields["views"], known)


def done_to_json(done: JobResult) -> str:
    """Write what became of a shard."""
    fields = {
        **{name: getattr(done, name) for name in PLAIN},
        "files": [(m.name, m.label, _hashed(m.hashed)) for m in done.files],
        "image_stats": [
            (key.hex(), stats.bits.hex(), *astuple(stats)[1:])
            for key, stats in done.image_stats.items()
        ],
        "unopened": _failures(done.unopened),
        "notes": done.notes.as_record(),
        "extractions": [_extraction(extraction) for extraction in done.extractions],
    }
    return json.dumps(fields)


def done_from_json(text: str, caches: Sequence[Cache]) -> JobResult:
    """Read what `done_to_json` wrote. caches: those that were filled, in the order of targets.

    Raises:
        DeviceError: it is something else.
    """
    return _checked(lambda: _done(parse_json(text, _Done), caches))


def _done(fields: _Done, caches: Sequence[Cache]) -> JobResult:
    image_stats = {
        bytes.fromhex(stats[0]): ImageStats(bytes.fromhex(stats[1]), *stats[2:])
        for stats in fields["image_stats"]
    }
    return JobResult(
        source=fields["source"],
        number=fields["number"],
        worker=fields["worker"],
        seconds=fields["seconds"],
        error=fields["error"],
        files=tuple(Member(n, label, _hashed_from(n, it)) for n, label, it in fields["files"]),
        image_stats=image_stats,
        unopened=_failures_from(fields["unopened"]),
        notes=ListingNotes.from_record(fields["notes"]),
        extractions=tuple(
            _extraction_from(cache, values)
            for cache, values in zip(caches, fields["extractions"], strict=False)
        ),
    )


def _extraction(extraction: Extraction) -> dict[str, Any]:
    names = Extraction.__dataclass_fields__.keys() - {"cache", "failed"}
    rest = {name: getattr(extraction, name) for name in sorted(names)}
    return {**rest, "failed": _failures(extraction.failed)}


def _extraction_from(cache: Cache, values: _Extraction) -> Extraction:
    failed = _failures_from(values["failed"])
    return Extraction(**{**values, "cache": cache, "failed": failed})  # type: ignore[arg-type]


def _checked(read: Callable[[], T]) -> T:
    try:
        return read()
    except (ValueError, KeyError, TypeError) as error:
        raise DeviceError(
            f"A worker's message can't be read ({error}). Run the same version of Frostline on all "
            "machines."
        ) from None


def _hashed(hashed: Hashed) -> HashedFields:
    size, mtime_ns, ctime_ns, inode = hashed.stamp
    return hashed.sha256.hex(), size, mtime_ns, ctime_ns, inode


def _hashed_from(name: str, values: HashedFields) -> Hashed:
    digits, size, mtime_ns, ctime_ns, inode = values
    return Hashed(key_of(name), size, mtime_ns, bytes.fromhex(digits), ctime_ns, inode)


def _failures(failures: Sequence[Failure]) -> list[tuple[str, str, str]]:
    return [(failure.sha256.hex(), failure.path, failure.reason) for failure in failures]


def _failures_from(rows: Sequence[FailureFields]) -> tuple[Failure, ...]:
    return tuple(Failure(bytes.fromhex(digits), path, reason) for digits, path, reason in rows)
