"""Built engines, kept beside the caches so that each is built once. They only save time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import file_digest, sha256
from pathlib import Path
from shutil import rmtree
from typing import Any
from uuid import uuid4

from cache.sharing import sharing

NOTE = "kept.json"  # beside the engine's files: the SHA-256 of each, and what its builder noted


@dataclass(frozen=True)
class Shelf:
    """Where engines are kept: a folder of one folder each. They can be deleted at any time."""

    folder: Path

    def slot(self, label: str, **identity: Any) -> Slot:
        """Return the place of the one engine that has this identity; any difference is another."""
        text = json.dumps(identity, sort_keys=True, default=str)
        return Slot(self.folder / f"{label}-{sha256(text.encode()).hexdigest()[:12]}")


@dataclass(frozen=True)
class Slot:
    """The place of one built engine, filled or not."""

    folder: Path

    def read(self) -> dict[str, Any] | None:
        """Return what its builder noted; None if it isn't there, or not whole (then removed)."""
        try:
            note: dict[str, Any] = json.loads((self.folder / NOTE).read_text())
            whole = all(sha256_of(self.folder / name) == it for name, it in note["files"].items())
        except (FileNotFoundError, PermissionError):  # somebody else's is not ours to remove
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if whole:
            return note
        rmtree(self.folder, ignore_errors=True)
        return None

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
                (temporary / NOTE).write_text(json.dumps(note))
                if not self.folder.exists():  # else another process was faster, with the same
                    os.replace(temporary, self.folder)  # noqa: PTH105
            finally:
                rmtree(temporary, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; computed once per process, unless the file changes.

    Raises:
        OSError: it can't be read.
    """
    status = path.stat()
    return _sha256_as_of(path, status.st_size, status.st_mtime_ns)


@cache
def _sha256_as_of(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
