"""What the sections of one study are made from, read once."""

from collections.abc import Mapping
from dataclasses import dataclass

from cache.errors import ResultsError
from evaluate.choice import NO_LIMITS, Limits
from evaluate.findings import Audit, audit_path, read_audit
from evaluate.predictions import Predictions, predictions_path, read_predictions
from evaluate.printable import printable
from evaluate.published import Published
from evaluate.results import Row
from evaluate.study import Study, confusion, first_of_each
from evaluate.workspace import Workspace
from heads.files import HeadInfo, head_path, read_info

DRAWN = 24  # models in charts and comparisons: the first in the ranking
BACKBONES_DRAWN = 8


@dataclass(frozen=True)
class Material:
    """answers, infos: predictions and head files by model_id, of the models drawn and the best of
    each backbone, as far as they are there. audit: of the study's images, if there is one. limits:
    of what a model may cost, if any were given.
    """

    study: Study
    workspace: Workspace
    answers: Mapping[int, Predictions]
    infos: Mapping[int, HeadInfo]
    audit: Audit | None
    published: tuple[Published, ...]
    limits: Limits = NO_LIMITS

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


def champions(study: Study) -> list[Row]:
    """Return the best model of each backbone."""
    return first_of_each(study.rows, "pretrained_model")[:BACKBONES_DRAWN]


def gather(
    study: Study,
    workspace: Workspace,
    published: tuple[Published, ...] = (),
    limits: Limits = NO_LIMITS,
) -> Material:
    """Read what a study's sections are made from.

    Raises:
        ResultsError, HeadError: a file is damaged.
    """
    rows = (*study.rows[:DRAWN], *champions(study))
    answers = {row["model_id"]: read_answers(row, workspace) for row in rows}
    infos = {row["model_id"]: _info(row, workspace) for row in rows}
    return Material(
        study,
        workspace,
        {key: found for key, found in answers.items() if found},
        {key: info for key, info in infos.items() if info},
        _audit(study.best, workspace),
        published,
        limits,
    )


def read_answers(row: Row, workspace: Workspace) -> Predictions | None:
    """Read a row's predictions; None where only `results.csv` was handed on.

    Raises:
        ResultsError: the file is damaged, or not that of the row.
    """
    key = (row["head_id"], row["test_fingerprint"], row["engine"])
    path = predictions_path(workspace.heads, *key)
    if not path.exists():
        return None
    predictions = read_predictions(path, confusion(row)[0])
    if len(predictions.clean.paths) != row["n_test"]:
        raise ResultsError(f"{path} is cut short: run evaluate again")
    return predictions


def _info(row: Row, workspace: Workspace) -> HeadInfo | None:
    path = head_path(workspace.heads, row["head_id"])
    return read_info(path) if path.exists() else None


def _audit(row: Row, workspace: Workspace) -> Audit | None:
    path = audit_path(workspace, row["dataset_fingerprint"], row["test_fingerprint"])
    return read_audit(path) if path.exists() else None
