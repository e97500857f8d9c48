"""One set of labelled images → a training and a test set, as lists or as copies."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from cache.errors import DatasetError, HeadError
from cache.files import replacing, temporary_file
from cache.locks import sharing
from cache.progress import Progress, silent
from cache.records import RecordError, parse_json, read_text
from evaluate.audit.findings import Audit
from evaluate.text import printable
from extract.dataset import ImageSet
from extract.sources.csv_manifest import SUFFIX, as_csv, read_list, write_list
from extract.sources.image_file import ImageFile
from heads.config import fingerprint
from heads.splits import NO_GROUPS, Groups, split

if TYPE_CHECKING:
    from rich.table import Table

TRAIN, TEST = "train", "test"
NOTE = "split.json"  # written last: what was divided, and how
REMEDY = (
    f"choose another folder (--out; with a recipe --workspace), or remove {TRAIN}, {TEST} (or "
    f"their .csv) and {NOTE} there"
)


@dataclass(frozen=True)
class SplitOptions:
    """How to divide.

    Attributes:
        fraction: Of each class, to test on.
        group: Keep near duplicates together.
        copy: The images, instead of writing lists.
    """

    fraction: float
    seed: int
    group: bool = True
    copy: bool = False


@dataclass(frozen=True)
class SplitResult:
    """Two disjoint sets of images, each image once.

    Attributes:
        groups: Of near duplicates.
        unreadable: Files on neither side.
        cache: Whose embeddings told near duplicates; None: pictures alone.
    """

    cut: SplitOptions
    training: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]
    groups: Groups
    unreadable: tuple[str, ...]
    cache: str | None

    @cached_property
    def sides(self) -> dict[str, tuple[ImageFile, ...]]:
        """Both sets by name."""
        return {TRAIN: self.training, TEST: self.test}

    @property
    def remarks(self) -> list[str]:
        """What the user should know beyond the remarks of a scan, a line each."""
        lines = []
        if self.unreadable:
            lines.append(
                f"{len(self.unreadable)} file(s) that can't be read are on neither side, such as "
                f"{self.unreadable[0]}"
            )
        if self.cut.group and self.cache is None:
            lines.append(
                "Near duplicates were told by pictures alone: where a trained backbone has seen "
                "these images (`cli.py extract`), more may be found"
            )
        return lines


def divide(images: ImageSet, found: Audit, cut: SplitOptions) -> SplitResult:
    """Divide images into two sets, stratified by class and seeded.

    Args:
        found: An audit of these images as training images. Each image is taken once; those that lie
            in two classes or can't be read are on neither side. See `heads.splits.split`.

    Raises:
        DatasetError: there is only one class, or a class has too few images that differ.
    """
    broken = {path for path, _ in found.unreadable}
    unreadable = {file.sha256 for file in images.files if str(file.path) in broken}
    labels = {key: label for key, label in images.labels.items() if key not in unreadable}
    if len(set(labels.values())) < 2:
        raise DatasetError(
            f"{images.folder} has one class only: a classifier needs at least two; give a folder "
            "with a subfolder per class"
        )
    groups = found.group_of if cut.group else NO_GROUPS
    try:
        test = frozenset(split(labels, cut.fraction, cut.seed, groups=groups).validation)
    except HeadError as error:
        raise DatasetError(f"{images.folder} can't be divided: {error}") from None
    used = [file for file in images.unique if file.sha256 in labels]
    return SplitResult(
        cut=cut,
        training=tuple(file for file in used if file.sha256 not in test),
        test=tuple(file for file in used if file.sha256 in test),
        groups={key: group for key, group in groups.items() if key in labels},
        unreadable=tuple(path for path, _ in found.unreadable),
        cache=found.cache,
    )


def sides(out: Path, cut: SplitOptions) -> tuple[Path, Path]:
    """Return where the training and the test set are: two folders, or two lists."""
    ending = "" if cut.copy else SUFFIX
    return out / f"{TRAIN}{ending}", out / f"{TEST}{ending}"


def folder_of(images: ImageSet, cut: SplitOptions, root: Path) -> Path:
    """Return the folder of this division below `root`: the same images and settings, the same."""
    digest = sha256(json.dumps(_note(images, cut), sort_keys=True).encode()).hexdigest()[:8]
    return root / f"{images.name.replace('/', '-')}-{digest}"


def divided_before(images: ImageSet, cut: SplitOptions, out: Path) -> bool:
    """Tell whether these images were divided so before, into this folder.

    Then the division stays, even where near duplicates have been found since: a test set must not
    change unasked.

    Raises:
        DatasetError: they were divided otherwise, or others were; or a list is damaged.
        OSError: what is there can't be read.
    """
    try:
        note = parse_json(read_text(out / NOTE), dict[str, Any])
    except FileNotFoundError:
        return False
    except RecordError as error:
        raise DatasetError(f"{out / NOTE} can't be used ({error}): {REMEDY}") from None
    wanted = _note(images, cut)
    if {name: note.get(name) for name in wanted} != wanted:
        raise DatasetError(f"{out} holds another division, or of other images: {REMEDY}")
    there = sides(out, cut)
    if cut.copy:
        return all(side.is_dir() for side in there)
    return all(side.is_file() for side in there) and all(
        os.path.exists(path)  # noqa: PTH110 - a Path for each takes its time
        for side in there
        for _, path in read_list(side)
    )


def write_division(
    division: SplitResult, images: ImageSet, out: Path, progress: Progress = silent
) -> None:
    """Write both lists, or copy the images to `out/train/<class>` and `out/test/<class>`.

    What is there already, the same, stays: after a kill, the same call goes on.

    Args:
        progress: Counts copies.

    Raises:
        DatasetError: other files are there, or an image has changed meanwhile.
        OSError: it can't be written.
    """
    with sharing(out):
        if division.cut.copy:
            _copy_all(_targets(division, images, out), out, progress)
        else:
            _write_lists(division, out)
        with replacing(out / NOTE) as temporary:
            note = _note(images, division.cut) | {"near_duplicates_by": division.cache}
            temporary.write_text(json.dumps(note, indent=1), encoding="utf-8")


def table_of(division: SplitResult) -> Table:
    """Show how many images of each class are on each side, in how many groups of near duplicates.

    A group in several classes counts in each.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table("class")
    for column in (TRAIN, TEST, "groups"):
        table.add_column(column, justify="right")
    files = [*division.training, *division.test]
    size = Counter(division.groups.values())
    pairs = {(f.label, division.groups.get(f.sha256, -1)) for f in files}
    groups = Counter(label for label, group in pairs if size[group] > 1)
    counts = {name: Counter(f.label for f in side) for name, side in division.sides.items()}
    for label in sorted({file.label for file in files}):
        numbers = (counts[TRAIN][label], counts[TEST][label], groups[label])
        table.add_row(escape(printable(label)), *map(str, numbers))
    table.add_section()
    whole = sum(number > 1 for number in size.values())
    table.add_row("all", str(len(division.training)), str(len(division.test)), str(whole))
    return table


