"""The best model within limits of latency and size, and what it gives up."""

from contextlib import suppress
from typing import Any

from cache.errors import ResultsError
from evaluate.constraints import Limits, choose, describe_choice, limits_in_words, nearest, size_mb
from evaluate.leaderboard import Leaderboard
from evaluate.report.context import ReportContext
from evaluate.report.sections.comparison import compared
from evaluate.report.sections.leaderboard import model
from evaluate.text import printable
from evaluate.workspace.layout import Workspace


def choice_in_words(study: Leaderboard, limits: Limits, workspace: Workspace) -> str:
    """Say which model is the best within the limits, and what it gives up; see `describe_choice`.

    Models whose predictions can't be used are not compared.
    """
    chosen = choose(study.rows, limits)
    against = None
    if chosen is not None and chosen is not study.best:
        with suppress(ResultsError, OSError):  # the report names the file
            against = compared(chosen, study.best, workspace)
    return describe_choice(study, limits, against)


def constrained(context: ReportContext) -> dict[str, Any] | None:
    """Show the model that fits, or those that come nearest, and the best; None without limits."""
    study, limits = context.study, context.limits
    if not limits.given:
        return None
    chosen = choose(study.rows, limits)
    near = nearest(study.rows, limits) if chosen is None else {"chosen": chosen}
    shown = near | {"best of all": study.best}
    return {
        "limits": limits_in_words(limits),
        "words": printable(choice_in_words(study, limits, context.workspace)),
        "rows": [
            model(context, row) | {"which": which, "mb": size_mb(row)}
            for which, row in shown.items()
        ],
    }
