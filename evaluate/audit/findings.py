"""What an audit of images has found, kept as JSON: splits and test scores go by it."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from cache.errors import ResultsError
from cache.files import check_file, replacing
from cache.records import convert, parse_json
from evaluate.workspace.layout import Workspace

FORMAT = "frostline-audit-2"
SHOWN = 30  # of each kind of finding, on the terminal
IMBALANCE = 3.0  # times as many images in the largest class as in the smallest
TRAINING, TEST = "training", "test"


@dataclass(frozen=True)
class Seen:
    """One file.

    Attributes:
        part: Of training or test.
        group: The number of its group of near duplicates in the training images; -1: it is alone
            there.
    """

    path: str
    sha256: str
    label: str
    part: str
    group: int = -1


@dataclass(frozen=True)
class DuplicatePair:
    """Two files, by their places: that show the same.

    Attributes:
        cosine: Of their embeddings, None if no trained backbone has seen them.
        bits: Of 63 in which their hashes differ.
        exact: Of the same bytes.
    """

    first: int
    second: int
    cosine: float | None
    bits: int
    exact: bool


@dataclass(frozen=True)
class Outlier:
    """A file, by its place; which rule of evaluate/audit/outliers.py it breaks, and how."""

    image: int
    what: str
    note: str


@dataclass(frozen=True)
class Property:
    """A property of many images, or of the whole set.

    Attributes:
        what: A rule of evaluate/audit/outliers.py, or one of evaluate/audit/set_properties.py.
        note: A sentence.
    """

    what: str
    note: str


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        dataset, test: Names of the folders.
        cache: Which embeddings were compared; None: pictures alone.
        alike: Enough pairs to connect each group, and of each test image the most alike training
            image.
        unreadable: Paths and reasons.
        full_scale: Of the decoding; 0: an earlier version made it, which had no properties.
    """

    dataset: str
    test: str | None
    cache: str | None
    images: tuple[Seen, ...]
    alike: tuple[DuplicatePair, ...]
    unreadable: tuple[tuple[str, str], ...]
    odd: tuple[Outlier, ...]
    properties: tuple[Property, ...] = ()
    full_scale: int = 0

    @cached_property
    def groups(self) -> list[tuple[int, ...]]:
        """The training images that show the same, by their places; exact copies too."""
        found: dict[int, list[int]] = {}
        for index, image in enumerate(self.images):
            if image.group >= 0:
                found.setdefault(image.group, []).append(index)
        return [tuple(found[number]) for number in sorted(found)]

    @cached_property
    def group_of(self) -> dict[bytes, int]:
        """The group of each training image that is like another one, by SHA-256."""
        return {bytes.fromhex(i.sha256): i.group for i in self.images if i.group >= 0}

    @property
    def leaks(self) -> list[DuplicatePair]:
        """Pairs of a training and a test image."""
        return [a for a in self.alike if self._part(a.first) != self._part(a.second)]

    @property
    def leaked(self) -> frozenset[bytes]:
        """The test images that are in a leak, by SHA-256."""
        ends = {index for pair in self.leaks for index in (pair.first, pair.second)}
        images = [self.images[index] for index in ends]
        return frozenset(bytes.fromhex(i.sha256) for i in images if i.part == TEST)

    @property
    def conflicts(self) -> list[DuplicatePair]:
        """Pairs of images in different classes: one of the labels is wrong, or both are right."""
        return [a for a in self.alike if self.images[a.first].label != self.images[a.second].label]

    @property
    def repeats(self) -> list[DuplicatePair]:
        """Pairs of test images: what is counted twice in every score."""
        return [a for a in self.alike if self._part(a.first) == self._part(a.second) == TEST]

    @cached_property
    def repeat_of(self) -> dict[bytes, int]:
        """The group of each test image that is like another test image, by SHA-256."""
        from evaluate.audit.near_duplicates import (
            groups,  # with numpy, which the command line does not need
        )

        numbers = groups([(a.first, a.second) for a in self.repeats], len(self.images))
        return {
            bytes.fromhex(image.sha256): number
            for image, number in zip(self.images, numbers, strict=True)
            if number >= 0
        }

    @property
    def exactly_leaked(self) -> frozenset[bytes]:
        """The test images whose exact bytes are in training."""
        training = {image.sha256 for image in self.images if image.part == TRAINING}
        test = {image.sha256 for image in self.images if image.part == TEST}
        return frozenset(map(bytes.fromhex, training & test))

    @property
    def balance(self) -> dict[str, dict[str, int]]:
        """Images of each part and class."""
        counts = Counter((image.part, image.label) for image in self.images)
        parts = {image.part: dict[str, int]() for image in self.images}
        for (part, label), count in sorted(counts.items()):
            parts[part][label] = count
        return parts

    @property
    def imbalanced(self) -> list[str]:
        """The classes that have far fewer training images than the largest one."""
        counts = self.balance.get(TRAINING, {})
        return [label for label, n in counts.items() if n * IMBALANCE < max(counts.values())]

    @property
    def untested(self) -> list[str]:
        """The classes of training that have no test image; none where there is no test set."""
        balance = self.balance
        return sorted(balance[TRAINING].keys() - balance[TEST].keys()) if TEST in balance else []

    def _part(self, index: int) -> str:
        return self.images[index].part


