"""Images in tar archives, as WebDataset writes them (Aizman et al. 2019) or with class folders.

Files with the same key are one sample. The key is the path up to the first dot of the file's name.
The image is the file with an image's suffix. Its class is said by the sample's `.cls` (text), else
by "label" or "class" in its `.json`, else by the folder that it lies in.
"""

import lzma
import shutil
import tarfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Self

from cache.errors import DatasetError
from cache.progress import Progress, silent
from cache.records import parse_json
from extract.sources.class_names import check_class_names, class_name
from extract.sources.file_names import ListingNotes, is_image, machine_made, maker_among
from extract.sources.image_file import UNPACKED, is_remote
from extract.sources.url import describe_file, is_file, list_top, open_file
from extract.sources.zip_archive import (
    LINK,
    PROGRESS_FILES,
    SHOWN,
    check_room,
    check_size,
    checking_names,
    creating_folder,
    leads_out,
    parts_of,
    report_notes,
    version,
    write_notes,
)

SUFFIXES = (".tar", ".tar.gz", ".tgz")
LABELS = (".cls", ".json")  # what says the class, the first comes first
KEYS = ("label", "class")  # in a .json
LARGEST_LABEL = 2**20  # bytes of a .cls or .json that is read
REST_BYTES = 2**20  # of an archive's end, read at once
# What tarfile raises on damaged archives; ValueError: on numbers that are none, too.
DAMAGED = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError)
DAMAGE = "is no tar archive or is damaged"


@dataclass(frozen=True)
class TarImage:
    """An image of a tar archive.

    Attributes:
        name: Of the member.
        label: Its class.
        path: Where it is now; None: it was left out, as asked, or its class is not known.
        size: Bytes.
        reason: Why its class is not known.
    """

    name: str
    label: str
    path: Path | None
    size: int
    reason: str = ""


def find_tars(path: Path) -> list[Path]:
    """Return the tar archives that a path means: itself, or all in a folder of them, sorted.

    A folder with folders in it is one of classes. Raises DatasetError, OSError: it can't be listed.
    """
    if path.name.lower().endswith(SUFFIXES) and is_file(path):
        return [path]
    folders, files = _top(path)
    return [] if folders else sorted(f for f in files if f.name.lower().endswith(SUFFIXES))


def unpack_tars(
    path: Path,
    tars: Sequence[Path],
    root: Path,
    progress: Progress,
    report: Callable[[str], None] | None,
) -> Path:
    """Return a list of the images in tar archives, which are unpacked below `root`, once.

    For the rest, see `archives.unpacked`. What says the class in a sample is no file that is left
    out.
    """
    from extract.sources.csv_manifest import SUFFIX, Row, write_rows

    known = [describe_file(tar).size for tar in tars]
    whole, name = root / (version(tars, ()) + UNPACKED), _stem(path)
    listed = name + SUFFIX
    if (whole / listed).is_file():
        report_notes(whole, report)
        return whole / listed
    check_room(path, sum(known), root)
    images, notes = list[TarImage](), ListingNotes()
    with creating_folder(whole) as temporary:
        for number, tar in enumerate(tars):
            folder = Path(temporary, name, *([_stem(tar)] if tar != path else []))
            of_one = _estimating(progress, len(images), sum(known[:number]), sum(known))
            found, more = unpack_images(tar, folder.joinpath, of_one)
            images += [replace(image, name=f"{tar}/{image.name}") for image in found]
            notes.add(more)
        check_class_names(path, {i.label for i in images if i.path}, partial(_images_of, images))
        remarks = [*_left_out(path, images), *notes.remarks(path)]
        usable = [(i.label, i.path.relative_to(temporary)) for i in images if i.path]
        if not usable:
            why = f": {images[0].name}: {images[0].reason}" if images else ""
            text = f"{path} has no image with a class in it{why}"
            raise DatasetError(text, *notes.remarks(path))
        progress(len(images), len(images))
        write_rows(temporary / listed, (Row(label, at.as_posix(), None) for label, at in usable))
        write_notes(temporary, remarks)
    report_notes(whole, report)
    return whole / listed


