"""Files that are written whole or not at all; and what must not be overwritten."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from uuid import uuid4

from cache.errors import ResultsError

TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")  # our own names, and nobody else's
LOOKED_AT = 4096  # bytes at either end of a file that say who wrote it


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


def check_replaceable(path: Path, *marks: bytes, what: str) -> None:
    """Make sure that a file may be written here: nothing has this name, or an earlier file of ours.

    Args:
        path: Of the file.
        marks: Bytes that each file of ours has near its beginning or its end.
        what: The option or command that writes it, for the message.

    Raises:
        ResultsError: a folder or another program's file is here.
        OSError: it cannot be read.
    """
    if path.is_dir():
        raise ResultsError(f"{what} {path} is a folder. Give the name of a file.")
    if not path.exists():
        return
    with path.open("rb") as file:
        ends = file.read(LOOKED_AT)
        file.seek(max(file.seek(0, os.SEEK_END) - LOOKED_AT, 0))
        ends += file.read()
    if not all(mark in ends for mark in marks):
        raise ResultsError(
            f"{what} {path} exists and was not written by this command. Choose another name, or "
            "move the file away."
        )


@contextmanager
def asking_for_space(path: Path, needed: int) -> Iterator[None]:
    """Let the error of a full disk say how much space the file at `path` needs, in bytes.

    Raises:
        OSError: as what is done within does.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        mib = needed / 2**20
        reason = f"{os.strerror(error.errno)} ({mib:,.1f} MiB are needed)"
        raise OSError(error.errno, reason, str(path)) from None


def check_file(path: Path) -> None:
    """Make sure that a file can be opened, before a library tries that calls every failure alike.

    Raises:
        OSError: it can't. A pipe, socket or device is not even tried.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    with path.open("rb"):
        pass


def check_regular(status: os.stat_result) -> None:
    """Make sure that this is a file: to open a pipe or a device may block without end.

    Raises OSError.
    """
    if not stat.S_ISREG(status.st_mode):
        raise OSError("is a folder" if stat.S_ISDIR(status.st_mode) else "is not a regular file")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written; only while nobody else writes here.

    Only names that `temporary_file` gives are removed: a user may have a `.draft.tmp` here.
    """
    for path in folder.glob(".*.tmp"):
        if not TEMPORARY.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
