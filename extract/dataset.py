"""A folder with one subfolder per class, or a CSV list → the images, by the hash of their bytes."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

from cache.errors import DatasetError, Failure
from cache.progress import Progress, silent
from extract.sources.class_names import check_class_names, class_name
from extract.sources.file_names import ListingNotes, machine_made, unsupported_suffix
from extract.sources.hash_index import HashIndex
from extract.sources.image_file import UNPACKED, ImageFile, is_url, to_path

LIST_SUFFIX = ".csv"
OTHER_HASH = "its SHA-256 is not the one that the list gives"
SHOWN = 5  # files that can't be opened, named in remarks
PROGRESS_FILES = 500  # between two reports of progress


class ListedFile(NamedTuple):
    """A file that was listed.

    Attributes:
        label: Its class as it is written.
        path: Where it is.
        is_image: By its name.
        sha256: Of its bytes, if a list says it.
        line: Of a list; 0: it is in a folder.
        given: Its path as a list gives it.
    """

    label: str
    path: str
    is_image: bool
    sha256: bytes | None = None
    line: int = 0
    given: str = ""


@dataclass(frozen=True)
class ImageSet:
    """The images of one folder or list.

    Attributes:
        folder: Or the list.
        files: Images that could be hashed, copies included.
        ignored: Files that are no images.
        unopened: Images and folders that can't be opened.
        trouble: What is wrong with the table of hashes, if anything.
        notes: What was left out or changed, a line each.
        source: What the user named, if the images were unpacked or fetched from there.
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
                parts[-1] = parts[-1].removesuffix(LIST_SUFFIX)
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


@dataclass
class _Scan:
    """What was found so far.

    Attributes:
        problems: Why the first file of a class can't be used, by class.
        missing: Listed files that do not exist.
        unhashed: Number of files whose SHA-256 no list says.
    """

    folder: Path
    rehash: bool
    notes: ListingNotes = field(default_factory=ListingNotes)
    files: list[ImageFile] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    unopened: list[Failure] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    missing: list[ListedFile] = field(default_factory=list)
    unhashed: int = 0

    def add(self, file: ListedFile, hasher: HashIndex) -> None:
        """Hash a file, if it is an image."""
        if not file.is_image:
            self.ignored.append(Path(file.path))
            if suffix := unsupported_suffix(file.path):
                why = f"{file.path}: {suffix} is not a supported image format"
                self.problems.setdefault(class_name(file.label), why)
            return
        label = self.notes.class_of(file.label)
        self.unhashed += file.sha256 is None
        try:
            self.files.append(ImageFile(to_path(file.path), label, self._sha256(file, hasher)))
        except OSError as error:
            self.unopened.append(_unopened(file.path, error, file.line))
            self.problems.setdefault(label, _problem(self.unopened[-1]))
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                self.missing.append(file)

    def _sha256(self, file: ListedFile, hasher: HashIndex) -> bytes:
        """Return the hash that a list says, or that of the bytes. Raises OSError."""
        if file.sha256 is not None and (not self.rehash or is_url(file.path)):
            return file.sha256
        sha256 = hasher.sha256(file.path)
        if file.sha256 not in (None, sha256):
            raise OSError(OTHER_HASH)
        return sha256

    def check(self, classes: set[str], remarks: list[str]) -> None:
        """Make sure that every class has an image. Raises DatasetError."""
        empty = sorted(classes - {file.label for file in self.files})
        if not empty:
            return
        reasons = [self.problems[name] for name in empty if name in self.problems]
        if reasons:
            why = f"{reasons[0]}. Correct this, or remove the class"
        elif self.files or not remarks:
            why = "add images or remove the class"
        else:
            why = "all files are left out"
        more = f" and {len(empty) - SHOWN} more" if empty[SHOWN:] else ""
        names = ", ".join(empty[:SHOWN]) + more
        text = f"{self.folder}: no readable image file in class(es) {names}: {why}"
        raise DatasetError(text, *remarks)