def _note(images: ImageSet, cut: SplitOptions) -> dict[str, Any]:
    return {"images": fingerprint(images.labels)} | asdict(cut)


def _write_lists(division: SplitResult, out: Path) -> None:
    lists = {out / f"{name}{SUFFIX}": files for name, files in division.sides.items()}
    for path, files in lists.items():
        if path.exists() and path.read_bytes() != as_csv(files, out):
            raise DatasetError(f"{path} is there, and is another list: {REMEDY}")
    for path, files in lists.items():
        if not path.exists():
            write_list(path, files)


def _targets(division: SplitResult, images: ImageSet, out: Path) -> dict[Path, ImageFile]:
    """Return what is to lie where.

    Images keep their name below the folder of their class; where
    several would have the same, each gets the first digits of its hash.
    """
    if images.folder.is_dir() and out.resolve().is_relative_to(images.folder.resolve()):
        raise DatasetError(f"{out} is inside {images.folder}: choose an --out that is not")
    names = {file: _name(file, images) for side in division.sides.values() for file in side}
    # As some file systems compare names.
    alike = {
        file: normalize("NFC", f"{file.label}/{name}").casefold() for file, name in names.items()
    }
    often = Counter(alike.values())
    found = {}
    for side, files in division.sides.items():
        for file in files:
            name = names[file]
            if often[alike[file]] > 1:
                name = name.with_stem(f"{name.stem}-{file.sha256.hex()[:8]}")
            found[out / side / file.label / name] = file
    return found


def _name(file: ImageFile, images: ImageSet) -> Path:
    if images.folder.is_dir():
        return Path(*file.path.relative_to(images.folder).parts[1:])
    if Path(file.label).name != file.label or file.label.startswith(".") or "\\" in file.label:
        raise DatasetError(
            f"{images.folder}: class {file.label!r} can't be a folder: rename it, or use --list"
        )
    return Path(file.path.name)


def _copy_all(targets: Mapping[Path, ImageFile], out: Path, progress: Progress) -> None:
    there = [path for side in (TRAIN, TEST) for path in _visible(out / side)]
    for path in there:
        if path not in targets or sha256(path.read_bytes()).digest() != targets[path].sha256:
            raise DatasetError(f"{path} is there, and is not of this division: {REMEDY}")
    missing = {path: targets[path] for path in targets.keys() - set(there)}
    for done, (path, file) in enumerate(missing.items(), start=1):
        content = file.path.read_bytes()
        if sha256(content).digest() != file.sha256:
            raise DatasetError(f"{file.path} has changed while it was divided: run split again")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not made durable one by one, which takes minutes for 10,000: after a power cut some may be
        # empty, which every scan tells.
        with temporary_file(out) as temporary:
            temporary.write_bytes(content)
            temporary.replace(path)
        progress(done, len(missing))


def _visible(folder: Path) -> list[Path]:
    return [
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".")
    ]
