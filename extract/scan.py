"""A folder with one subfolder per class, or a list → the images, by the hash of their bytes."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from unicodedata import normalize

from cache.errors import DatasetError
from cache.progress import Progress, silent
from cache.segments import Failure
from extract.archives import UNPACKED
from extract.decode import SUFFIXES
from extract.hashes import Hasher
from extract.lists import SUFFIX, Row, is_list, rows_of
from extract.places import place

SHOWN = 5  # files that can't be opened, named in remarks
PROGRESS_FILES = 500  # between two words about progress

_Found = tuple[str | None, str, None]  # as a Row of a list: class if any, path, SHA-256


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image: where it lies, its class, the SHA-256 of its bytes (32 bytes)."""

    path: Path
    label: str
    sha256: bytes


@dataclass(frozen=True)
class ImageSet:
    """The images of one folder or list. Files that are no images, or can't be opened, are told
    apart.

    folder: or the list. trouble: what was wrong with the table of hashes, if anything.
    """

    folder: Path
    files: tuple[ImageFile, ...]
    ignored: tuple[Path, ...]
    unopened: tuple[Failure, ...]
    trouble: str | None = None

    @property
    def name(self) -> str:
        """The last two parts of the path as the user named it: `dataset`, `gel/dataset`."""
        parts = [part for part in self.folder.parts if part not in ("..", self.folder.anchor)]
        for number, part in enumerate(parts):
            if part.endswith(UNPACKED):  # above it is a place of ours
                parts = parts[number + 1 :]
                parts[-1] = parts[-1].removesuffix(SUFFIX)  # the list of what was in an archive
                break
        return "/".join(parts[-2:]) or self.folder.resolve().name

    @cached_property
    def unique(self) -> tuple[ImageFile, ...]:
        """One file per image: copies once, images that lie in two classes left out."""
        conflicts = {file.sha256 for file in self.conflicts}
        first: dict[bytes, ImageFile] = {}
        for file in self.files:
            first.setdefault(file.sha256, file)
        return tuple(file for file in first.values() if file.sha256 not in conflicts)

    @cached_property
    def labels(self) -> dict[bytes, str]:
        """Class by SHA-256, of the `unique` images."""
        return {file.sha256: file.label for file in self.unique}

    @cached_property
    def conflicts(self) -> tuple[ImageFile, ...]:
        """The files whose very bytes lie in more than one class, so that no label is right."""
        classes: dict[bytes, set[str]] = {}
        for file in self.files:
            classes.setdefault(file.sha256, set()).add(file.label)
        return tuple(f for f in self.files if len(classes[f.sha256]) > 1)

    @property
    def remarks(self) -> list[str]:
        """What the user should know about this folder, a line each; empty where all is well."""
        lines = [self.trouble] if self.trouble else []
        if self.ignored:
            lines.append(
                f"{self.folder}: {len(self.ignored)} file(s) ignored, being no image of a class, "
                f"such as {self.ignored[0]}"
            )
        lines += [f"{f.path} can't be opened: {f.reason}" for f in self.unopened[:SHOWN]]
        if self.conflicts:
            names = ", ".join(str(f.path) for f in self.conflicts[:4])
            lines.append(
                f"{self.folder}: {len(self.conflicts)} files left out, the same image lying in two "
                f"classes ({names}): keep each in one class"
            )
        if duplicates := len(self.files) - len(self.conflicts) - len(self.unique):
            lines.append(
                f"{self.folder}: {duplicates} file(s) are exact copies of another: counted once"
            )
        return lines

    def at_most(self, per_class: int, seed: int = 0) -> "ImageSet":
        """Return a set of so many of the `unique` images of each class; of all where it has fewer.

        Which ones depends on their content and the seed only. With a larger per_class they are
        among those chosen.
        """

        def drawn(file: ImageFile) -> bytes:
            return hashlib.sha256(f"{seed}:".encode() + file.sha256).digest()

        of_class: dict[str, list[ImageFile]] = {}
        for file in sorted(self.unique, key=drawn):
            of_class.setdefault(file.label, []).append(file)
        chosen = {file.sha256 for files in of_class.values() for file in files[:per_class]}
        return replace(self, files=tuple(f for f in self.unique if f.sha256 in chosen))


