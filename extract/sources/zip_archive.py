"""Images in archives: the folder that a path means, in a zip archive or elsewhere, made once."""

import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from errno import EINVAL
from hashlib import sha256
from pathlib import Path, PureWindowsPath
from uuid import uuid4

from cache.errors import DatasetError
from cache.locks import sharing
from cache.progress import Progress
from extract.sources.class_names import check_class_names, class_name
from extract.sources.file_names import ListingNotes, is_image, maker_among, unsupported_suffix
from extract.sources.image_file import is_remote
from extract.sources.url import describe_file, is_file, open_file

SUFFIX = ".zip"
SHOWN = 10  # names in an error
PROGRESS_FILES = 500  # between two words about progress
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1  # of a member's flags (APPNOTE.TXT 4.4.4)
# Images hardly shrink, and blank ones by less than deflate's limit, 1032 (zlib's documentation).
# What is small does no harm at any ratio.
LARGEST_RATIO, HARMLESS_BYTES = 200, 10**9
# What zipfile raises on damaged archives; ValueError: on names that are no text, too.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, struct.error)
LINK = "is a link, which is not followed: pack what it leads to"
NOTES = "remarks.txt"  # beside what was unpacked: what was left out, a line each


def split_zip_path(path: Path) -> tuple[Path, tuple[str, ...]] | None:
    """Return the zip archive that a path goes through, and the path inside it; None if none.

    A folder may be called `x.zip` too. Raises DatasetError: a URL can't be asked.
    """
    for outer in (*reversed(path.parents), path):
        if outer.suffix.lower() == SUFFIX and is_file(outer):
            return outer, path.parts[len(outer.parts) :]
    return None


def unpack_zip(
    path: Path,
    archive: Path,
    inner: tuple[str, ...],
    whole: Path,
    progress: Progress,
    report: Callable[[str], None] | None,
) -> Path:
    """Return `inner`, a folder of an archive, unpacked into `whole` unless that was done before."""
    folder = Path(whole, archive.stem, *inner)
    if whole.is_dir():
        report_notes(whole, report)
        return folder
    with open_zip(archive) as file:
        notes = ListingNotes()
        members = members_of(file, archive, inner, notes)
        images = {p: m for p, m in members.items() if m.is_dir() or notes.takes_name(m.filename)}
        # A class of which nothing can be read is an error, as in folders, not a class less.
        unread = {p[:-1] for p, m in members.items() if unsupported_suffix(m.filename)}
        size = sum(member.file_size for member in images.values())
        check_size(archive, size, describe_file(archive).size)
        check_room(archive, size, whole.parent)
        check_member_classes(path, members, inner)
        with creating_folder(whole) as temporary:
            _unpack(file, archive, images, temporary, progress)
            for parts in unread:
                Path(temporary, archive.stem, *parts).mkdir(parents=True, exist_ok=True)
            write_notes(temporary, notes.remarks(path))
    report_notes(whole, report)
    return folder


def write_notes(whole: Path, remarks: Sequence[str]) -> None:
    """Write what was left out beside what is unpacked, if anything was. Raises OSError."""
    if remarks:
        lines = (" ".join(remark.splitlines()) for remark in remarks)
        (whole / NOTES).write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")


def report_notes(whole: Path, report: Callable[[str], None] | None) -> None:
    """Say what was left out, each time that it is used. Raises OSError."""
    path = whole / NOTES
    if report and path.is_file():
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        for remark in text.splitlines():
            report(remark)


