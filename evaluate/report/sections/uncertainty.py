"""How the review flags were fitted."""

from functools import partial
from typing import Any

from evaluate.report.context import ReportContext
from evaluate.uncertainty.scores import SCORES, doubt_path, read_doubt


def doubts(context: ReportContext) -> dict[str, Any] | None:
    """Show how well each uncertainty score finds the best model's errors; None if not measured."""
    best = context.study.best
    path = doubt_path(context.workspace.heads, best["head_id"])
    measured = context.read(partial(read_doubt, path)) if path.exists() else None
    if measured is None:
        return None
    found, _ = measured
    return {
        "doubt": found,
        "chosen": SCORES[found.chosen].summary,
        "images": sum(found.material.values()),
        "scores": [
            {
                "name": name,
                "summary": SCORES[name].summary if name in SCORES else "",
                "power": power,
                "chosen": name == found.chosen,
            }
            for name, power in found.power.items()
        ],
    }
