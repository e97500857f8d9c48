"""Frozen backbones against networks trained as a whole: what freezing costs, and what it saves."""

from collections.abc import Sequence
from typing import Any

from evaluate.leaderboard import first_of_each
from evaluate.report.context import ReportContext
from evaluate.report.sections.comparison import bar, compared, limit_of
from evaluate.report.sections.leaderboard import model, short_name
from evaluate.results import Row
from evaluate.statistics.comparison import SIGNIFICANT, Comparison, holm, in_words
from heads.config import FROZEN

PLACE = ("pretrained_model", "hardware_type")


def frozen_or_whole(context: ReportContext) -> list[dict[str, Any]]:
    """Compare, on each backbone and device with both, the best frozen model with the best model of
    each other mode and head.

    Raises:
        ResultsError: predictions are damaged.
    """
    places: dict[tuple[str, ...], list[Row]] = {}
    for row in context.study.rows:
        places.setdefault(tuple(row[name] for name in PLACE), []).append(row)
    found = []
    for (backbone, device), rows in places.items():
        frozen = next((row for row in rows if row["mode"] == FROZEN), None)
        whole = [row for row in rows if row["mode"] != FROZEN]
        if frozen and whole:
            best = first_of_each(whole, "mode", "classifier_head")
            name = f"{backbone} on {device}"
            found.append({"name": name} | _compared_with(context, frozen, best))
    return found


def _compared_with(context: ReportContext, frozen: Row, whole: Sequence[Row]) -> dict[str, Any]:
    pairs = [(row, compared(row, frozen, context.workspace)) for row in whole]
    limit = limit_of([found.interval for _, found in pairs if found])
    known = [found.p_value for _, found in pairs if found]
    adjusted = iter(holm(known).tolist())
    lines = [
        _line(context, frozen, row, found, next(adjusted) if found else 1.0, limit)
        for row, found in pairs
    ]
    return {
        "frozen": model(context, frozen) | _times(frozen) | {"distinct": False},
        "limit": limit,
        "lines": lines,
    }


def _line(
    context: ReportContext,
    frozen: Row,
    row: Row,
    found: Comparison | None,
    adjusted_p: float,
    limit: float,
) -> dict[str, Any]:
    ours, theirs = _times(frozen), _times(row)
    name, other = (f"#{r['model_id']} {short_name(context, r)}" for r in (row, frozen))
    points = row["accuracy"] - frozen["accuracy"]
    words = in_words(name, other, found, adjusted_p) if found else ""
    return (
        model(context, row)
        | theirs
        | {
            "comparison": found,
            "points": found.difference if found else points,
            "distinct": adjusted_p < SIGNIFICANT,
            "bar": found and bar(found.difference, found.interval, limit),
            "words": words,
            "with_embedding": _ratio(theirs["training"], ours["training"] + ours["embedding"]),
            "head_alone": _ratio(theirs["training"], ours["training"]),
        }
    )


def _times(row: Row) -> dict[str, float]:
    """Return seconds: of training, and of extracting embeddings."""
    return {
        "training": row["training_time_mins"] * 60,
        "embedding": row["embedding_time_mins"] * 60,
    }


def _ratio(long: float, short: float) -> float:
    return long / short if short else float("nan")