@dataclass(frozen=True)
class Finding:
    """A kind of finding.

    Attributes:
        summary: What it is, in words.
        count: Of an audit, how often.
    """

    summary: str
    count: Callable[[Audit], int]


FINDINGS: dict[str, Finding] = {
    "leak": Finding("test images that are in training too", lambda a: len(a.leaked)),
    "duplicate": Finding("groups of training images that show the same", lambda a: len(a.groups)),
    "repeat": Finding("pairs of test images that show the same", lambda a: len(a.repeats)),
    "conflict": Finding("pairs that show the same in two classes", lambda a: len(a.conflicts)),
    "unreadable": Finding("files that can't be read", lambda a: len(a.unreadable)),
    "odd": Finding(
        "images unlike the others in size, storage or light",
        lambda a: len({o.image for o in a.odd}),
    ),
    "property": Finding(
        "properties of the data set that concern many images", lambda a: len(a.properties)
    ),
    "imbalance": Finding(
        "classes with less than a third of the largest one's images", lambda a: len(a.imbalanced)
    ),
}


def audit_path(workspace: Workspace, dataset: str, test: str | None) -> Path:
    """Where the audit of two sets of images, by their fingerprints, lies."""
    return workspace.audits / f"{dataset}{f'-{test}' if test else ''}.json"


def write_audit(path: Path, found: Audit) -> None:
    """Write an audit as JSON, with a checksum. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"format": FORMAT} | asdict(found)
    text = json.dumps(record | {"sha256": _sha256(record)}, indent=1)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")  # ASCII: names of any kind are escaped


def read_audit(path: Path) -> Audit:
    """Read what `write_audit` wrote.

    Raises:
        ResultsError: the file is damaged, was edited, or an older version wrote it.
        OSError: it can't be read.
    """
    check_file(path)
    try:
        record = parse_json(path.read_bytes(), dict[str, Any])
        if record.get("format") != FORMAT:
            raise ValueError("another version of Frostline wrote it")
        if record.pop("sha256", None) != _sha256(record):
            raise ValueError("its content does not match its checksum")
        return convert(record, Audit)
    except ValueError as error:
        raise ResultsError(f"{path} can't be used: {error}. Run `cli.py audit` again.") from None


def _sha256(record: dict[str, Any]) -> str:
    return sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def as_json(found: Audit) -> str:
    """Return the findings by paths, as JSON for other programs; all of them."""

    def path(index: int) -> str:
        return found.images[index].path

    def pair(alike: DuplicatePair) -> dict[str, object]:
        return {
            "paths": [path(alike.first), path(alike.second)],
            "exact": alike.exact,
            "cosine": alike.cosine,
            "bits": alike.bits,
        }

    content = {
        "groups": [[path(index) for index in group] for group in found.groups],
        "leaks": [pair(alike) for alike in found.leaks],
        "repeats": [pair(alike) for alike in found.repeats],
        "conflicts": [pair(alike) for alike in found.conflicts],
        "unreadable": [{"path": path, "reason": reason} for path, reason in found.unreadable],
        "odd": [{"path": path(o.image), "what": o.what, "note": o.note} for o in found.odd],
        "properties": [{"what": p.what, "note": p.note} for p in found.properties],
        "balance": found.balance,
    }
    return json.dumps(content, indent=1)


def in_words(found: Audit) -> list[str]:
    """Say what was found, a line each, of every kind the first `SHOWN`."""
    images = found.images

    def path(index: int) -> str:
        return images[index].path

    def pair(alike: DuplicatePair) -> str:
        how = "the same bytes" if alike.exact else f"{alike.bits} of 63 bits differ"
        if not alike.exact and alike.cosine is not None:
            how += f", cosine {alike.cosine:.3f}"
        return f"{path(alike.first)}  =  {path(alike.second)}  ({how})"

    lines = [
        f"{part}: " + ", ".join(f"{count} {label}" for label, count in counts.items())
        for part, counts in found.balance.items()
    ]
    if found.untested:
        names = ", ".join(found.untested)
        lines.append(f"no test image of {names}: nothing will be known about it")
    seen_by = f"the embeddings of {found.cache}" if found.cache else "no embeddings: none are there"
    lines.append(f"Near duplicates by perceptual hash and {seen_by}.")
    shown = {
        "leak": [pair(alike) for alike in found.leaks],
        "duplicate": ["  =  ".join(path(index) for index in group) for group in found.groups],
        "repeat": [pair(alike) for alike in found.repeats],
        "conflict": [pair(alike) for alike in found.conflicts],
        "unreadable": [f"{path}: {reason}" for path, reason in found.unreadable],
        "odd": [f"{path(odd.image)}: {odd.what}: {odd.note}" for odd in found.odd],
        "property": [p.note for p in found.properties],
        "imbalance": list(found.imbalanced),
    }
    for name, finding in FINDINGS.items():
        lines += ["", f"{finding.count(found)} {finding.summary}"]
        lines += [f"  {line}" for line in shown[name][:SHOWN]]
        if len(shown[name]) > SHOWN:
            lines.append(f"  … and {len(shown[name]) - SHOWN} more: --format json has all")
    return lines
