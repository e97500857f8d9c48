"""What a workspace's caches hold, in words."""

from dataclasses import fields
from datetime import datetime
from typing import Any

from cache.provenance import words
from cache.store import Cache, read_headers, summarize_headers
from extract.timings import describe_stages

SHOWN_APART = {"backbone", "device", "precision", "embedding_dim", "format_version"}


def describe(cache: Cache) -> list[str]:
    """Describe one cache: its rows, key and provenance, a line each.

    Raises:
        CacheError: a segment is damaged.
    """
    found = read_headers(cache)
    held = summarize_headers(found)
    rows = sum(len(header.hashes) for _, header in found)
    size = sum(path.stat().st_size for path, _ in found) / 2**20
    written = datetime.fromtimestamp(max(path.stat().st_mtime for path, _ in found))
    compacted = len(found) == 1 and found[0][1].compacted
    lines = [
        f"{cache.folder}",
        f"  {rows:,} rows of {cache.key.embedding_dim} numbers, {len(held.failures):,} "
        f"unreadable images, {size:,.1f} MiB in {len(found):,} segment(s)"
        f"{', compacted' if compacted else ''}, last written {written:%Y-%m-%d %H:%M}",
    ]
    notes = _identity(cache) | _provenance(held.provenance)
    lines += [f"  {name}: {text}" for name, text in notes.items()]
    if held.seconds_per_image:
        lines.append(f"  speed: {1 / held.seconds_per_image:,.1f} images per second")
    if spent := held.provenance.get("stages"):
        lines.append(f"  stages: {describe_stages(spent)}")
    return lines


def costs(cache: Cache) -> str:
    """Say in one line what filling a cache cost, and where the time went.

    Raises:
        CacheError: a segment is damaged.
    """
    held = summarize_headers(read_headers(cache))
    note, rate = held.provenance, held.seconds_per_image
    line = f"{cache.key.name}: {len(held.stored):,} images"
    if engine := note.get("engine"):
        line += f" by {' and '.join(words(engine))}"
    if rate:
        line += f", {1 / rate:,.1f} per second"
    return f"{line}: {describe_stages(note['stages'])}" if "stages" in note else line


def _identity(cache: Cache) -> dict[str, str]:
    shown = [f.name for f in fields(cache.key) if f.name not in SHOWN_APART]
    return {name: str(getattr(cache.key, name)) for name in shown}


def _provenance(note: dict[str, Any]) -> dict[str, str]:
    versions: dict[str, Any] = note.get("versions", {})
    shown = {
        "weights from": note.get("weights", ""),
        "engine": note.get("engine", ""),
        "host": note.get("host", ""),
        "versions": [f"{name} {' and '.join(words(v))}" for name, v in versions.items()],
    }
    return {name: ", ".join(words(value)) for name, value in shown.items()}
