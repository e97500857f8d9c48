"""A data set as a stream of shards: some files each, listed but not opened; and their fetching.

Memory does not grow with the number of files: they are neither sorted nor held.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

from cache.errors import DatasetError
from cache.files import check_regular
from extract.dataset import class_folders
from extract.sources.class_names import check_class_names, class_name
from extract.sources.csv_manifest import check_listed_classes, is_list, listed_rows
from extract.sources.file_names import ListingNotes, machine_made
from extract.sources.hash_index import stamp_of
from extract.sources.image_file import is_remote, is_url, to_path
from extract.sources.tar_archive import find_tars, unpack_images
from extract.sources.url import (
    UNKNOWN,
    check_remote_classes,
    describe_file,
    fetch_all,
    list_below,
    list_top,
    parts_below,
    stamped,
)
from extract.sources.zip_archive import (
    check_member_classes,
    check_size,
    members_of,
    open_zip,
    split_zip_path,
    unpack_member,
)


@dataclass(frozen=True)
class Shard:
    """Some files of a data set, listed but not opened.

    Attributes:
        number: From 0.
        archive: The tar or zip archive that they are in (path or URL); "" if none.
        paths: Path or URL of each; in an archive, the member's name. Empty for a tar archive: all
            that is in it.
        labels: Class of each.
        sizes: Bytes, as listed; -1 where the listing did not say.
        mtimes_ns: Times of change, as listed; -1 where the listing did not say. Local files are
            asked when they are read.
    """

    number: int
    archive: str
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    sizes: tuple[int, ...]
    mtimes_ns: tuple[int, ...]

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

    Attributes:
        name: As the user knows it: path, URL or ARCHIVE/member.
        label: Its class.
        path: Local; None if the file is not available.
        size: Bytes.
        mtime_ns: Time of change.
        reason: Why the file is not available.
        ctime_ns: Of a local file; else 0.
        inode: Of a local file; else 0.
    """

    name: str
    label: str
    path: Path | None
    size: int
    mtime_ns: int
    reason: str = ""
    ctime_ns: int = 0
    inode: int = 0


class _Found(NamedTuple):
    """An image of a source, and its class."""

    path: str
    label: str
    size: int = UNKNOWN
    mtime_ns: int = UNKNOWN


def list_shards(source: Path, size: int, notes: ListingNotes | None = None) -> Iterator[Shard]:
    """Yield the files of a source in shards of `size` images, in the order of its own listing.

    Args:
        source: Here or behind a URL: a folder with one folder per class, a `.csv` list (whose paths
            may be URLs), a zip archive or a folder in one (`x.zip/train`), a tar archive or a
            folder of them. Each tar archive is one shard, whatever is in it.
        size: Images of a shard.
        notes: Count what is left out.

    Raises:
        DatasetError: it is no such source, has no class or no image, or cannot be fetched from its
            URL; or names of classes cannot be those of one set.
        OSError: it cannot be listed.
    """
    notes = ListingNotes() if notes is None else notes
    archive = ""
    if is_list(source):
        files = _in_list(source, notes)
    elif found := split_zip_path(source):
        archive, files = str(found[0]), _in_zip(source, *found, notes)
    elif tars := find_tars(source):
        for number, tar in enumerate(tars):
            yield Shard(number, str(tar), (), (), (), ())
        return
    elif is_remote(source):
        files = _remote(source, notes)
    else:
        files = _local(source, notes)
    yield from _into_shards(source, archive, files, size, notes)


