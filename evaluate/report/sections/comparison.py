"""Model comparison: the best model against the others, and what each choice is worth."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluate.metrics import METRICS, Labels, Probabilities
from evaluate.predictions import Predictions
from evaluate.report.context import ReportContext, read_answers
from evaluate.report.sections.leaderboard import FILTERS, short_name
from evaluate.results import Row
from evaluate.statistics.comparison import (
    SIGNIFICANT,
    Comparison,
    compare,
    compare_all,
    in_words,
    paired_bootstrap,
)
from evaluate.statistics.effects import effect_in_words, factor_effects
from evaluate.workspace.layout import Workspace

TOLD = 3  # comparisons that are described in words
RESAMPLED = 2_000_000  # images drawn for one interval, at most


def evidence(context: ReportContext) -> dict[str, Any] | None:
    """Show the best model against the others, and what each choice is worth; None if neither."""
    found = {"against": against_the_best(context), "effects": effects(context)}
    return found if any(found.values()) else None


def against_the_best(context: ReportContext) -> dict[str, Any] | None:
    """Compare the best model with the others drawn; None where no predictions are there."""
    rows = [row for row in context.drawn if row["model_id"] in context.answers]
    if len(rows) < 2 or rows[0] is not context.study.best:
        return None
    labels, probabilities = on_the_same_images([context.answers[row["model_id"]] for row in rows])
    if not len(labels):
        return None
    right = np.stack([of_model.argmax(1) == labels for of_model in probabilities])
    pairs = compare_all(right)
    against = [(rows[j], found, p) for i, j, found, p in pairs if i == 0]
    limit = limit_of([found.interval for _, found, _ in against])
    rivals = _worth_telling(against)
    best = f"#{rows[0]['model_id']} {short_name(context, rows[0])}"
    return {
        "best": best,
        "images": right.shape[1],
        "limit": limit,
        "told": [
            in_words(best, f"#{row['model_id']} {short_name(context, row)}", found, p)
            for row, found, p in rivals
        ],
        "scores": [
            {"id": row["model_id"], "name": short_name(context, row)}
            | {
                "differences": _differences(
                    labels, probabilities[0], probabilities[rows.index(row)]
                )
            }
            for row, *_ in rivals
        ],
        "others": [
            {
                "id": row["model_id"],
                "name": short_name(context, row),
                "comparison": found,
                "adjusted_p": p,
                "distinct": p < SIGNIFICANT,
                "bar": bar(found.difference, found.interval, limit),
            }
            for row, found, p in against
        ],
        "undecided": sum(p >= SIGNIFICANT for _, _, p in against),
        "pairs": len(pairs),
        "decided_pairs": sum(p < SIGNIFICANT for *_, p in pairs),
        "left_out": len(context.study.rows) - len(rows),
    }


def effects(context: ReportContext) -> dict[str, Any] | None:
    """Say what each choice, such as that of a backbone, is worth, over all models."""
    rows, right = _all_right(context)
    found = factor_effects(rows, right) if len(rows) > 1 else []
    if not found:
        return None
    limit = limit_of([effect.interval for effect in found])
    return {
        "limit": limit,
        "rows": [
            {
                "factor": FILTERS[effect.factor],
                "effect": effect,
                "words": effect_in_words(effect),
                "distinct": effect.adjusted_p < SIGNIFICANT,
                "bar": bar(effect.difference, effect.interval, limit),
            }
            for effect in found
        ],
    }


def compared(first: Row, second: Row, workspace: Workspace) -> Comparison | None:
    """Compare two models on the images that both answered; None where there are no predictions.

    Raises:
        ResultsError: predictions are damaged.
    """
    one, other = (read_answers(row, workspace) for row in (first, second))
    if one is None or other is None:
        return None
    labels, probabilities = on_the_same_images([one, other])
    if not len(labels):
        return None
    right = [of_model.argmax(1) == labels for of_model in probabilities]
    return compare(right[0], right[1])


def on_the_same_images(answers: Sequence[Predictions]) -> tuple[Labels, list[Probabilities]]:
    """Return labels [N], and probabilities [N, C] of each model, on the images that all have.

    Those that are leaked for one are left out for all.
    """
    clean = [found.clean for found in answers]
    shared = set(clean[0].hashes).intersection(*(set(found.hashes) for found in clean[1:]))
    orders = []
    for found in clean:
        rows = {key: i for i, key in enumerate(found.hashes)}
        orders.append(np.array([rows[key] for key in sorted(shared)], dtype=np.int64))
    labels = clean[0].labels[orders[0]]
    return labels, [f.probabilities[order] for f, order in zip(clean, orders, strict=True)]


def _differences(
    labels: Labels, best: Probabilities, other: Probabilities
) -> dict[str, tuple[float, tuple[float, float]]]:
    """Return the best's score minus the other's, and its interval, for scores besides accuracy."""
    resamples = int(np.clip(RESAMPLED // len(labels), 200, 2000))
    intervals = paired_bootstrap(labels, best, other, resamples)
    return {
        name: (METRICS[name].score(labels, best) - METRICS[name].score(labels, other), interval)
        for name, interval in intervals.items()
    }


def bar(value: float, interval: tuple[float, float], limit: float) -> dict[str, float]:
    """Place a difference and its interval between -limit and limit, as percentages from the left;
    an end that lies beyond is cut off.
    """
    places = (value, *interval)
    middle, low, high = (50 + 50 * min(max(value / limit, -1), 1) for value in places)
    return {"middle": round(middle, 2), "low": round(low, 2), "high": round(high, 2)}


def limit_of(intervals: Sequence[tuple[float, float]]) -> float:
    """Return the next ten points that no finite end of an interval exceeds."""
    ends = [abs(end) for interval in intervals for end in interval if end == end]
    return float(max(np.ceil(max([*ends, 0.0]) * 10 - 1e-9), 1) / 10)


def _worth_telling(
    against: Sequence[tuple[Row, Comparison, float]],
) -> list[tuple[Row, Comparison, float]]:
    """Return the first others of which each compares otherwise than those before it."""
    first: dict[tuple[int, int], tuple[Row, Comparison, float]] = {}
    for each in against:
        first.setdefault((each[1].first_only, each[1].second_only), each)
    return list(first.values())[:TOLD]


def _all_right(context: ReportContext) -> tuple[list[Row], NDArray[np.bool_]]:
    """Return the rows whose predictions are there, on the best one's images, and which answers
    are right: bool [rows, images].
    """
    kept, rights, images = list[Row](), list[NDArray[np.bool_]](), list[bytes]()
    for row in context.study.rows:
        found = context.read(partial(read_answers, row, context.workspace))
        if found is None:
            continue
        clean = found.clean
        order = np.argsort(np.array([key.hex() for key in clean.hashes]))
        hashes = [clean.hashes[i] for i in order]
        images = images or hashes
        if hashes == images:
            kept.append(row)
            rights.append((clean.probabilities.argmax(1) == clean.labels)[order])
    return kept, np.array(rights, dtype=np.bool_).reshape(len(kept), len(images))