def scan(folder: Path, progress: Progress = silent, table: Path | None = None) -> ImageSet:
    """List and hash the images in `folder/<class>/**`, or those that a `.csv` file lists.

    Hidden files in a folder are not looked at. For lists, see `extract/lists.py`; an image whose
    SHA-256 a list says is believed to be there, and is neither opened nor looked at. table: where
    hashes are remembered (`extract/hashes.py`), so that only files whose path, size or time of
    change is new are read. progress counts files.

    Raises:
        DatasetError: the folder or list is missing, has no class, or a class has no image.
        OSError: the list can't be read.
    """
    unopened: list[Failure] = []
    listed = is_list(folder)
    if listed:
        count, classes = _counted(folder)
        rows: Iterable[Row | _Found] = rows_of(folder)
    else:
        classes = {class_name(name) for name in class_folders(folder)}
        rows = list(_walk(folder, unopened))
        count = len(rows)
    files, ignored, labels = [], [], dict[str | None, str | None]()
    with Hasher(None if listed else folder, table) as hasher:
        for done, (raw, path, sha256) in enumerate(rows, start=1):
            if done % PROGRESS_FILES == 0 or done == count:
                progress(done, count)
            label = labels.setdefault(raw, raw and class_name(raw))  # one string for all of a class
            if label is None or not path.lower().endswith(SUFFIXES):
                ignored.append(Path(path))
                continue
            try:
                files.append(ImageFile(place(path), label, sha256 or hasher.sha256(path)))
            except OSError as error:
                unopened.append(_unopened(path, error))
    if empty := sorted(classes - {file.label for file in files}):
        raise DatasetError(
            f"{folder}: no readable image file in class(es) {', '.join(empty)}: add images or "
            "remove the class"
        )
    return ImageSet(folder, tuple(files), tuple(ignored), tuple(unopened), hasher.trouble)


def _counted(path: Path) -> tuple[int, set[str]]:
    """Return how many images a list has, and their classes."""
    count, classes = 0, set[str]()
    for row in rows_of(path):
        count += 1
        classes.add(row.label)
    return count, {class_name(name) for name in classes}


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders of classes, as they are spelt there, sorted.

    Raises DatasetError: it is no folder, or has none.
    """
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is not a folder: give one with a subfolder of images per class, a .csv list "
            "of images, or a .zip or .tar archive"
        )
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise DatasetError(
            f"{folder} has no subfolders: put the images of each class into a folder of its own, "
            f"such as {folder / 'gel'} and {folder / 'not_gel'}"
        )
    return classes


def _walk(folder: Path, unopened: list[Failure]) -> Iterator[_Found]:
    """Yield every visible file and its class, sorted; None where it lies in no class folder.

    Links are followed, but no folder is entered twice. Paths are strings: with 100,000 files, that
    is much faster.
    """

    def remember(error: OSError) -> None:
        unopened.append(_unopened(error.filename, error))

    entered = set()
    for parent, folders, names in os.walk(folder, onerror=remember, followlinks=True):
        real = os.path.realpath(parent)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = Path(parent).relative_to(folder).parts
        label = inner[0] if inner else None
        for name in sorted(names):
            if not name.startswith("."):
                yield label, os.path.join(parent, name), None  # noqa: PTH118


def class_name(name: str) -> str:
    """Name a class in one Unicode form: macOS decomposes accents, others do not."""
    return normalize("NFC", name)


def _unopened(path: str, error: OSError) -> Failure:
    return Failure(b"", path, error.strerror or str(error))
