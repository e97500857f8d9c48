"""A folder with one subfolder per class, or a list → the images, by the hash of their bytes."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

from cache.errors import DatasetError, Failure
from cache.progress import Progress, silent
from extract.sources.class_names import check_class_names, class_name
from extract.sources.csv_manifest import (
    SUFFIX,
    as_windows_text,
    check_listed_classes,
    is_list,
    list_remarks,
    listed_rows,
    rows_of,
)
from extract.sources.file_names import ListingNotes, machine_made, unsupported_suffix
from extract.sources.hash_index import HashIndex
from extract.sources.image_file import ImageFile
from extract.sources.location import is_url, place
from extract.sources.zip_archive import UNPACKED

OTHER_HASH = "its SHA-256 is not the one that the list gives"
SHOWN = 5  # files that can't be opened, named in remarks
PROGRESS_FILES = 500  # between two words about progress


class _Found(NamedTuple):
    """A file that was listed. label: its class as it is written. line, given: of a list."""

    label: str
    path: str
    is_image: bool
    sha256: bytes | None = None
    line: int = 0
    given: str = ""


@dataclass(frozen=True)
class ImageSet:
    """The images of one folder or list. Files that are no images, or can't be opened, are kept
    separately.

    folder: or the list. trouble: what was wrong with the table of hashes, if anything. notes: what
    was left out or changed, a line each. source: what the user named, if the images were unpacked
    or fetched from there.
    """

    folder: Path
    files: tuple[ImageFile, ...]
    ignored: tuple[Path, ...]
    unopened: tuple[Failure, ...]
    trouble: str | None = None
    notes: tuple[str, ...] = ()
    source: Path | None = None

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
        """The files whose exact bytes are in more than one class, so that no label is right."""
        classes: dict[bytes, set[str]] = {}
        for file in self.files:
            classes.setdefault(file.sha256, set()).add(file.label)
        return tuple(f for f in self.files if len(classes[f.sha256]) > 1)

    @property
    def remarks(self) -> list[str]:
        """What the user should know about this folder, a line each; empty where all is well."""
        lines = [self.trouble] if self.trouble else []
        lines += self.notes
        lines += [f"{f.path} can't be opened: {f.reason}" for f in self.unopened[:SHOWN]]
        if more := len(self.unopened[SHOWN:]):
            lines.append(f"{self.folder}: {more:,} more can't be opened")
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


def scan(  # noqa: C901
    folder: Path, progress: Progress = silent, table: Path | None = None, rehash: bool = False
) -> ImageSet:
    """List and hash the images in `folder/<class>/**`, or those that a `.csv` file lists.

    Machine-made files and folders (`extract/sources/file_names.py`) are left out. For lists, see
    `extract/sources/csv_manifest.py`; an image whose SHA-256 a list says is believed to be there,
    and is neither opened nor looked at. table: where hashes are remembered
    (`extract/sources/hash_index.py`), so that only new and changed files are read. rehash:
    read every file, also those whose SHA-256 a list says; a file with another one can't be opened.
    progress counts files.

    Raises:
        DatasetError: the folder or list is missing, has no class, or a class has no image; names of
            classes can't be those of one set; or most files of a list do not exist.
        OSError: the list can't be read.
    """
    notes, unopened, problems = ListingNotes(), list[Failure](), dict[str, str]()
    listed = is_list(folder)
    if listed:
        check_listed_classes(folder)
        count, classes = _counted(folder)
        rows: Iterable[_Found] = _listed(folder, notes)
    else:
        classes = {class_name(name) for name in class_folders(folder)}
        rows = list(_walk(folder, notes, unopened))
        count = len(rows)
        check_class_names(folder, classes, partial(_images_of, rows))
    for failure in unopened:  # folders that can't be listed
        parts = Path(failure.path).relative_to(folder).parts
        problems.setdefault(class_name(parts[0]) if parts else "", _problem(failure))
    files, ignored, missing, tried = list[ImageFile](), list[Path](), list[_Found](), 0
    with HashIndex(None if listed else folder, table, rehash) as hasher:
        for done, found in enumerate(rows, start=1):
            if done % PROGRESS_FILES == 0 or done == count:
                progress(done, count)
            if not found.is_image:
                ignored.append(Path(found.path))
                if suffix := unsupported_suffix(found.path):
                    why = f"{found.path}: {suffix} is not a supported image format"
                    problems.setdefault(class_name(found.label), why)
                continue
            label = notes.class_of(found.label)
            tried += found.sha256 is None
            try:
                sha256 = found.sha256
                if sha256 is None or (rehash and not is_url(found.path)):
                    sha256 = hasher.sha256(found.path)
                if sha256 != (found.sha256 or sha256):
                    raise OSError(OTHER_HASH)
                files.append(ImageFile(place(found.path), label, sha256))
            except OSError as error:
                unopened.append(_unopened(found.path, error, found.line))
                problems.setdefault(label, _problem(unopened[-1]))
                if isinstance(error, FileNotFoundError | NotADirectoryError):
                    missing.append(found)
    if listed and 2 * len(missing) > tried:
        raise DatasetError(_do_not_exist(folder, missing, tried))
    remarks = notes.remarks(folder)
    if empty := sorted(classes - {file.label for file in files}):
        raise DatasetError(*_no_images(folder, empty, bool(files), problems, remarks))
    if listed:
        remarks += list_remarks(folder)
    return ImageSet(
        folder, tuple(files), tuple(ignored), tuple(unopened), hasher.trouble, tuple(remarks)
    )


def _counted(path: Path) -> tuple[int, set[str]]:
    """Return how many images a list has, and their classes."""
    count, classes = 0, set[str]()
    for row in rows_of(path):
        count += 1
        classes.add(class_name(row.label))
    return count, classes


def _listed(path: Path, notes: ListingNotes) -> Iterator[_Found]:
    """Yield every line of a list."""
    for line, given, row in listed_rows(path):
        is_image = notes.takes_listed(row.path, given)
        yield _Found(row.label, row.path, is_image, row.sha256, line, given)


def _images_of(rows: Iterable[_Found], label: str) -> tuple[int, str]:
    """Return how many images a class has, and the path of the first one."""
    found = [row.path for row in rows if row.is_image and class_name(row.label) == label]
    return len(found), found[0] if found else "no image"


def _do_not_exist(path: Path, missing: Sequence[_Found], tried: int) -> str:
    """Say that most files of a list do not exist, and where the first was looked for."""
    first = missing[0]
    guess = as_windows_text(first.given)
    hint = (
        f"This line is not UTF-8 text; in Windows-1252 it reads '{guess}'. Save the list as CSV "
        "UTF-8."
        if guess
        else "Correct the paths. A relative path starts in the folder of the list."
    )
    return (
        f"{path}: {len(missing):,} of {tried:,} file(s) do not exist. The first is in line "
        f"{first.line}: '{first.given}', looked for at {os.path.abspath(first.path)}. {hint}"  # noqa: PTH100
    )


def _no_images(
    folder: Path, empty: Sequence[str], others: bool, problems: dict[str, str], remarks: list[str]
) -> list[str]:
    """Say which classes have no image, and why. others: there are classes with images."""
    names = ", ".join(empty[:SHOWN]) + (f" and {len(empty) - SHOWN} more" if empty[SHOWN:] else "")
    reasons = [problems[name] for name in empty if name in problems]
    if reasons:
        why = f"{reasons[0]}. Correct this, or remove the class"
    elif others or not remarks:
        why = "add images or remove the class"
    else:
        why = "all files are left out"
    text = f"{folder}: no readable image file in class(es) {names}: {why}"
    return [text, *remarks]


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders of classes, as they are spelt there, sorted.

    Raises DatasetError: it is no folder, or has none.
    """
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is not a folder: give one with a subfolder of images per class, a .csv list "
            "of images, or a .zip or .tar archive"
        )
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not machine_made(p.name))
    if not classes:
        raise DatasetError(
            f"{folder} has no subfolders: put the images of each class into a folder of its own, "
            f"such as {folder / 'gel'} and {folder / 'not_gel'}"
        )
    return classes


