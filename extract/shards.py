"""A data set as a stream of shards: some files each, listed but not opened; and their fetching.

Memory does not grow with the number of files: they are neither sorted nor held.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

from cache.errors import DatasetError
from extract.archives import check_size, in_zip, is_image, members_of, opened_zip, taken
from extract.lists import is_list, rows_of
from extract.places import is_remote, is_url, place
from extract.remote import UNKNOWN, about, below, get_all, top
from extract.scan import class_folders, class_name
from extract.tars import images_of, tars_of


@dataclass(frozen=True)
class Shard:
    """Some files of a data set, listed but not opened.

    number: from 0. archive: the tar or zip archive that they lie in (path or URL), "" if none.
    paths: path or URL of each; in an archive, the member's name; empty with a tar archive: all that
    is in it. labels: class of each. sizes (bytes), mtimes_ns: as listed; -1 where the listing did
    not say (local files: asked where they are read). ignored: files passed over with this shard,
    being no images of a class.
    """

    number: int
    archive: str
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    sizes: tuple[int, ...]
    mtimes_ns: tuple[int, ...]
    ignored: int

    @property
    def names(self) -> list[str]:
        """What users know its files by, as far as they are listed."""
        return [self.name_of(path) for path in self.paths]

    def name_of(self, path: str) -> str:
        """Return what users know one of its files by."""
        return f"{self.archive}/{path}" if self.archive else path


@dataclass(frozen=True)
class Fetched:
    """One file of a shard, where it can be read now.

    name: what the user knows it by (path, URL, ARCHIVE/member). path: local; None if it could not
    be had, and then why: reason.
    """

    name: str
    label: str
    path: Path | None
    size: int
    mtime_ns: int
    reason: str = ""


class _Found(NamedTuple):
    """A file of a source. label: None if it is no image of a class."""

    path: str
    label: str | None
    size: int = UNKNOWN
    mtime_ns: int = UNKNOWN


def shards(source: Path, size: int) -> Iterator[Shard]:
    """Yield the files of a source in shards of `size` images, in the order of its own listing.

    source: here or behind a URL, a folder with one folder per class, a `.csv` list (whose paths may
    be URLs), a zip archive or a folder in one (`x.zip/train`), a tar archive or a folder of them.
    Of tar archives each is one shard, whatever is in it. Hidden files are left out.

    Raises:
        DatasetError: it is no such source, has no class or no image, or can't be had from its URL.
        OSError: it can't be listed.
    """
    if is_list(source):
        files = (_Found(r.path, _class(r.path, r.label)) for r in rows_of(source))
        yield from _cut(source, "", files, size)
    elif found := in_zip(source):
        yield from _cut(source, str(found[0]), _in_zip(*found), size)
    elif tars := tars_of(source):
        for number, tar in enumerate(tars):
            yield Shard(number, str(tar), (), (), (), (), 0)
    elif is_remote(source):
        yield from _cut(source, "", _remote(source), size)
    else:
        yield from _cut(source, "", _local(source), size)


def fetched(shard: Shard, scratch: Path, known: Collection[str] = ()) -> list[Fetched]:
    """Fetch the files of a shard into the folder `scratch`, unless they are local; in its order.

    known: names of those to leave out. A file that can't be had costs itself only. mtime_ns of a
    file in an archive is the archive's; -1 where no listing said it.

    Raises:
        DatasetError: an archive is damaged or dangerous, or can't be had from its URL.
        OSError: the disk is full, or a local archive can't be read.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    if not shard.archive:
        return _files(shard, scratch, known)
    if not shard.paths:
        return _from_tar(shard, scratch, known)
    return _from_zip(shard, scratch, known)


def _cut(source: Path, archive: str, files: Iterable[_Found], size: int) -> Iterator[Shard]:
    """Cut files into shards; a file ignored counts to the shard before it, or to the first."""
    number, ignored, some = 0, 0, list[_Found]()
    for file in files:
        if file.label is None:
            ignored += 1
        elif len(some) < size:
            some.append(file)
        else:
            yield _shard(number, archive, some, ignored)
            number, ignored, some = number + 1, 0, [file]
    if not some:
        raise DatasetError(f"{source}: no image in it: add images, each in the folder of its class")
    yield _shard(number, archive, some, ignored)


def _shard(number: int, archive: str, files: list[_Found], ignored: int) -> Shard:
    paths, labels, sizes, times = zip(*files, strict=True)
    return Shard(number, archive, paths, labels, sizes, times, ignored)


def _class(path: str, name: str) -> str | None:
    """Return the class of an image in the one form of its name; None if it is no image."""
    return class_name(name) if is_image(path) else None