def fetch_files(
    shard: Shard, scratch: Path, known: Collection[str] = (), notes: ListingNotes | None = None
) -> list[Fetched]:
    """Return the files of a shard, in its order; fetch what is not local into `scratch`.

    A file that cannot be fetched costs itself only. mtime_ns of a file in an archive is the
    archive's; -1 where no listing said it.

    Args:
        shard: What to fetch.
        scratch: A folder; it is made.
        known: Names of files to leave out.
        notes: Count what a tar archive holds besides images.

    Raises:
        DatasetError: an archive is damaged or dangerous, or cannot be fetched from its URL.
        OSError: the disk is full, or a local archive cannot be read.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    if not shard.archive:
        return _files(shard, scratch, known)
    if not shard.paths:
        return _from_tar(shard, scratch, known, ListingNotes() if notes is None else notes)
    return _from_zip(shard, scratch, known)


def _into_shards(
    source: Path, archive: str, files: Iterable[_Found], size: int, notes: ListingNotes
) -> Iterator[Shard]:
    number, some = 0, list[_Found]()
    for file in files:
        if len(some) == size:
            yield _shard(number, archive, some)
            number, some = number + 1, []
        some.append(file)
    if not some:
        text = f"{source}: no image in it: add images, each in the folder of its class"
        raise DatasetError(text, *notes.remarks(source))
    yield _shard(number, archive, some)


def _shard(number: int, archive: str, files: list[_Found]) -> Shard:
    paths, labels, sizes, times = zip(*files, strict=True)
    return Shard(number, archive, paths, labels, sizes, times)


def _in_list(source: Path, notes: ListingNotes) -> Iterator[_Found]:
    check_listed_classes(source)
    for _, given, row in listed_rows(source):
        if notes.takes_listed(row.path, given):
            yield _Found(row.path, notes.class_of(row.label))


def _local(source: Path, notes: ListingNotes) -> Iterator[_Found]:
    names = class_folders(source)

    def images_of(label: str) -> tuple[int, str]:
        folders = [name for name in names if class_name(name) == label]
        files = [file for name in folders for file in _below(source, name, set(), ListingNotes())]
        return len(files), files[0].path if files else "no image"

    check_class_names(source, {class_name(name) for name in names}, images_of)
    empty, why = list[str](), ListingNotes()
    for name in names:
        if not any(_below(source, name, set(), why)):
            empty.append(name)
    if empty:
        text = (
            f"{source}: no image file in class(es) {', '.join(empty)}: add images or remove the "
            "class"
        )
        raise DatasetError(text, *why.remarks(source))
    for entry in source.iterdir():
        if maker := machine_made(entry.name):
            _count(str(entry), maker, notes)
        elif not entry.is_dir():
            notes.takes(str(entry), (entry.name,))
    entered = set[str]()
    for name in names:
        yield from _below(source, name, entered, notes)


def _count(path: str, maker: str, notes: ListingNotes) -> None:
    """Count what is machine-made."""
    if os.path.isdir(path):  # noqa: PTH112 - False where it can't be known
        notes.pass_over(path, maker)
    else:
        notes.machine_made[maker] += 1


def _below(source: Path, name: str, entered: set[str], notes: ListingNotes) -> Iterator[_Found]:
    """Yield the images of one class. Links are followed, but no folder is entered twice."""
    to_list: list[tuple[str, ...]] = [(name,)]
    while to_list:
        parts = to_list.pop()
        folder, folders = str(source.joinpath(*parts)), list[tuple[str, ...]]()
        if (real := os.path.realpath(folder)) in entered:
            continue
        entered.add(real)
        try:
            entries = os.scandir(folder)
        except OSError as error:
            notes.unlisted[f"{folder} ({error.strerror})"] += 1
            continue
        with entries:
            for entry in entries:
                if maker := machine_made(entry.name):
                    _count(entry.path, maker, notes)
                elif os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():  # noqa: PTH112
                    folders.append((*parts, entry.name))
                elif notes.takes(entry.path, (*parts, entry.name)):
                    yield _Found(entry.path, notes.class_of(name))
        to_list += sorted(folders, reverse=True)


def _remote(source: Path, notes: ListingNotes) -> Iterator[_Found]:
    names, loose = list_top(source, notes)
    if not names:
        raise DatasetError(
            f"{source} has no folders: give a URL with a folder of images per class, of a .csv "
            "list, or of .zip or .tar archives"
        )
    check_remote_classes(source, names)
    for file in loose:
        notes.takes(file.path, (file.path.rpartition("/")[2],))
    for name in names:
        for file in list_below(source, name, notes):
            if notes.takes(file.path, parts_below(source, file.path)):
                yield _Found(file.path, notes.class_of(name), file.size, file.mtime_ns)


def _in_zip(
    source: Path, archive: Path, inner: tuple[str, ...], notes: ListingNotes
) -> Iterator[_Found]:
    _, size, changed = describe_file(archive)
    with open_zip(archive) as file:
        members = members_of(file, archive, inner, notes)
        check_size(archive, sum(member.file_size for member in members.values()), size)
    check_member_classes(source, members, inner)
    for parts, member in members.items():
        below = parts[len(inner) :]
        if not member.is_dir() and notes.takes(member.filename, below):
            label = notes.class_of(below[0])
            when = stamped(changed, member.CRC)
            yield _Found(member.filename, label, member.file_size, when)


def _files(shard: Shard, scratch: Path, known: Collection[str]) -> list[Fetched]:
    """Say of local files what they are, and fetch those behind URLs."""
    found = dict[int, Fetched]()
    wanted = [number for number, path in enumerate(shard.paths) if path not in known]
    urls = [number for number in wanted if is_url(shard.paths[number])]
    targets = [scratch / _name(number, shard.paths[number]) for number in urls]
    reasons = fetch_all([shard.paths[number] for number in urls], targets)
    for number, target, reason in zip(urls, targets, reasons, strict=True):
        size = UNKNOWN if reason else target.stat().st_size
        path = None if reason else target
        found[number] = _fetched(shard, number, path, size, shard.mtimes_ns[number], reason)
    for number in set(wanted) - found.keys():
        found[number] = _local_file(shard, number)
    return [found[number] for number in wanted]


def _fetched(
    shard: Shard, number: int, path: Path | None, size: int, mtime_ns: int, reason: str
) -> Fetched:
    name = shard.name_of(shard.paths[number])
    return Fetched(name, shard.labels[number], path, size, mtime_ns, reason)


def _local_file(shard: Shard, number: int) -> Fetched:
    path = to_path(shard.paths[number])
    try:
        now = path.stat()
        check_regular(now)
    except OSError as error:
        return _fetched(shard, number, None, UNKNOWN, UNKNOWN, error.strerror or str(error))
    size, mtime_ns, ctime_ns, inode = stamp_of(now)
    found = _fetched(shard, number, path, size, mtime_ns, "")
    return replace(found, ctime_ns=ctime_ns, inode=inode)


def _from_zip(shard: Shard, scratch: Path, known: Collection[str]) -> list[Fetched]:
    wanted = [number for number, name in enumerate(shard.names) if name not in known]
    if not wanted:  # then the archive need not be opened
        return []
    found = []
    with open_zip(to_path(shard.archive)) as file:
        for number in wanted:
            member, size = shard.paths[number], shard.sizes[number]
            target = scratch / _name(number, member)
            reason = unpack_member(file, member, size, target)
            path = None if reason else target
            found.append(_fetched(shard, number, path, size, shard.mtimes_ns[number], reason))
    return found


def _from_tar(
    shard: Shard, scratch: Path, known: Collection[str], notes: ListingNotes
) -> list[Fetched]:
    tar, numbers = to_path(shard.archive), count()
    changed = describe_file(tar).mtime_ns

    def put(*parts: str) -> Path | None:
        if f"{shard.archive}/{'/'.join(parts)}" in known:
            return None
        return scratch / _name(next(numbers), parts[-1])

    images, others = unpack_images(tar, put)
    notes.add(others)
    return [
        Fetched(
            f"{shard.archive}/{image.name}", image.label, image.path, image.size, changed,
            image.reason,
        )
        for image in images
        if image.path or image.reason
    ]  # fmt: skip


def _name(number: int, path: str) -> str:
    """Name a file in the scratch folder: what it is called elsewhere may not be possible there."""
    return f"{number}{Path(path).suffix.lower()}"
