"""Where segments lie: in a folder here, or behind a URL (`s3://…`) that fsspec knows.

Behind a URL, paths are `upath.UPath`s. A file there is written by one PUT, so that it is whole or
not at all. There are no temporary names, no locks and no mapping into memory.
"""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePath
from typing import Any

from cache.errors import CacheError, FrostlineError
from cache.files import asking_for_space, replacing

SUFFIX = ".h5"
BEGINNING = 1 << 16  # bytes: all of a segment of 1,024 rows but its embeddings
AT_ONCE = 256  # beginnings that are fetched together
BLOCK = 1 << 24  # bytes copied at once, however large the file


def is_url(path: Path) -> bool:
    """Return whether a path is behind a URL."""
    return not isinstance(path, PurePath)


def segment_files(folder: Path) -> list[Path]:
    """Return the segments in a folder as they are now, by name; none if there is no folder.

    Raises:
        CacheError: the URL can't be reached.
        OSError: the folder can't be listed.
    """
    if not is_url(folder):
        return files_in(folder, SUFFIX)
    files = [info["name"].rsplit("/", 1)[-1] for info in _listed(folder) if _is_segment(info)]
    return [folder / name for name in sorted(files)]


def cache_folders(root: Path) -> list[Path]:
    """Return the folders below `root` that hold segments, by name. Raises as `segment_files`."""
    if not is_url(root):
        folders = [path for path in files_in(root, "") if path.is_dir()]
        return [folder for folder in folders if segment_files(folder)]
    names = [i["name"].rstrip("/") for i in _listed(root) if i["type"] == "directory"]
    folders = [root / name.rsplit("/", 1)[-1] for name in sorted(names)]
    return [folder for folder in folders if segment_files(folder)]


def files_in(folder: Path, suffix: str) -> list[Path]:
    """Return what is in a folder and ends so, by name, but hidden files; none without a folder.

    Raises:
        OSError: it can't be listed: `Path.glob` would find nothing.
    """
    try:
        return sorted(p for p in folder.iterdir() if p.name.endswith(suffix) and p.name[0] != ".")
    except FileNotFoundError:
        return []


def put(path: Path, data: bytes) -> None:
    """Write a file whole, or not at all.

    Raises:
        CacheError: the URL can't be reached or written.
        OSError: the disk is full, or the folder can't be written.
    """
    if is_url(path):
        with reaching(path):
            _system(path).pipe_file(_name(path), data)
    else:
        with replacing(path) as temporary, asking_for_space(path, len(data)):
            temporary.write_bytes(data)


def content(path: Path, end: int | None = None) -> bytes:
    """Return the bytes of a file behind a URL, all or up to `end`.

    Raises:
        FileNotFoundError: it does not exist.
        CacheError: the URL can't be reached.
    """
    with reaching(path):
        data: bytes = _system(path).cat_file(_name(path), start=0, end=end)
    return data


def size_of(path: Path) -> int:
    """Return the size of a file behind a URL, in bytes. Raises as `content`."""
    with reaching(path):
        _system(path).invalidate_cache()  # of an older listing
        return int(_system(path).info(_name(path))["size"])


def beginnings(paths: Sequence[Path]) -> Iterator[tuple[bytes, int]]:
    """Yield the first bytes and the size of each file of one folder behind a URL, many at once.

    Of a file that cannot be fetched, nothing and 0: `content` says why.

    Raises:
        CacheError: the URL can't be reached.
    """
    for start in range(0, len(paths), AT_ONCE):
        some = paths[start : start + AT_ONCE]
        with reaching(some[0]):
            listed = _system(some[0]).ls(_name(some[0].parent), detail=True)
            sizes = {info["name"].rsplit("/", 1)[-1]: int(info["size"] or 0) for info in listed}
            names = [_name(path) for path in some]
            data = _system(some[0]).cat_ranges(names, [0] * len(some), [BEGINNING] * len(some))
        for path, first in zip(some, data, strict=True):
            there = isinstance(first, bytes) and path.name in sizes
            yield (first, sizes[path.name]) if there else (b"", 0)


def copy(source: Path, target: Path) -> None:
    """Copy a file from here or from behind a URL to here, in blocks.

    Raises:
        FileNotFoundError: it does not exist.
        CacheError: the source can't be reached.
        OSError: the disk here is full, or the target can't be written.
    """
    with ExitStack() as stack:
        with reaching(source):
            there = stack.enter_context(source.open("rb"))
        here = stack.enter_context(target.open("wb"))
        while True:
            with reaching(source):
                block = there.read(BLOCK)
            if not block:
                break
            here.write(block)


class Beginning(io.BytesIO):
    """The first bytes of a file, for h5py, as if they were all of it.

    HDF5 may crash when a file object raises, and holds a lock while it reads, so nothing is fetched
    here.

    Attributes:
        size: Of the whole file, in bytes.
        missed: End of what was read in vain; 0 if nothing was.
    """

    def __init__(self, first: bytes, size: int) -> None:
        super().__init__(first)
        self.size, self.missed = size, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place in the whole file."""
        return super().seek(self.size + offset if whence == os.SEEK_END else offset)

    def readinto(self, buffer: Any, /) -> int:
        """Read what is here of it."""
        end = self.tell() + len(buffer)
        count = super().readinto(buffer)
        if count < len(buffer):
            self.missed = max(self.missed, end)
        return count


@contextmanager
def reaching(path: Path) -> Iterator[None]:
    """Make a CacheError of whatever a file system raises, but a missing file."""
    try:
        yield
    except (FrostlineError, FileNotFoundError):
        raise
    except Exception as error:
        raise CacheError(
            f"{path} can't be reached ({type(error).__name__}: {error}): "
            "check the URL, the credentials and the network, and try again"
        ) from error


def _listed(folder: Path) -> list[dict[str, Any]]:
    """List a folder behind a URL again: others write there."""
    with reaching(folder):
        system = _system(folder)
        system.invalidate_cache()
        try:
            listed: list[dict[str, Any]] = system.ls(_name(folder), detail=True)
        except FileNotFoundError:
            return []
    return listed


def _is_segment(info: dict[str, Any]) -> bool:
    return info["type"] == "file" and str(info["name"]).endswith(SUFFIX)


def _system(path: Any) -> Any:
    return path.fs


def _name(path: Any) -> str:
    """Return a path as its file system knows it."""
    return str(path.path)