def _images_of(images: Sequence[TarImage], label: str) -> tuple[int, str]:
    """Return how many images a class has, and the first one's name."""
    found = [image.name for image in images if image.path and image.label == label]
    return len(found), found[0]


def _estimating(progress: Progress, done: int, read: int, total: int) -> Progress:
    """Report the progress of one of several archives. Images are assumed to be alike in size.

    Args:
        progress: Of all archives.
        done: Images of the archives before.
        read: Bytes of the archives before.
        total: Bytes of all.
    """

    def of_one(more: int, more_read: int) -> None:
        seen = done + more
        progress(seen, max(seen, round(seen * total / max(read + more_read, 1))))

    return of_one


def unpack_images(
    tar: Path,
    put: Callable[..., Path | None],
    progress: Progress = silent,
) -> tuple[list[TarImage], ListingNotes]:
    """Unpack the images of a tar archive.

    An image without a class, and images that share one `.cls` or `.json` and so may be anything,
    have a reason and no path.

    Args:
        tar: The archive.
        put: Parts of a member's name → where it is to go; None: nowhere.
        progress: Receives images, and bytes read of the archive.

    Returns:
        The images in its order, and what is left out.

    Raises:
        DatasetError: it is damaged or dangerous, or cannot be fetched from its URL.
        OSError: it cannot be read, or the disk is full.
    """
    images: dict[tuple[str, ...], TarImage] = {}
    texts: dict[str, dict[str, bytes]] = defaultdict(dict)
    notes = ListingNotes()
    with open_file(tar) as file, _members(tar, file, notes) as members:
        for archive, member, parts in members:
            if is_image(member.name):
                if parts in images:
                    raise DatasetError(
                        f"{tar}: {member.name} is in it twice: pack the images again, each once"
                    )
                target = put(*parts)
                if target:
                    _put(tar, archive, member, target)
                images[parts] = TarImage("/".join(parts), "", target, member.size)
                if len(images) % PROGRESS_FILES == 0:
                    progress(len(images), file.tell())
            elif member.name.endswith(LABELS) and member.size <= LARGEST_LABEL:
                source = archive.extractfile(member)
                texts[_key(parts)][Path(parts[-1]).suffix] = source.read() if source else b""
            else:
                notes.takes_name(member.name)
    shared = Counter(_key(parts) for parts in images)
    found = [
        _labelled(image, parts, texts.get(_key(parts), {}), shared[_key(parts)])
        for parts, image in images.items()
    ]
    return found, notes


@contextmanager
def _members(
    tar: Path, file: BinaryIO, notes: ListingNotes
) -> Iterator[Iterator[tuple[tarfile.TarFile, tarfile.TarInfo, tuple[str, ...]]]]:
    """Yield the files that users put into an archive, with the parts of their names.

    Raises:
        DatasetError: it is damaged or dangerous, which may show while it is used.
    """
    packed = describe_file(tar).size

    def safe(
        archive: tarfile.TarFile,
    ) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo, tuple[str, ...]]]:
        size = 0
        for member in archive:
            size += member.size
            check_size(tar, size, packed)
            name, parts = parts_of(member.name)
            if member.isdir():
                continue
            if fault := _fault(member, name, parts):
                raise DatasetError(f"{tar}: {member.name} {fault}")
            if maker := maker_among(parts):
                notes.machine_made[maker] += 1
            else:
                yield archive, member, parts
        _check_rest(archive)

    try:
        with tarfile.open(fileobj=file, mode="r:*", tarinfo=_Strict) as archive:
            yield safe(archive)
    except (*DAMAGED, OSError) as error:
        # gzip's own complaint has no number, that of a disk has.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DatasetError(f"{tar} {DAMAGE} ({error}): copy or download it again") from None