def _walk(folder: Path, notes: ListingNotes, unopened: list[Failure]) -> Iterator[_Found]:
    """Yield every file that a user gave, sorted, and its class; "" if it is in no class folder."""
    for path, parts in files_below(folder, notes, unopened):
        yield _Found(parts[0] if len(parts) > 1 else "", path, notes.takes(path, parts))


def files_below(
    folder: Path, notes: ListingNotes, unopened: list[Failure]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the files below a folder, sorted in each folder, with the parts of the path below it.

    Machine-made ones are counted only. Links are followed, but no folder is entered twice. Paths
    are strings: with 100,000 files, that is much faster. unopened: gets folders that can't be
    listed.
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
        for name in folders:
            if maker := machine_made(name):
                notes.pass_over(os.path.join(parent, name), maker)  # noqa: PTH118
        folders[:] = sorted(name for name in folders if not machine_made(name))
        inner = Path(parent).relative_to(folder).parts
        for name in sorted(names):
            if maker := machine_made(name):
                notes.machine_made[maker] += 1
            else:
                yield os.path.join(parent, name), (*inner, name)  # noqa: PTH118


def _unopened(path: str, error: OSError, line: int = 0) -> Failure:
    reason = error.strerror or str(error)
    return Failure(b"", path, f"{reason} (line {line})" if line else reason)


def _problem(failure: Failure) -> str:
    return f"{failure.path}: {failure.reason}"
