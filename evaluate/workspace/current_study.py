"""`study.json`: the training and the test set that were run last in a workspace.

- `predict`, `export` and `report` go by it: "best" is the best model of this study.
- Commands that are given no images take its images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING

from cache.errors import ResultsError
from cache.files import replacing
from cache.records import RecordError, parse_json
from extract.sources.image_file import is_url, to_path
from heads.config import fingerprint

if TYPE_CHECKING:
    from evaluate.leaderboard import Leaderboard
    from evaluate.workspace.layout import Workspace
    from extract.dataset import ImageSet

FORMAT = "frostline-study-1"


@dataclass(frozen=True)
class Part:
    """A training or test set.

    Attributes:
        path: As the user gave it, but absolute; or a URL.
        per_class: How many images of each class were taken; None: all.
        name: As reports name it.
        fingerprint: Of its images and their classes.
    """

    path: str
    per_class: int | None
    name: str
    fingerprint: str


@dataclass(frozen=True)
class CurrentStudy:
    """What was run last.

    Attributes:
        workspace: Where it was then, absolute.
    """

    training: Part
    test: Part
    classes: tuple[str, ...]
    workspace: str
    format: str = FORMAT

    def path_of(self, part: Part, workspace: Workspace) -> Path:
        """Return where a set is now: where it was, or moved together with the workspace."""
        path, moved = to_path(part.path), self.moved(part.path, workspace)
        return moved if not is_url(part.path) and not path.exists() and moved.exists() else path

    def moved(self, path: str, workspace: Workspace) -> Path:
        """Return where a file is if it was moved together with the workspace."""
        return workspace.root.absolute() / relpath(path, self.workspace)

    @property
    def title(self) -> str:
        """What was trained on and tested on."""
        return f"trained on {self.training.name}, tested on {self.test.name}"


def part_of(images: ImageSet, given: Path, per_class: int | None) -> Part:
    """Describe a set of images.

    Args:
        given: Its path, as the user named it.
    """
    path = str(given if is_url(str(given)) else given.absolute())
    return Part(path, per_class, images.name, fingerprint(images.labels))


def write_current(workspace: Workspace, training: Part, test: Part, classes: Sequence[str]) -> None:
    """Make this the study that was run last. Raises OSError."""
    root = str(workspace.root.absolute())
    study = CurrentStudy(training, test, tuple(sorted(set(classes))), root)
    with replacing(workspace.study) as temporary:
        temporary.write_text(json.dumps(asdict(study), indent=1), encoding="utf-8")


def read_current(workspace: Workspace) -> CurrentStudy | None:
    """Return the study that was run last; None in a workspace of an older version.

    Raises:
        ResultsError: the file is damaged, or of another version.
        OSError: it can't be read.
    """
    try:
        study = parse_json(workspace.study.read_bytes(), CurrentStudy)
        if study.format != FORMAT:
            raise RecordError(f"its format is {study.format!r}, not {FORMAT!r}")
    except FileNotFoundError:
        return None
    except RecordError as error:
        raise ResultsError(
            f"{workspace.study} can't be used: {error}. Run `cli.py evaluate` with --dataset and "
            "--test to write it again."
        ) from None
    return study


def current_first(found: Sequence[Leaderboard], workspace: Workspace) -> list[Leaderboard]:
    """Sort studies: the current one first, the others as they are. Raises ResultsError, OSError."""
    current = read_current(workspace)
    wanted = current and (current.training.fingerprint, current.test.fingerprint)

    def is_other(study: Leaderboard) -> bool:
        return (study.best["dataset_fingerprint"], study.best["test_fingerprint"]) != wanted

    return sorted(found, key=is_other)
