"""Images behind URLs, kept on this machine: each file whole, and fetched again when it changes."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import TypeVar
from uuid import uuid4

from cache.errors import DatasetError
from cache.locks import sharing
from cache.progress import Progress
from extract.sources.csv_manifest import (
    SUFFIX,
    Row,
    check_listed_classes,
    list_remarks,
    rows_of,
    write_rows,
)
from extract.sources.file_names import ListingNotes, is_image
from extract.sources.image_file import UNPACKED, is_remote, is_url
from extract.sources.url import (
    UNKNOWN,
    Listed,
    check_remote_classes,
    describe_files,
    fetch_all,
    list_below,
    list_top,
    parts_below,
)
from extract.sources.zip_archive import SHOWN, check_room, checking_names

AT_ONCE = 512  # files between two words about progress
FILES = "files"  # the folder beside a list

T = TypeVar("T")


def mirror_folder(
    path: Path, root: Path, progress: Progress, report: Callable[[str], None] | None
) -> Path:
    """Return a local folder with the images of a remote folder of classes, kept below `root`.

    Files with the listed size and time are not fetched again; files that are not listed any more
    are removed.

    Args:
        progress: Counts files.

    Raises:
        DatasetError: it is no such folder, or a file cannot be fetched. Those that could be stay.
        OSError: the disk is full.
    """
    whole = folder_of(path, root)
    folder = whole / _end_of(path)
    notes = ListingNotes()
    classes, loose = list_top(path, notes)
    if not classes:
        raise DatasetError(
            f"{path} has no folders: give a URL with a folder of images per class, of a .csv list, "
            "or of .zip or .tar archives"
        )
    check_remote_classes(path, classes)
    files = dict[Path, Listed]()
    for file in loose:
        notes.takes(file.path, parts_below(path, file.path))
    for name in classes:
        for file in list_below(path, name, notes):
            if notes.takes_name(file.path):  # the scan of the copy says what is in subfolders
                files[_local(folder, file.path.removeprefix(str(path)))] = file
    missing = sum(max(f.size, 0) for target, f in files.items() if not _is_here(target, f))
    check_room(path, missing, root)
    with sharing(whole):
        for name in classes:  # one without images is an error, as in folders
            _local(folder, name).mkdir(parents=True, exist_ok=True)
        lost = _fetch(whole, files, progress, len(files))
        _remove_all_but(files, folder)
    if lost:
        shown = "; ".join(f"{name} {reason}" for name, reason in list(lost.items())[:SHOWN])
        raise DatasetError(
            f"{path}: {len(lost)} of {len(files)} file(s) could not be fetched: {shown}. Run the "
            "same command again to resume, or give a .csv list of the other files."
        )
    if report:
        for remark in notes.remarks(path):
            report(remark)
    return folder


def needs_fetching(path: Path, opened: bool = True) -> bool:
    """Return whether a list is behind a URL, or names images there that must be fetched.

    Args:
        path: Of the list.
        opened: The images will be opened; else those whose SHA-256 the list says are not fetched.

    Raises:
        DatasetError: it is no list.
        OSError: the list cannot be read.
    """
    return is_remote(path) or any(_is_wanted(row, opened) for row in rows_of(path))


def mirror_list(
    path: Path,
    root: Path,
    progress: Progress,
    report: Callable[[str], None] | None,
    opened: bool = True,
) -> Path:
    """Return a local list for one with URLs, whose images are fetched into a folder below `root`.

    Files with the same size and time as behind the URL are not fetched again. An image that cannot
    be fetched is named, and stays in the list as missing.

    Args:
        path: Of the list.
        root: Where fetched images are kept.
        progress: Counts files.
        report: Receives remarks.
        opened: See `needs_fetching`.

    Raises:
        DatasetError: it is no list, or a name in it cannot be one here.
        OSError: it cannot be read, or the disk is full.
    """
    path = path if is_remote(path) else path.resolve()
    check_listed_classes(path)
    whole = folder_of(path, root)
    target = whole / _end_of(path).with_suffix(SUFFIX)
    here = {row.path: _of_url(whole, row.path) for row in rows_of(path) if _is_wanted(row, opened)}
    lost = dict[str, str]()
    with sharing(whole):
        done = 0
        for some in _batched(here):
            known = dict(zip(some, describe_files(some), strict=True))
            lost |= {url: reason for url, reason in known.items() if isinstance(reason, str)}
            files = {here[url]: file for url, file in known.items() if isinstance(file, Listed)}
            lost |= _fetch(whole, files, progress, len(here), done)
            done += len(some)
        for url in lost:
            here[url].unlink(missing_ok=True)
        if 2 * len(lost) > len(here):
            raise DatasetError(_mostly_lost(path, lost, len(here)))
        write_rows(target, (_moved(row, here.get(row.path)) for row in rows_of(path)))
    if report:
        for remark in list_remarks(path):
            report(remark)
    if report and lost:
        report(f"{path}: {len(lost)} of {len(here)} file(s) could not be fetched")
        for url, reason in list(lost.items())[:SHOWN]:
            report(f"{url} {reason}")
    return target


def _mostly_lost(path: Path, lost: Mapping[str, str], wanted: int) -> str:
    url, reason = next(iter(lost.items()))
    return (
        f"{path}: {len(lost):,} of {wanted:,} file(s) could not be fetched. The first: {url} "
        f"{reason}"
    )


def _fetch(
    whole: Path, files: Mapping[Path, Listed], progress: Progress, total: int, done: int = 0
) -> dict[str, str]:
    """Fetch files that are missing or changed; return why others are not available."""
    lost = dict[str, str]()
    for some in _batched(files):
        missing = [target for target in some if not _is_here(target, files[target])]
        parts = [whole / f".{uuid4().hex}.tmp" for _ in missing]
        reasons = fetch_all([files[target].path for target in missing], parts)
        for target, part, reason in zip(missing, parts, reasons, strict=True):
            if reason:
                lost[files[target].path] = reason
                target.unlink(missing_ok=True)  # it is not as it is listed
            else:
                _keep(part, target, files[target])
        done += len(some)
        progress(done, total)
    return lost


def _keep(part: Path, target: Path, file: Listed) -> None:
    """Give a fetched file its place, and the time that it is known by."""
    if file.mtime_ns != UNKNOWN:
        os.utime(part, ns=(file.mtime_ns, file.mtime_ns))
    with checking_names(file.path, target.name):
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)


def _is_here(target: Path, file: Listed) -> bool:
    try:
        now = target.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (now.st_size, now.st_mtime_ns) == (file.size, file.mtime_ns)


def _remove_all_but(files: Mapping[Path, Listed], folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            if path not in files:
                path.unlink()


def _is_wanted(row: Row, opened: bool) -> bool:
    return (opened or row.sha256 is None) and is_url(row.path) and is_image(row.path)


def _moved(row: Row, path: Path | None) -> Row:
    return row._replace(path=str(path.absolute())) if path else row


def folder_of(path: Path, root: Path) -> Path:
    """Return the folder of ours that holds what a URL or list means."""
    name = str(path if is_remote(path) else path.resolve())
    return root / (sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8] + UNPACKED)


def _end_of(path: Path) -> Path:
    """Return the last two parts of a path or URL: what a set of images is named by."""
    parts = [part.rpartition("://")[2].strip("/") for part in path.parts]
    return Path(*[part for part in parts if part][-2:])


def _of_url(whole: Path, url: str) -> Path:
    return _local(whole / FILES, url.partition("://")[2])


def _local(folder: Path, name: str) -> Path:
    """Return where a remote name belongs. Raises DatasetError: that would be elsewhere."""
    parts = name.strip("/").split("/")
    if any(part in ("", ".", "..") or PureWindowsPath(part).drive for part in parts):
        raise DatasetError(f"{name} can't be the name of a file on this machine: rename it there")
    return folder.joinpath(*parts)


def _batched(items: Iterable[T]) -> Iterator[list[T]]:
    source = iter(items)
    while some := list(islice(source, AT_ONCE)):
        yield some
