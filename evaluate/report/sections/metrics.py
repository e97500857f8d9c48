"""Metrics: accuracy, confusion, classes, ROC, calibration, every metric."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluate.leaderboard import confusion, confusions
from evaluate.metrics import log_odds
from evaluate.report.charts import Chart, Line, Mark, shade, shares, thinned
from evaluate.report.context import ReportContext
from evaluate.report.sections.leaderboard import heat_map, model, short_name
from evaluate.results import Row
from evaluate.statistics.calibration import calibrated, reliability
from evaluate.statistics.comparison import accuracy_interval
from evaluate.text import printable

MAX_CLASSES = 30  # that a matrix is drawn of, cell by cell
MAX_CURVES = 8  # in one chart
CONFUSED = 12  # pairs of classes, of a matrix that is too large to be drawn
POINTS = 60  # of a curve in a table


def quality(context: ReportContext) -> dict[str, Any]:
    """Show accuracies, confusion, ROC, calibration and every metric."""
    return {
        "bars": [model(context, row) for row in context.drawn],
        "left_out": len(context.study.rows) - len(context.drawn),
        "confusions": matrices(context),
        "roc": roc(context),
        "calibration": calibration(context),
        "heat": heat_map(context),
    }


def matrices(context: ReportContext) -> list[dict[str, Any]]:
    """Return the confusion matrix and the classes' scores of the best model of each backbone."""
    return [model(context, row) | _matrix(row, context.classes) for row in context.champions]


def _matrix(row: Row, classes: list[str]) -> dict[str, Any]:
    counts = np.array(confusion(row)[1], dtype=np.int64)
    of_class = counts.sum(1, keepdims=True)
    part = counts / np.maximum(of_class, 1)
    drawn = len(classes) <= MAX_CLASSES
    cells = [
        {
            "label": label,
            "cells": [
                {"count": n, "fill": shade(share), "light": share > 0.55}
                for n, share in zip(line.tolist(), part[i].tolist(), strict=True)
            ],
        }
        for i, (label, line) in enumerate(zip(classes, counts, strict=True))
    ]
    return {
        "matrix": cells if drawn else None,
        "confused": [] if drawn else _confused(row),
        "classes": _classes(counts, classes),
    }


def _confused(row: Row) -> list[dict[str, Any]]:
    return [
        {"true": printable(true), "predicted": printable(said), "count": count, "of": total}
        for true, said, count, total in confusions(row)[:CONFUSED]
    ]


def _classes(counts: NDArray[np.int64], classes: list[str]) -> list[dict[str, Any]]:
    """Return precision, recall with its interval, F1 and support of each class."""
    found = []
    for i, label in enumerate(classes):
        right, support, said = int(counts[i, i]), int(counts[i].sum()), int(counts[:, i].sum())
        found.append(
            {
                "label": label,
                "precision": right / said if said else None,
                "recall": right / support if support else None,
                "interval": accuracy_interval(right, support) if support else None,
                "f1": 2 * right / (support + said) if support + said else None,
                "support": support,
            }
        )
    return found


def roc(context: ReportContext) -> dict[str, Any] | None:
    """Draw ROC curves: of two classes, of each backbone's best model; of more, of the best model's
    classes, each against the rest. If there are too many, those of the smallest areas are drawn.
    """
    from sklearn.metrics import auc, roc_curve

    curves = list[dict[str, Any]]()
    for name, positive, scores in _scored(context):
        if 0 < positive.sum() < len(positive):
            x, y, _ = roc_curve(positive, scores)
            points = tuple(zip(x.tolist(), y.tolist(), strict=True))
            curves.append({"name": name, "area": float(auc(x, y)), "points": points})
    if not curves:
        return None
    drawn = curves
    if len(curves) > MAX_CURVES:
        drawn = sorted(curves, key=lambda curve: curve["area"])[:MAX_CURVES]
    lines = [
        Line(thinned(curve["points"]), number, f"{curve['name']}: area {curve['area']:.3f}")
        for number, curve in enumerate(drawn)
    ]
    chart = Chart(
        "ROC: true positives against false positives",
        shares("false positive rate"),
        shares("true positive rate"),
        (Line(((0.0, 0.0), (1.0, 1.0)), -1, "guessing", "dotted"), *lines),
        legend=tuple((line.colour, "full", line.name) for line in lines),
    )
    tables = [curve | {"points": thinned(curve["points"], POINTS)} for curve in drawn]
    return {"chart": chart, "drawn": tables, "curves": curves}


def _scored(context: ReportContext) -> list[tuple[str, NDArray[np.bool_], NDArray[np.float64]]]:
    """Return what ROC curves are drawn of: name, which images are positive, their scores."""
    classes = context.classes
    if len(classes) == 2:
        known = [r for r in context.champions if r["model_id"] in context.answers]
        found = [(row, context.answers[row["model_id"]].clean) for row in known]
        return [
            (short_name(context, r), p.labels == 1, log_odds(p.probabilities)) for r, p in found
        ]
    best = context.answers.get(context.study.best["model_id"])
    if best is None:
        return []
    clean = best.clean
    return [(c, clean.labels == i, clean.probabilities[:, i]) for i, c in enumerate(classes)]


def calibration(context: ReportContext) -> dict[str, Any] | None:
    """Show how often the best model is right where it says so, before and after temperature."""
    best = context.study.best
    found = context.answers.get(best["model_id"])
    if found is None:
        return None
    steps = [("as the head says", "dashed", 6, found.clean.probabilities)]
    if best["temperature"] == best["temperature"]:
        after = calibrated(found.clean.probabilities, best["temperature"])
        steps.append(("after temperature", "full", 0, after))
    lines, marks, tables = list[Line](), list[Mark](), list[dict[str, Any]]()
    for name, style, colour, probabilities in steps:
        bins = reliability(found.clean.labels, probabilities)
        points = tuple((b.confidence, b.accuracy) for b in bins)
        lines.append(Line(points, colour, name, style))
        marks += [
            Mark(b.confidence, b.accuracy, colour, f"{name}: {b.count} images, confidence "
                 f"{b.confidence:.1%}, right {b.accuracy:.1%}", max(b.count, 1) ** 0.5 / 2,
                 hollow=colour != 0)
            for b in bins
        ]  # fmt: skip
        tables.append({"name": name, "bins": bins})
    confidences = [b.confidence for table in tables for b in table["bins"]]
    chart = Chart(
        "Reliability: how often the best model is right, by how sure it is",
        shares("confidence", confidences),
        shares("share right", [0.0]),
        (Line(((min(confidences), min(confidences)), (1.0, 1.0)), -1, "ideal", "dotted"), *lines),
        tuple(marks),
        tuple((line.colour, line.style, line.name) for line in lines),
    )
    return {"chart": chart, "tables": tables, "row": best}
