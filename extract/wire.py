"""What goes to a worker and comes back from it, as JSON text.

JSON, because names of files need not be valid Unicode, which Arrow's text must be.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from typing import Any

from cache.segments import Failure
from cache.store import Cache
from extract.file_names import ListingNotes
from extract.hashes import Hashed, key_of
from extract.look import Look
from extract.run import Extraction
from extract.shards import Shard
from extract.worker import Done, Member, Part

PLAIN = ("source", "number", "worker", "seconds", "error")


def part_to_json(part: Part) -> str:
    """Write a shard that is to be done."""
    known = [_hashed(part.known[n]) if n in part.known else None for n in part.shard.names]
    fields = {"source": part.source, "views": part.views, "known": known}
    return json.dumps({**fields, "shard": asdict(part.shard)})


def part_from_json(text: str) -> Part:
    """Read what `part_to_json` wrote."""
    fields: dict[str, Any] = json.loads(text)
    listed: dict[str, Any] = {
        name: v if isinstance(v, int | str) else tuple(v) for name, v in fields["shard"].items()
    }
    shard = Shard(**listed)
    pairs = zip(shard.names, fields["known"], strict=True)
    known = {name: _hashed_from(name, values) for name, values in pairs if values}
    return Part(fields["source"], shard, fields["views"], known)


def done_to_json(done: Done) -> str:
    """Write what became of a shard."""
    fields = {
        **{name: getattr(done, name) for name in PLAIN},
        "files": [(m.name, m.label, _hashed(m.hashed)) for m in done.files],
        "looks": [
            (key.hex(), look.bits.hex(), *astuple(look)[1:]) for key, look in done.looks.items()
        ],
        "unopened": _failures(done.unopened),
        "notes": done.notes.as_record(),
        "extractions": [_extraction(extraction) for extraction in done.extractions],
    }
    return json.dumps(fields)


def done_from_json(text: str, caches: Sequence[Cache]) -> Done:
    """Read what `done_to_json` wrote. caches: those that were filled, in the order of targets."""
    fields = json.loads(text)
    looks = {bytes.fromhex(k): Look(bytes.fromhex(b), *rest) for k, b, *rest in fields["looks"]}
    return Done(
        **{name: fields[name] for name in PLAIN},
        files=tuple(Member(n, label, _hashed_from(n, it)) for n, label, it in fields["files"]),
        looks=looks,
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


def _extraction_from(cache: Cache, values: Mapping[str, Any]) -> Extraction:
    fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    return Extraction(**{**fields, "cache": cache, "failed": _failures_from(values["failed"])})


def _hashed(hashed: Hashed) -> tuple[str | int, ...]:
    return hashed.sha256.hex(), *hashed.stamp


def _hashed_from(name: str, values: Sequence[Any]) -> Hashed:
    digits, size, mtime_ns, ctime_ns, inode = values
    return Hashed(key_of(name), size, mtime_ns, bytes.fromhex(digits), ctime_ns, inode)


def _failures(failures: Sequence[Failure]) -> list[tuple[str, str, str]]:
    return [(failure.sha256.hex(), failure.path, failure.reason) for failure in failures]


def _failures_from(rows: Sequence[Sequence[str]]) -> tuple[Failure, ...]:
    return tuple(Failure(bytes.fromhex(digits), path, reason) for digits, path, reason in rows)
