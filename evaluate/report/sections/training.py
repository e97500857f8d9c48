"""The course of training: loss and accuracy by epoch."""

from typing import Any

from evaluate.report.charts import Chart, Line, linear, shares, thinned
from evaluate.report.context import ReportContext
from evaluate.results import Row
from heads.config import FROZEN

MAX_CURVES = 8  # heads in one chart


def courses(context: ReportContext) -> list[dict[str, Any]]:
    """Draw loss and accuracy by epoch, a pair of charts for each backbone and device; heads that
    were fitted at once have no course.
    """
    groups: dict[str, list[Row]] = {}
    for row in context.drawn:
        info = context.infos.get(row["model_id"])
        if info and len(info.curves["validation_loss"]) > 1:
            groups.setdefault("{pretrained_model} on {hardware_type}".format(**row), []).append(row)
    return [
        {
            "name": name,
            "charts": [_course(context, rows[:MAX_CURVES], m) for m in ("loss", "accuracy")],
            "legend": [(i, "full", _head_name(row)) for i, row in enumerate(rows[:MAX_CURVES])],
            "heads": [_epochs(context, row) for row in rows[:MAX_CURVES]],
        }
        for name, rows in groups.items()
    ]


def _course(context: ReportContext, rows: list[Row], measure: str) -> Chart:
    lines, values = list[Line](), list[float]()
    for colour, row in enumerate(rows):
        name = _head_name(row)
        for part, style in (("training", "dashed"), ("validation", "full")):
            course = context.infos[row["model_id"]].curves[f"{part}_{measure}"]
            values += course
            points = tuple((float(i), v) for i, v in enumerate(course, start=1) if v == v)
            if points:
                lines.append(Line(thinned(points), colour, f"{name}, {part}", style))
    y = shares("accuracy") if measure == "accuracy" else linear("loss", [0, *values], low=0)
    last = max(x for line in lines for x, _ in line.points)
    return Chart(
        f"{measure} by epoch",
        linear("epoch", [1, last], low=1, high=last),
        y,
        tuple(lines),
    )


def _epochs(context: ReportContext, row: Row) -> dict[str, Any]:
    info = context.infos[row["model_id"]]
    names = [f"{part}_{m}" for part in ("training", "validation") for m in ("loss", "accuracy")]
    return {
        "name": f"#{row['model_id']} {_head_name(row)}",
        "kept": info.epoch + 1,
        "epochs": list(zip(*(info.curves[name] for name in names), strict=True)),
    }


def _head_name(row: Row) -> str:
    name = f"#{row['model_id']} {row['classifier_head']} · {row['opt_alg']}"
    return name if row["mode"] == FROZEN else f"{name} · {row['mode']}"