@contextmanager
def open_zip(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive, here or behind a URL.

    Raises:
        DatasetError: it is none or is damaged, which may show while it is used.
        OSError: it can't be read.
    """
    with open_file(archive) as content:
        try:
            with zipfile.ZipFile(content) as file:
                yield file
        except (*DAMAGED, OSError) as error:
            if isinstance(error, OSError) and error.errno != EINVAL:  # that is a seek to nowhere
                raise
            raise DatasetError(
                f"{archive} is no zip archive or is damaged ({error}): copy or download it again"
            ) from None


def version(archives: Sequence[Path], inner: tuple[str, ...]) -> str:
    """Name archives as they are now: by path, size and time (see `url.describe_file`).

    A local zip archive also by its members' names, sizes and CRCs.
    """
    states = [_state(path) for path in archives]
    return _hash((*states[0], inner) if len(states) == 1 else (states, inner))[:8]


def _state(archive: Path) -> tuple[str | int, ...]:
    path, size, mtime_ns = describe_file(archive)
    if is_remote(archive):
        return path, size, mtime_ns
    path = str(archive.resolve())
    if archive.suffix.lower() != SUFFIX:
        return path, size, mtime_ns
    with open_zip(archive) as file:
        members = [(member.filename, member.file_size, member.CRC) for member in file.infolist()]
    return path, size, mtime_ns, _hash(members)


def _hash(value: object) -> str:
    return sha256(repr(value).encode("utf-8", "surrogateescape")).hexdigest()


def members_of(
    file: zipfile.ZipFile, archive: Path, inner: tuple[str, ...], notes: ListingNotes
) -> dict[tuple[str, ...], zipfile.ZipInfo]:
    """Return what users put into a folder of an archive, by the parts of its path in the archive.

    Args:
        file: The open archive.
        archive: Its path.
        inner: The folder in it.
        notes: Count what is machine-made.

    Raises:
        DatasetError: there is no image, or something that must not be unpacked.
    """
    found: dict[tuple[str, ...], zipfile.ZipInfo] = {}
    top = set[str]()
    for member in file.infolist():
        name, parts = parts_of(member.filename)
        top.update(parts[:1])
        below = parts[len(inner) :]
        if parts[: len(inner)] != inner or not below:
            continue
        if fault := _fault(member, name, parts):
            raise DatasetError(f"{archive}: {member.filename} {fault}")
        if maker := maker_among(below):
            notes.machine_made[maker] += not member.is_dir()
            continue
        if parts in found:
            raise DatasetError(
                f"{archive}: {member.filename} is in it twice: pack the images again, each once"
            )
        found[parts] = member
    if not any(is_image(member.filename) for member in found.values()):
        inside = f"folder {'/'.join(inner)} with images" if inner else "images"
        at_top = ", ".join(sorted(top)[:SHOWN]) or "nothing"
        left_out = [member.filename for member in found.values() if not member.is_dir()]
        for filename in left_out:
            notes.takes_name(filename)
        text = f"{archive} has no {inside} in it: at its top there is {at_top}"
        raise DatasetError(text, *notes.remarks(archive))
    return found


def parts_of(filename: str) -> tuple[str, tuple[str, ...]]:
    """Return a member's name and its parts, with separators as they should be."""
    name = filename.replace("\\", "/")  # as some programs on Windows write it
    return name, tuple(part for part in name.split("/") if part not in ("", "."))


def check_member_classes(
    path: Path, members: Mapping[tuple[str, ...], zipfile.ZipInfo], inner: tuple[str, ...]
) -> None:
    """Make sure of the names of classes before anything is unpacked. Raises DatasetError."""

    def images_of(label: str) -> tuple[int, str]:
        found = [m.filename for p, m in images.items() if class_name(p[len(inner)]) == label]
        return len(found), found[0]

    images = {p: m for p, m in members.items() if len(p) > len(inner) + 1 and is_image(m.filename)}
    check_class_names(path, {class_name(parts[len(inner)]) for parts in images}, images_of)


def leads_out(name: str, parts: tuple[str, ...]) -> str | None:
    """Say why a member must not be unpacked where its name says; None if it may be."""
    if name.startswith("/") or ".." in parts or any(PureWindowsPath(p).drive for p in parts):
        return "would be unpacked elsewhere: don't trust this archive, or pack the images again"
    return None


def _fault(member: zipfile.ZipInfo, name: str, parts: tuple[str, ...]) -> str | None:
    """Say why a member must not be unpacked and what to do; None if it may be."""
    if stat.S_ISLNK(member.external_attr >> 16):
        return LINK
    if member.flag_bits & ENCRYPTED:
        return "is encrypted: unpack it yourself and name the folder"
    if member.compress_type not in METHODS:
        return "is compressed in a way not known here: unpack it yourself and name the folder"
    return leads_out(name, parts)


def check_size(archive: Path, size: int, packed: int) -> None:
    """Refuse what can't be images, in bytes. zipfile gives no more bytes than are stated."""
    if size > HARMLESS_BYTES and size > LARGEST_RATIO * packed:
        raise DatasetError(
            f"{archive} has {packed:,} bytes and would become {size:,}: images don't, so it is not "
            "unpacked; if you trust it, unpack it yourself and name the folder"
        )


def check_room(what: Path, size: int, root: Path) -> None:
    """Refuse what has no room, in bytes. Raises DatasetError, OSError."""
    root.mkdir(parents=True, exist_ok=True)
    if size > (free := shutil.disk_usage(root).free):
        raise DatasetError(
            f"{what} needs {size:,} bytes in {root}, where {free:,} are free: make room, or "
            "choose another --workspace"
        )


@contextmanager
def creating_folder(whole: Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `whole` when it is complete; else it is removed."""
    with sharing(whole.parent):
        temporary = whole.parent / f".{uuid4().hex}.tmp"
        try:
            yield temporary
            if not whole.exists():  # else another process was faster, with the same
                _rename(temporary, whole)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _unpack(
    file: zipfile.ZipFile,
    archive: Path,
    members: dict[tuple[str, ...], zipfile.ZipInfo],
    folder: Path,
    progress: Progress,
) -> None:
    made = set[Path]()
    for done, (parts, member) in enumerate(members.items(), start=1):
        _put(file, archive, member, Path(folder, archive.stem, *parts), made)
        if done % PROGRESS_FILES == 0 or done == len(members):
            progress(done, len(members))


def _put(
    file: zipfile.ZipFile, archive: Path, member: zipfile.ZipInfo, target: Path, made: set[Path]
) -> None:
    """Unpack one member.

    Args:
        made: Folders that exist already.
    """
    with checking_names(archive, member.filename):
        folder = target if member.is_dir() else target.parent
        if folder not in made:
            folder.mkdir(parents=True, exist_ok=True)
            made.add(folder)
        if not member.is_dir():
            with file.open(member) as source, target.open("xb") as copy:
                shutil.copyfileobj(source, copy)


def unpack_member(file: zipfile.ZipFile, name: str, size: int, target: Path) -> str:
    """Unpack one member of so many bytes to a file, and return why that can't be; "" if it is done.

    Raises OSError: the disk is full, or the archive can't be read.
    """
    try:
        member = file.getinfo(name)
        if fault := _fault(member, *parts_of(name)):
            return fault
        if member.file_size != size:
            return "has changed since it was listed"
        with file.open(member) as source, target.open("xb") as copy:
            shutil.copyfileobj(source, copy)
    except KeyError:
        return "is gone since it was listed"
    except DAMAGED as error:
        target.unlink(missing_ok=True)
        return f"is damaged ({error})"
    return ""


@contextmanager
def checking_names(archive: object, name: str) -> Iterator[None]:
    """Make a DatasetError of two names that are one in this machine's file system."""
    try:
        yield
    except (FileExistsError, NotADirectoryError):  # as the file system spells names
        raise DatasetError(
            f"{archive}: {name} has a name that is taken in it: pack the images again, "
            "under names that differ by more than upper and lower case"
        ) from None


def _rename(temporary: Path, whole: Path) -> None:
    try:
        os.replace(temporary, whole)  # noqa: PTH105
    except OSError:
        if not whole.is_dir():  # else another process was faster by a moment
            raise
