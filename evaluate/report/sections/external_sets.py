"""The models on independent test sets: whether their accuracy holds on images of other origin."""

from typing import Any

from evaluate.leaderboard import change_of, describe_change, interval_of, other_sets
from evaluate.report.context import DRAWN, ReportContext
from evaluate.report.sections.comparison import bar, limit_of
from evaluate.report.sections.leaderboard import model
from evaluate.results import Row
from evaluate.text import printable


def on_other_images(context: ReportContext) -> list[dict[str, Any]]:
    """Show each independent test set: accuracy there, beside that on the study's own images."""
    return [_set(context, pairs) for pairs in other_sets(context.study)]


def _set(context: ReportContext, pairs: list[tuple[Row, Row]]) -> dict[str, Any]:
    (best, there), drawn = pairs[0], pairs[:DRAWN]
    changes = [change_of(row, other) for row, other in drawn]
    limit = limit_of([interval for _, interval in changes])
    return {
        "name": printable(there["also"]),
        "folder": printable(there["test"]),
        "images": there["n_test"],
        "words": printable(describe_change(best, there)),
        "limit": limit,
        "left_out": len(pairs) - len(drawn),
        "rows": [
            model(context, row)
            | {
                "there": other["accuracy"],
                "there_interval": interval_of(other),
                "change": change,
                "change_interval": interval,
                "distinct": not interval[0] <= 0 <= interval[1],
                "bar": bar(change, interval, limit),
            }
            for (row, other), (change, interval) in zip(drawn, changes, strict=True)
        ],
    }
