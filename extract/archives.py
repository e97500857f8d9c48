"""Images in zip archives: the folder that a path through an archive means, unpacked once."""

import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from errno import EINVAL
from hashlib import sha256
from pathlib import Path, PureWindowsPath
from uuid import uuid4

from cache.errors import DatasetError
from cache.progress import Progress, silent
from cache.sharing import sharing
from extract.decode import SUFFIXES

SUFFIX = ".zip"
UNPACKED = ".unpacked"  # ends the name of the folder that one archive, or a part of it, is in
SHOWN = 10  # names in an error
PROGRESS_FILES = 500  # between two words about progress
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1  # of a member's flags (APPNOTE.TXT 4.4.4)
# Images hardly shrink, and blank ones by less than deflate's limit, 1032 (zlib's documentation).
# What is small does no harm at any ratio.
LARGEST_RATIO, HARMLESS_BYTES = 200, 10**9
# What zipfile raises on damaged archives; ValueError: on names that are no text, too.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, struct.error)
LITTER = "__MACOSX"  # what macOS adds to archives: resource forks, named as images are


def unpacked(
    path: Path,
    root: Path,
    progress: Progress = silent,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Return the folder that a path means: itself, or one inside a zip archive, unpacked.

    `gels.zip/train` is the folder `train` in the archive `gels.zip`, `gels.zip` all of it. It is
    unpacked into a folder of its own below `root`, whole or not at all, unless it is there for the
    archive as it is now. Images alone are unpacked; other files are counted, and told when that is
    done. Hidden files are left out. progress counts files.

    Raises:
        DatasetError: the archive is damaged, encrypted or dangerous, or has no such folder.
        OSError: it can't be read, or the disk is full.
    """
    found = _archive(path)
    if found is None:
        return path
    archive, inner = found
    whole = root / (_version(archive, inner) + UNPACKED)
    folder = Path(whole, archive.stem, *inner)
    if whole.is_dir():
        return folder
    try:
        with zipfile.ZipFile(archive) as file:
            members = _members(file, archive, inner)
            images = {p: m for p, m in members.items() if m.is_dir() or _is_image(m.filename)}
            _check_size(archive, list(images.values()), root)
            _unpack(file, archive, images, whole, progress)
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != EINVAL:  # that is a seek to nowhere
            raise
        raise DatasetError(
            f"{archive} is no zip archive or is damaged ({error}): copy or download it again"
        ) from None
    if tell and (others := [m.filename for p, m in members.items() if p not in images]):
        tell(f"{path}: {len(others)} file(s) ignored, being no image, such as {others[0]}")
    return folder


def _archive(path: Path) -> tuple[Path, tuple[str, ...]] | None:
    """Return the archive that a path goes through, and the path inside it; None if there is none.

    A folder may be called `x.zip` too.
    """
    for outer in (*reversed(path.parents), path):
        if outer.suffix.lower() == SUFFIX and outer.is_file():
            return outer, path.relative_to(outer).parts
    return None


def _version(archive: Path, inner: tuple[str, ...]) -> str:
    """Name an archive as it is now, as the table of hashes knows files: by place, size, time."""
    now = archive.stat()
    identity = (str(archive.resolve()), now.st_size, now.st_mtime_ns, inner)
    return sha256(repr(identity).encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _members(
    file: zipfile.ZipFile, archive: Path, inner: tuple[str, ...]
) -> dict[tuple[str, ...], zipfile.ZipInfo]:
    """Return what is visible in a folder of an archive, by the parts of its path in the archive.

    Raises:
        DatasetError: there is no image, or something that must not be unpacked.
    """
    found: dict[tuple[str, ...], zipfile.ZipInfo] = {}
    top = set[str]()
    for member in file.infolist():
        name = member.filename.replace("\\", "/")  # as some programs on Windows write it
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        top.update(parts[:1])
        below = parts[len(inner) :]
        if parts[: len(inner)] != inner or not below:
            continue
        if fault := _fault(member, name, parts):
            raise DatasetError(f"{archive}: {member.filename} {fault}")
        if parts[0] == LITTER or any(part.startswith(".") for part in below):
            continue
        if parts in found:
            raise DatasetError(
                f"{archive}: {member.filename} is there twice: pack the images anew, each once"
            )
        found[parts] = member
    if not any(_is_image(member.filename) for member in found.values()):
        inside = f"folder {'/'.join(inner)} with images" if inner else "images"
        there = ", ".join(sorted(top)[:SHOWN]) or "nothing"
        raise DatasetError(f"{archive} has no {inside} in it: at its top there is {there}")
    return found


def _fault(member: zipfile.ZipInfo, name: str, parts: tuple[str, ...]) -> str | None:
    """Say why a member must not be unpacked and what to do; None if it may be."""
    if name.startswith("/") or ".." in parts or any(PureWindowsPath(p).drive for p in parts):
        return "would be unpacked elsewhere: don't trust this archive, or pack the images anew"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link, which is not followed: pack what it leads to"
    if member.flag_bits & ENCRYPTED:
        return "is encrypted: unpack it yourself and name the folder"
    if member.compress_type not in METHODS:
        return "is compressed in a way not known here: unpack it yourself and name the folder"
    return None


def _check_size(archive: Path, members: list[zipfile.ZipInfo], root: Path) -> None:
    """Refuse what can't be images, or has no room. zipfile gives no more bytes than are stated."""
    size, packed = sum(member.file_size for member in members), archive.stat().st_size
    if size > HARMLESS_BYTES and size > LARGEST_RATIO * packed:
        raise DatasetError(
            f"{archive} has {packed:,} bytes and would become {size:,}: images don't, so it is not "
            "unpacked; if you trust it, unpack it yourself and name the folder"
        )
    root.mkdir(parents=True, exist_ok=True)
    if size > (free := shutil.disk_usage(root).free):
        raise DatasetError(
            f"{archive} needs {size:,} bytes in {root}, where {free:,} are free: make room, or "
            "choose another --workspace"
        )


def _unpack(
    file: zipfile.ZipFile,
    archive: Path,
    members: dict[tuple[str, ...], zipfile.ZipInfo],
    whole: Path,
    progress: Progress,
) -> None:
    """Unpack members into a folder, which appears when they are all there."""
    with sharing(whole.parent):
        temporary = whole.parent / f".{uuid4().hex}.tmp"
        made = set[Path]()
        try:
            for done, (parts, member) in enumerate(members.items(), start=1):
                target = Path(temporary, archive.stem, *parts)
                _put(file, archive, member, target, made)
                if done % PROGRESS_FILES == 0 or done == len(members):
                    progress(done, len(members))
            if not whole.exists():  # else another process was faster, with the same
                _rename(temporary, whole)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _put(
    file: zipfile.ZipFile, archive: Path, member: zipfile.ZipInfo, target: Path, made: set[Path]
) -> None:
    """Unpack one member. made: the folders that are there."""
    folder = target if member.is_dir() else target.parent
    try:
        if folder not in made:
            folder.mkdir(parents=True, exist_ok=True)
            made.add(folder)
        if not member.is_dir():
            with file.open(member) as source, target.open("xb") as copy:
                shutil.copyfileobj(source, copy)
    except (FileExistsError, NotADirectoryError):  # as the file system spells names
        raise DatasetError(
            f"{archive}: {member.filename} has a name that is taken in it: pack the images anew, "
            "under names that differ by more than upper and lower case"
        ) from None


def _rename(temporary: Path, whole: Path) -> None:
    try:
        os.replace(temporary, whole)  # noqa: PTH105
    except OSError:
        if not whole.is_dir():  # else another process was faster by a moment
            raise


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)