def _local(source: Path) -> Iterator[_Found]:
    names, entered = class_folders(source), set[str]()
    empty = [name for name in names if not any(f.label for f in _below(source, name, set()))]
    if empty:
        raise DatasetError(
            f"{source}: no image file in class(es) {', '.join(empty)}: add images or remove the "
            "class"
        )
    for entry in source.iterdir():
        if not entry.is_dir() and not entry.name.startswith("."):
            yield _Found(str(entry), None)
    for name in names:
        yield from _below(source, name, entered)


def _below(source: Path, name: str, entered: set[str]) -> Iterator[_Found]:
    """Yield the files of one class. Links are followed, but no folder is entered twice."""
    label, to_list = class_name(name), [str(source / name)]
    while to_list:
        folder, folders = to_list.pop(), []
        if (real := os.path.realpath(folder)) in entered:
            continue
        entered.add(real)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.path)
                else:
                    yield _Found(entry.path, label if is_image(entry.name) else None)
        to_list += sorted(folders, reverse=True)


def _remote(source: Path) -> Iterator[_Found]:
    names, loose = top(source)
    if not names:
        raise DatasetError(
            f"{source} has no folders: give a URL with a folder of images per class, of a .csv "
            "list, or of .zip or .tar archives"
        )
    for file in loose:
        yield _Found(file.path, None)
    for name in names:
        for file in below(source, name):
            yield _Found(file.path, _class(file.path, name), file.size, file.mtime_ns)


def _in_zip(archive: Path, inner: tuple[str, ...]) -> Iterator[_Found]:
    _, size, changed = about(archive)
    with opened_zip(archive) as file:
        members = members_of(file, archive, inner)
        check_size(archive, sum(member.file_size for member in members.values()), size)
    for parts, member in members.items():
        if not member.is_dir():
            below = parts[len(inner) :]
            label = _class(member.filename, below[0]) if len(below) > 1 else None
            yield _Found(member.filename, label, member.file_size, changed)


def _files(shard: Shard, scratch: Path, known: Collection[str]) -> list[Fetched]:
    """Say of local files what they are, and fetch those behind URLs."""
    found = dict[int, Fetched]()
    wanted = [number for number, path in enumerate(shard.paths) if path not in known]
    urls = [number for number in wanted if is_url(shard.paths[number])]
    targets = [scratch / _name(number, shard.paths[number]) for number in urls]
    reasons = get_all([shard.paths[number] for number in urls], targets)
    for number, target, reason in zip(urls, targets, reasons, strict=True):
        size = UNKNOWN if reason else target.stat().st_size
        path = None if reason else target
        found[number] = _fetched(shard, number, path, size, shard.mtimes_ns[number], reason)
    for number in set(wanted) - found.keys():
        found[number] = _looked_at(shard, number)
    return [found[number] for number in wanted]


def _fetched(
    shard: Shard, number: int, path: Path | None, size: int, mtime_ns: int, reason: str
) -> Fetched:
    name = shard.name_of(shard.paths[number])
    return Fetched(name, shard.labels[number], path, size, mtime_ns, reason)


def _looked_at(shard: Shard, number: int) -> Fetched:
    path = place(shard.paths[number])
    try:
        now = path.stat()
    except OSError as error:
        return _fetched(shard, number, None, UNKNOWN, UNKNOWN, error.strerror or str(error))
    return _fetched(shard, number, path, now.st_size, now.st_mtime_ns, "")


def _from_zip(shard: Shard, scratch: Path, known: Collection[str]) -> list[Fetched]:
    wanted = [number for number, name in enumerate(shard.names) if name not in known]
    if not wanted:  # then the archive need not be opened
        return []
    found = []
    with opened_zip(place(shard.archive)) as file:
        for number in wanted:
            member, size = shard.paths[number], shard.sizes[number]
            target = scratch / _name(number, member)
            reason = taken(file, member, size, target)
            path = None if reason else target
            found.append(_fetched(shard, number, path, size, shard.mtimes_ns[number], reason))
    return found


def _from_tar(shard: Shard, scratch: Path, known: Collection[str]) -> list[Fetched]:
    tar, numbers = place(shard.archive), count()
    changed = about(tar).mtime_ns

    def put(*parts: str) -> Path | None:
        if f"{shard.archive}/{'/'.join(parts)}" in known:
            return None
        return scratch / _name(next(numbers), parts[-1])

    return [
        Fetched(
            f"{shard.archive}/{image.name}", image.label, image.path, image.size, changed,
            image.reason,
        )
        for image in images_of(tar, put)[0]
        if image.path or image.reason
    ]  # fmt: skip


def _name(number: int, path: str) -> str:
    """Name a file in the scratch folder: what it is called elsewhere may not be possible there."""
    return f"{number}{Path(path).suffix.lower()}"
