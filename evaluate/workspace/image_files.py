"""Where the images of a study are now, known by the SHA-256 of their bytes.

- A path is only a hint: bytes of another hash are never shown as this image.
- A file that is not where it was is looked for where the workspace knows images: moved together
  with it, in the table of hashed files, in the folders and lists of the study run last.
- What was not found is counted.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from cache.errors import FrostlineError
from evaluate.workspace.current_study import CurrentStudy, read_current
from evaluate.workspace.layout import Workspace
from extract.sources.csv_manifest import is_list, read_list
from extract.sources.hash_index import known_files
from extract.sources.image_file import is_url


class ImageFiles:
    """Reads images of a workspace.

    Args:
        workspace: None if paths are all that is known.
    """

    def __init__(self, workspace: Workspace | None = None) -> None:
        self.workspace = workspace
        self.asked: set[bytes] = set()
        self.missing: dict[bytes, Path] = {}

    def read(self, path: Path, key: bytes) -> bytes | None:
        """Return the bytes of an image; None if no file of this SHA-256 is found.

        Args:
            path: Where it was.
            key: The SHA-256, 32 bytes.
        """
        self.asked.add(key)
        if key in self.missing:
            return None
        for candidate in self._candidates(path, key):
            try:
                data = candidate.read_bytes() if candidate.is_file() else b""
            except (OSError, ValueError):
                continue
            if sha256(data).digest() == key:
                return data
        self.missing[key] = path
        return None

    @property
    def remark(self) -> str | None:
        """What was not found, in a sentence; None if all images were."""
        if not self.missing:
            return None
        return (
            f"{len(self.missing):,} of {len(self.asked):,} images were not found, or have changed, "
            f"and are not shown: first {next(iter(self.missing.values()))}"
        )

    def _candidates(self, path: Path, key: bytes) -> Iterator[Path]:
        yield path
        if self.workspace is None:
            return
        if self._study and path.is_absolute():
            yield self._study.moved(str(path), self.workspace)
        for known in self._hashed.get(key, ()):
            yield known
            if self._study:
                yield self._study.moved(str(known), self.workspace)
        yield from self._named.get(path.name, ())

    @cached_property
    def _study(self) -> CurrentStudy | None:
        try:
            return read_current(self.workspace) if self.workspace else None
        except (FrostlineError, OSError):
            return None  # whoever needs the study says what is wrong with it

    @cached_property
    def _hashed(self) -> dict[bytes, list[Path]]:
        """The files that the table of hashes knows, by SHA-256; it may be gone or damaged."""
        found: dict[bytes, list[Path]] = {}
        if self.workspace and self.workspace.scan_table.exists():
            try:
                for name, hashed in known_files(self.workspace.scan_table).items():
                    found.setdefault(hashed.sha256, []).append(Path(os.fsdecode(name)))
            except sqlite3.Error:
                return {}
        return found

    @cached_property
    def _named(self) -> dict[str, list[Path]]:
        """The files of the study run last, by name."""
        found: dict[str, list[Path]] = {}
        if self.workspace is None or self._study is None:
            return found
        for part in (self._study.training, self._study.test):
            folder = self._study.path_of(part, self.workspace)
            for path in () if is_url(str(folder)) else _files_of(folder):
                found.setdefault(path.name, []).append(path)
        return found


def _files_of(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder, or of a list."""
    try:
        if is_list(folder):
            yield from (Path(path) for _, path in read_list(folder))
    except (FrostlineError, OSError):
        return
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)