def _check_rest(archive: tarfile.TarFile) -> None:
    """Make sure that zeros alone follow the end of an archive, where tarfile stops.

    At its very end gzip holds what came out against its checksum. Raises tarfile.ReadError.
    """
    while archive.fileobj and (rest := archive.fileobj.read(REST_BYTES)):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("more follows its end, as where archives were joined")


class _Strict(tarfile.TarInfo):
    """A header as tarfile reads it. Where there is none, it would end the archive quietly."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """See the class. Raises tarfile.ReadError."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise
            raise tarfile.ReadError(f"{error} at byte {tarfile_.offset}") from None


def _fault(member: tarfile.TarInfo, name: str, parts: tuple[str, ...]) -> str | None:
    """Say why a member must not be unpacked and what to do; None if it may be."""
    if member.issym() or member.islnk():
        return LINK
    if not member.isreg() or member.issparse():
        return "is no ordinary file: pack the images alone"
    return leads_out(name, parts)


def _put(tar: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    with checking_names(tar, member.name):
        target.parent.mkdir(parents=True, exist_ok=True)
        source = archive.extractfile(member)
        if source is None:
            raise tarfile.ReadError(f"{member.name} has no content")
        with source, target.open("xb") as copy:
            shutil.copyfileobj(source, copy)


def _key(parts: tuple[str, ...]) -> str:
    return "/".join((*parts[:-1], parts[-1].partition(".")[0]))


def _labelled(
    image: TarImage, parts: tuple[str, ...], texts: dict[str, bytes], images: int
) -> TarImage:
    """Give an image its class, or the reason why it has none.

    Args:
        images: Number in its sample.
    """
    try:
        label = _said(texts)
    except ValueError as error:
        return _without(image, f"the file that names its class cannot be read ({error}). Fix it.")
    if label and images > 1:
        return _without(image, f"is one of {images} images of a sample with one class: keep one")
    if label is None and len(parts) > 1:
        label = parts[-2]
    if not label or not class_name(label):
        return _without(image, 'no class: add a .cls, a .json with "label", or put it in a folder')
    return replace(image, label=class_name(label))


def _without(image: TarImage, reason: str) -> TarImage:
    if image.path:
        image.path.unlink()
    return replace(image, path=None, reason=reason)


def _said(texts: dict[str, bytes]) -> str | None:
    """Return the class that the files of a sample say. Raises ValueError: it can't be read."""
    if ".cls" in texts:
        return texts[".cls"].decode("utf-8-sig").strip()
    if ".json" in texts:
        content = parse_json(texts[".json"], Any)
        for key in KEYS:
            value = content.get(key) if isinstance(content, dict) else None
            if isinstance(value, str) or type(value) is int:
                return str(value).strip()
            if value is not None:
                raise ValueError(f'"{key}" is no text')
    return None


def _top(path: Path) -> tuple[list[str], list[Path]]:
    """Return what is visible at the top of a folder: its folders' names, and its files."""
    if is_remote(path):
        folders, listed = list_top(path)
        return folders, [path / file.path.rpartition("/")[2] for file in listed]
    if not path.is_dir():
        return [], []
    visible = [entry for entry in path.iterdir() if not machine_made(entry.name)]
    return [e.name for e in visible if e.is_dir()], [e for e in visible if not e.is_dir()]


def _stem(path: Path) -> str:
    """Return the name of an archive without what says that it is one; of a folder, its name."""
    name = path.name or path.parts[-1].strip("/")
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name or "tars"


def _left_out(path: Path, images: Sequence[TarImage]) -> list[str]:
    """Say which images have no class."""
    left_out = [image for image in images if image.reason]
    if not left_out:
        return []
    lines = [f"{path}: {len(left_out)} image(s) left out"]
    return lines + [f"{image.name}: {image.reason}" for image in left_out[:SHOWN]]
