"""A path as its user gave it → a folder or list on this machine: unpacked or fetched, once."""

import shutil
from collections.abc import Callable
from pathlib import Path

from cache.progress import Progress, silent
from extract.sources.csv_manifest import is_list
from extract.sources.image_file import UNPACKED, is_remote
from extract.sources.mirror import folder_of, mirror_folder, mirror_list, needs_fetching
from extract.sources.tar_archive import find_tars, unpack_tars
from extract.sources.zip_archive import split_zip_path, unpack_zip, version


def make_local(
    path: Path,
    root: Path,
    progress: Progress = silent,
    report: Callable[[str], None] | None = None,
    opened: bool = True,
    rehash: bool = False,
) -> Path:
    """Return the local folder, or `.csv` list, that a path means: itself, or what is in it.

    - `gels.zip/train` is the folder `train` in the archive `gels.zip`, `gels.zip` all of it. For
      tar archives, see `extract/sources/tar_archive.py`.
    - An archive, here or behind a URL, is unpacked into a folder of its own below `root`, whole or
      not at all, unless it is there for the archive as it is now.
    - For a folder or list with URLs, see `extract/sources/mirror.py`.
    - Only images are unpacked; what is left out is counted and reported.

    Args:
        path: As its user gave it.
        root: Where unpacked and fetched images are kept.
        progress: Counts files.
        report: Receives remarks.
        opened: The images of a list will be opened; else those whose SHA-256 it says are not
            fetched.
        rehash: Unpack and fetch again.

    Raises:
        DatasetError: an archive is damaged, encrypted or dangerous, or has no such folder; or what
            a URL names cannot be fetched.
        OSError: it cannot be read, or the disk is full.
    """
    if found := split_zip_path(path):
        whole = root / (version([found[0]], found[1]) + UNPACKED)
        _remove_if(rehash, whole)
        return unpack_zip(path, *found, whole, progress, report)
    if is_list(path):
        if not needs_fetching(path, opened):
            return path
        _remove_if(rehash, folder_of(path, root))
        return mirror_list(path, root, progress, report, opened)
    if tars := find_tars(path):
        _remove_if(rehash, root / (version(tars, ()) + UNPACKED))
        return unpack_tars(path, tars, root, progress, report)
    if not is_remote(path):
        return path
    _remove_if(rehash, folder_of(path, root))
    return mirror_folder(path, root, progress, report)


def _remove_if(rehash: bool, whole: Path) -> None:
    """Remove a folder of ours, so that it is made again. Raises OSError."""
    if rehash and whole.exists():
        shutil.rmtree(whole)
