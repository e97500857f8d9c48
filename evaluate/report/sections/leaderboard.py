"""All models, ranked: the table, what several seeds say together, bars and heat map."""

from typing import Any

from evaluate.leaderboard import (
    configuration_name,
    images_in_words,
    interval_of,
    is_random,
    right_answers,
)
from evaluate.metrics import METRICS
from evaluate.report.charts import shade
from evaluate.report.context import ReportContext
from evaluate.report.published_results import Published, comparable, ours, with_leaked
from evaluate.results import Row
from evaluate.statistics.comparison import accuracy_interval
from evaluate.statistics.effects import over_seeds
from evaluate.text import printable
from heads.config import FROZEN

MAX_ROWS = 64  # of the heat map
GROUPED = ("classifier_head", "opt_alg", "mode", "hardware_type")
FEW, IN_GROUP, MAX_GROUPS = 10, 5, 24  # models, of a group, groups
# What the table can be filtered by: column of results.csv, and in words.
FILTERS = {
    "pretrained_model": "backbone",
    "hardware_type": "device",
    "classifier_head": "head",
    "opt_alg": "optimizer",
    "mode": "mode",
}


def ranking(context: ReportContext) -> dict[str, Any]:
    """Show the ranked table, and a summary of configurations that several seeds trained."""
    study = context.study
    return {
        "rows": [
            model(context, row) | {"rank": rank} for rank, row in enumerate(study.rows, start=1)
        ],
        "filters": FILTERS,
        "modes": any(row["mode"] != FROZEN for row in study.rows),
        "settings": any(study.settings(row) for row in study.rows),
        "seeds": [
            {"name": configuration_name(dict(found.row)), "found": found}
            for found in over_seeds(study.rows)
        ],
        "groups": best_of_groups(context),
    }


def best_of_groups(context: ReportContext) -> dict[str, Any] | None:
    """Show the first models of each head, optimizer, mode and device, as far as these differ; None
    where there is one group only, or few models at all.
    """
    rows, groups = context.study.rows, dict[tuple[str, ...], list[Row]]()
    varying = [name for name in GROUPED if len({row[name] for row in rows}) > 1]
    for row in rows:
        groups.setdefault(tuple(row[name] for name in varying), []).append(row)
    if len(groups) < 2 or len(rows) <= FEW:
        return None
    shown = list(groups.items())[:MAX_GROUPS]
    return {
        "names": [FILTERS[name] for name in varying],
        "first": IN_GROUP,
        "left_out": len(groups) - len(shown),
        "rows": [
            {"key": key, "place": rank, "name": short_name(context, row), "row": row}
            for key, them in shown
            for rank, row in enumerate(them[:IN_GROUP], start=1)
        ],
    }


def model(context: ReportContext, row: Row) -> dict[str, Any]:
    """Return a row for the templates: with its interval, its name and how it differs."""
    return {
        **row,
        "name": short_name(context, row),
        "interval": interval_of(row),
        "right": right_answers(row),
        "images": images_in_words(row),
        "random": is_random(row),
        "settings": printable(context.study.settings(row)),
        "colour": context.colours[row["pretrained_model"]],
    }


def short_name(context: ReportContext, row: Row) -> str:
    """Name a model in few words; its number tells it from all others."""
    name = f"{row['pretrained_model']} · {row['classifier_head']}"
    if row["opt_alg"] != "none":
        name += f" · {row['opt_alg']}"
    if row["mode"] != FROZEN:
        name += f" · {row['mode']}"
    devices = {other["hardware_type"] for other in context.study.rows}
    return f"{name} · {row['hardware_type']}" if len(devices) > 1 else name


def heat_map(context: ReportContext) -> dict[str, Any]:
    """Show every metric of the first `MAX_ROWS` models, shaded from the lowest score to 1."""
    rows, names = context.study.rows[:MAX_ROWS], list(METRICS)
    values = [float(row[name]) for row in rows for name in names if row[name] == row[name]]
    low = min([*values, 0.9])
    return {
        "metrics": names,
        "low": low,
        "left_out": len(context.study.rows) - len(rows),
        "rows": [
            {
                "id": row["model_id"],
                "name": short_name(context, row),
                "cells": [_cell(float(row[name]), low) for name in names],
            }
            for row in rows
        ],
    }


def _cell(value: float, low: float) -> dict[str, Any]:
    """Return a score with its shade, from `low` to 1; one that there is none of is blank."""
    if value != value:
        return {"text": None, "fill": "none", "light": False}
    share = (value - low) / (1 - low)
    return {"text": f"{value:.3f}", "fill": shade(share), "light": share > 0.55}


def beside_ours(context: ReportContext) -> dict[str, Any] | None:
    """Show each published model with ours of the same kind; None if it is of other classes."""
    known = [p for p in context.published if len(p.matrix) == len(context.classes)]
    if not known:
        return None
    lines = [_line(context, each) for each in known]
    return {
        "notes": comparable(known, context.study.rows),
        "lines": lines,
        "unmatched": sum(line["row"] is None for line in lines),
    }


def _line(context: ReportContext, published: Published) -> dict[str, Any]:
    row = ours(published, context.study.rows)
    return {
        "published": published,
        "interval": accuracy_interval(published.right, published.images),
        "row": row and model(context, row),
        "with_leaked": row and with_leaked(row),
    }
