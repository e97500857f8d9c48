"""Built engines, kept beside the caches so that each is built once. They only save time.

A note beside the files holds their SHA-256 and its own: what was changed is made again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import file_digest, sha256
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeVar
from uuid import uuid4

from cache.locks import sharing
from cache.records import convert, parse_json
from extract.sources.hash_index import stamp_of

NOTE = "kept.json"  # beside the engine's files: the SHA-256 of each, and what its builder noted
CHECKSUM = "checksum"  # of the note: SHA-256 of all its other fields

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Note:
    """What every note contains.

    Attributes:
        files: SHA-256 by name, in hexadecimal.
    """

    files: dict[str, str]

    @property
    def digest(self) -> str:
        """One SHA-256 for all files; "" if there is none."""
        text = json.dumps(self.files, sort_keys=True)
        return sha256(text.encode()).hexdigest() if self.files else ""


N = TypeVar("N", bound=Note)


@dataclass(frozen=True)
class ArtifactStore:
    """Where engines are kept: a folder of one folder each. They can be deleted at any time."""

    folder: Path

    def artifact(self, label: str, **key: Any) -> Artifact:
        """Return the place of the one engine that has this key; any difference is another."""
        text = json.dumps(key, sort_keys=True, default=str)
        return Artifact(self.folder / f"{label}-{sha256(text.encode()).hexdigest()[:12]}")


@dataclass(frozen=True)
class Artifact:
    """The place of one built engine, filled or not."""

    folder: Path

    def read(self, kind: type[N]) -> N | None:
        """Return what its builder noted; None if it is missing, or damaged: then it is removed."""
        if not self.folder.exists():
            return None
        try:
            fields = parse_json((self.folder / NOTE).read_bytes(), dict[str, Any])
            checksum, note = fields.pop(CHECKSUM, None), convert(fields, kind)
            if checksum == _checksum(fields) and all(
                sha256_of(self.folder / name) == digest for name, digest in note.files.items()
            ):
                return note
        except PermissionError:  # somebody else's is not ours to remove
            return None
        except (OSError, ValueError):
            pass
        log.warning("%s is damaged, or of an earlier version. It is made again.", self.folder)
        self.remove()
        return None

    def remove(self) -> None:
        """Remove the files, so that they are made again."""
        rmtree(self.folder, ignore_errors=True)

    def fill(self, write: Callable[[Path], None], **note: Any) -> None:
        """Let `write` put files into a folder, which becomes this place whole or not at all.

        Raises:
            OSError: the disk is full, or the folder can't be written.
        """
        with sharing(self.folder.parent):
            temporary = self.folder.parent / f".{uuid4().hex}.tmp"
            temporary.mkdir()
            try:
                write(temporary)
                note["files"] = {path.name: sha256_of(path) for path in temporary.iterdir()}
                text = json.dumps(note | {CHECKSUM: _checksum(note)})
                (temporary / NOTE).write_text(text, encoding="utf-8")
                if not self.folder.exists():  # else another process was faster, with the same
                    os.replace(temporary, self.folder)  # noqa: PTH105
            finally:
                rmtree(temporary, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; computed once per process, unless the file changes.

    Raises:
        OSError: it can't be read.
    """
    return _sha256_as_of(path, stamp_of(path.stat()))


def _checksum(fields: dict[str, Any]) -> str:
    return sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


@cache
def _sha256_as_of(path: Path, stamp: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
