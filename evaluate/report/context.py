"""What the sections of one study are made from, read once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar

from cache.errors import FrostlineError, ResultsError
from evaluate.audit.findings import Audit, audit_path, read_audit
from evaluate.constraints import NO_LIMITS, Limits
from evaluate.leaderboard import Leaderboard, confusion, first_of_each
from evaluate.predictions import Predictions, predictions_path, read_predictions
from evaluate.report.published_results import Published
from evaluate.results import Row
from evaluate.text import printable
from evaluate.workspace.image_files import ImageFiles
from evaluate.workspace.layout import Workspace
from heads.store import HeadInfo, head_path, read_head

Found = TypeVar("Found")

DRAWN = 24  # models in charts and comparisons: the first in the ranking
BACKBONES_DRAWN = 8


@dataclass(frozen=True)
class ReportContext:
    """What the sections of one study are made from.

    Attributes:
        answers, infos: Predictions and head files by model_id, of the models drawn and the best of
            each backbone, as far as they are there.
        audit: Of the study's images, if there is one.
        limits: Of what a model may cost, if any were given.
        left_out: What is wrong with files that could not be used, as far as they were needed until
            now.
    """

    study: Leaderboard
    workspace: Workspace
    answers: Mapping[int, Predictions]
    infos: Mapping[int, HeadInfo]
    audit: Audit | None
    published: tuple[Published, ...]
    limits: Limits = NO_LIMITS
    left_out: list[str] = field(default_factory=list)

    @cached_property
    def files(self) -> ImageFiles:
        """The images of the workspace, for pictures of them."""
        return ImageFiles(self.workspace)

    def read(self, read: Callable[[], Found]) -> Found | None:
        """Read something from a file; None if the file can't be used, which is noted."""
        return _attempt(read, self.left_out)

    @property
    def drawn(self) -> tuple[Row, ...]:
        """The models that are drawn."""
        return self.study.rows[:DRAWN]

    @property
    def champions(self) -> list[Row]:
        """The best model of each backbone."""
        return champions(self.study)

    @property
    def classes(self) -> list[str]:
        """The classes, as people can read them."""
        return [printable(name) for name in confusion(self.study.best)[0]]

    @property
    def colours(self) -> dict[str, int]:
        """Every backbone's colour, the same in all charts."""
        names = sorted({row["pretrained_model"] for row in self.study.rows})
        return {name: number for number, name in enumerate(names)}


def champions(study: Leaderboard) -> list[Row]:
    """Return the best model of each backbone."""
    return first_of_each(study.rows, "pretrained_model")[:BACKBONES_DRAWN]


def gather(
    study: Leaderboard,
    workspace: Workspace,
    published: tuple[Published, ...] = (),
    limits: Limits = NO_LIMITS,
) -> ReportContext:
    """Read what a study's sections are made from; a file that can't be used is left out."""
    rows = {row["model_id"]: row for row in (*study.rows[:DRAWN], *champions(study))}
    left_out = list[str]()

    def each(read: Callable[[Row, Workspace], Found | None]) -> dict[int, Found | None]:
        found = rows.items()
        return {key: _attempt(partial(read, row, workspace), left_out) for key, row in found}

    answers, infos = each(read_answers), each(_info)
    return ReportContext(
        study,
        workspace,
        {key: found for key, found in answers.items() if found},
        {key: info for key, info in infos.items() if info},
        _attempt(partial(audit_of, study, workspace), left_out),
        published,
        limits,
        left_out,
    )


def read_answers(row: Row, workspace: Workspace) -> Predictions | None:
    """Read a row's predictions; None where only `results.csv` was handed on.

    Raises:
        ResultsError: the file is damaged, or not that of the row.
        OSError: it can't be read.
    """
    key = (row["head_id"], row["test_fingerprint"], row["engine"])
    path = predictions_path(workspace.heads, *key)
    if not path.exists():
        return None
    predictions = read_predictions(path, confusion(row)[0])
    if len(predictions.clean.paths) != row["n_test"]:
        raise ResultsError(f"{path} can't be used: it is cut short. Run evaluate again.")
    return predictions


def _attempt(read: Callable[[], Found], left_out: list[str]) -> Found | None:
    try:
        return read()
    except FrostlineError as error:
        left_out.append(str(error))
    except OSError as error:
        left_out.append(f"{error.filename} can't be read: {error.strerror or error}.")
    return None


def _info(row: Row, workspace: Workspace) -> HeadInfo | None:
    path = head_path(workspace.heads, row["head_id"])
    return read_head(path).info if path.exists() else None


def audit_of(study: Leaderboard, workspace: Workspace) -> Audit | None:
    """Return the audit of a study's images, if there is one. Raises ResultsError on damage."""
    row = study.best
    path = audit_path(workspace, row["dataset_fingerprint"], row["test_fingerprint"])
    return read_audit(path) if path.exists() else None


def properties_of(study: Leaderboard, workspace: Workspace) -> list[str]:
    """Return what the audit says of the whole data set; nothing if its file can't be used."""
    audit = _attempt(partial(audit_of, study, workspace), [])
    return [each.note for each in audit.properties] if audit else []
