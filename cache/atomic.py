"""Files that are either there whole or not there at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it becomes `path`, durably.

    On any exception the temporary file is removed and `path` stays as it was.

    Raises:
        OSError: the disk is full, or the folder can't be written.
    """
    with temporary_file(path.parent) as temporary:
        yield temporary
        commit(temporary, path)


@contextmanager
def temporary_file(folder: Path) -> Iterator[Path]:
    """Yield a name of nothing in `folder`; whatever has that name at the end is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{uuid4().hex}.tmp"
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def commit(temporary: Path, path: Path) -> None:
    """Give a finished file its name.

    The file is fsynced before the rename and the folder after it, so that a power cut leaves the
    old file or the new one, never half of either.
    """
    _fsync(temporary)
    temporary.replace(path)
    if os.name == "posix":  # Windows can't open a folder, and needs no fsync for a rename
        _fsync(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written; only while nobody else writes here."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir():
            rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