def scan(
    folder: Path, progress: Progress = silent, table: Path | None = None, rehash: bool = False
) -> ImageSet:
    """List and hash the images in `folder/<class>/**`, or those that a `.csv` file lists.

    Machine-made files and folders (`extract/sources/file_names.py`) are left out. For lists, see
    `extract/sources/csv_manifest.py`: an image whose SHA-256 a list says is believed to be there,
    and is not opened.

    Args:
        folder: Or list.
        progress: Counts files.
        table: Where hashes are remembered (`extract/sources/hash_index.py`), so that only new and
            changed files are read.
        rehash: Read every file, also those whose SHA-256 a list says; a file with another one
            counts as one that can't be opened.

    Raises:
        DatasetError: the folder or list is missing, has no class, or a class has no image; names of
            classes can't be those of one set; or most files of a list do not exist.
        OSError: the list can't be read.
    """
    if folder.suffix.lower() == LIST_SUFFIX:
        from extract.sources.csv_manifest import is_list

        if is_list(folder):
            return _scan_list(folder, progress, table, rehash)
    result = _Scan(folder, rehash)
    classes = {class_name(name) for name in class_folders(folder)}
    files = list(_walk(folder, result.notes, result.unopened))
    check_class_names(folder, classes, partial(_images_of, files))
    for failure in result.unopened:  # folders that can't be listed
        parts = Path(failure.path).relative_to(folder).parts
        result.problems.setdefault(class_name(parts[0]) if parts else "", _problem(failure))
    trouble = _hash(result, files, len(files), progress, HashIndex(folder, table, rehash))
    remarks = result.notes.remarks(folder)
    result.check(classes, remarks)
    return _image_set(result, trouble, remarks)


def _scan_list(path: Path, progress: Progress, table: Path | None, rehash: bool) -> ImageSet:
    from extract.sources import csv_manifest

    csv_manifest.check_listed_classes(path)
    result, count, classes = _Scan(path, rehash), 0, set[str]()
    for row in csv_manifest.rows_of(path):
        count += 1
        classes.add(class_name(row.label))
    files = (
        ListedFile(
            row.label, row.path, result.notes.takes_listed(row.path, given), row.sha256, line, given
        )
        for line, given, row in csv_manifest.listed_rows(path)
    )
    trouble = _hash(result, files, count, progress, HashIndex(None, table, rehash))
    if 2 * len(result.missing) > result.unhashed:
        first = result.missing[0]
        lost = f"{len(result.missing):,} of {result.unhashed:,} file(s) do not exist"
        raise DatasetError(
            f"{path}: {lost}. The first is in line {first.line}: '{first.given}', looked for at "
            f"{os.path.abspath(first.path)}. {csv_manifest.path_hint(first.given)}"  # noqa: PTH100
        )
    remarks = result.notes.remarks(path)
    result.check(classes, remarks)
    return _image_set(result, trouble, remarks + csv_manifest.list_remarks(path))


def _hash(
    result: _Scan, files: Iterable[ListedFile], count: int, progress: Progress, index: HashIndex
) -> str | None:
    """Hash all files; return what is wrong with the table of hashes, if anything."""
    with index as hasher:
        for number, file in enumerate(files, start=1):
            if number % PROGRESS_FILES == 0 or number == count:
                progress(number, count)
            result.add(file, hasher)
    return hasher.trouble


def _image_set(result: _Scan, trouble: str | None, remarks: list[str]) -> ImageSet:
    return ImageSet(
        result.folder,
        tuple(result.files),
        tuple(result.ignored),
        tuple(result.unopened),
        trouble,
        tuple(remarks),
    )


def _images_of(files: Iterable[ListedFile], label: str) -> tuple[int, str]:
    """Return how many images a class has, and the path of the first one."""
    paths = [file.path for file in files if file.is_image and class_name(file.label) == label]
    return len(paths), paths[0] if paths else "no image"


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


def _walk(folder: Path, notes: ListingNotes, unopened: list[Failure]) -> Iterator[ListedFile]:
    """Yield every file that a user gave, sorted, and its class; "" if it is in no class folder."""
    for path, parts in files_below(folder, notes, unopened):
        yield ListedFile(parts[0] if len(parts) > 1 else "", path, notes.takes(path, parts))


def files_below(
    folder: Path, notes: ListingNotes, unopened: list[Failure]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the files below a folder, sorted in each folder, with the parts of the path below it.

    Machine-made ones are only counted. Links are followed, but no folder is entered twice. Paths
    are strings: with 100,000 files, that is much faster.

    Args:
        folder: Where to begin.
        notes: Counts what is machine-made.
        unopened: Receives folders that cannot be listed.
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
