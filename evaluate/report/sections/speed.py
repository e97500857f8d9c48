"""What a model costs: accuracy against latency and size, stages of the time, throughput."""

import json
from itertools import pairwise
from typing import Any

from evaluate.benchmark.timing import STAGES
from evaluate.leaderboard import first_of_each, interval_of, is_random
from evaluate.report.charts import Chart, Line, Mark, front, logarithmic, shares
from evaluate.report.context import ReportContext
from evaluate.report.sections.leaderboard import model, short_name
from evaluate.results import Row

PLACE, VARIANT = ("pretrained_model", "hardware_type"), ("engine", "numeric_precision")
MIB_OF_ONE = 20.0  # a model of so many MiB is an ordinary mark
SMALLEST, LARGEST = 0.3, 12.0  # areas of marks


def trade_off(context: ReportContext) -> dict[str, Any] | None:
    """Draw accuracy against latency and size; None where no latency was measured."""
    rows = [row for row in context.drawn if row["latency_p50_ms"] == row["latency_p50_ms"]]
    if not rows:
        return None
    points = [(row["latency_p50_ms"], row["accuracy"]) for row in rows]
    best = front([(x, y) for (x, y), row in zip(points, rows, strict=True)])
    marks = tuple(
        Mark(x, y, context.colours[row["pretrained_model"]], _words(context, row), _area(row),
             interval_of(row), is_random(row))
        for (x, y), row in zip(points, rows, strict=True)
    )  # fmt: skip
    intervals = [end for row in rows for end in interval_of(row)]
    chart = Chart(
        "Accuracy against latency, size as area",
        logarithmic("latency of a single image, median", [x for x, _ in points], "ms"),
        shares("test accuracy", intervals),
        (Line(_steps([points[i] for i in best]), -1, "nothing is faster and better", "dashed"),),
        marks,
        (
            *((number, "mark", name) for name, number in context.colours.items()),
            (-1, "dashed", "nothing is faster and better"),
        ),
    )
    return {
        "chart": chart,
        "rows": [
            model(context, row) | {"front": i in best} | _at_best(row) for i, row in enumerate(rows)
        ],
        "left_out": len(context.study.rows) - len(rows),
    }


def _at_best(row: Row) -> dict[str, Any]:
    """Return how long an image takes in batches of the size that is fastest, and that size."""
    rates = _by_batch(row)
    batch = max(rates, key=lambda size: rates[size], default=None)
    return {"batch": batch, "batch_ms": 1000 / rates[batch] if batch and rates[batch] else None}


def _steps(points: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Join points of a front by steps: between two of them, the slower one's score is not had."""
    found = points[:1]
    for (_, before), (x, y) in pairwise(points):
        found += [(x, before), (x, y)]
    return tuple(found)


def _area(row: Row) -> float:
    size = row["size_mib"]
    return 1.0 if size != size else min(max(size / MIB_OF_ONE, SMALLEST), LARGEST)


def _words(context: ReportContext, row: Row) -> str:
    words = f"#{row['model_id']} {short_name(context, row)}: {row['accuracy']:.1%}"
    words += f", {row['latency_p50_ms']:.3g} ms"
    return words if row["size_mib"] != row["size_mib"] else f"{words}, {row['size_mib']:.3g} MiB"


def costs(context: ReportContext) -> dict[str, Any] | None:
    """Show stages, percentiles, throughput and sizes of the best model of each backbone, device,
    engine and precision; None where nothing was measured.
    """
    rows = [
        row
        for row in first_of_each(context.study.rows, *PLACE, *VARIANT)
        if row["latency_p50_ms"] == row["latency_p50_ms"]
    ]
    if not rows:
        return None
    stages = [json.loads(row["stages_ms"]) for row in rows]
    throughput = [_by_batch(row) for row in rows]
    slowest = max(sum(each.values()) for each in stages) or 1.0
    batches = sorted({batch for each in throughput for batch in each})
    fastest = max((rate for each in throughput for rate in each.values()), default=1.0)
    return {
        "stages": [name for name in STAGES if any(name in each for each in stages)],
        "batches": batches,
        "rows": [
            model(context, row)
            | {
                "what": _what(row, rows),
                "stages": spent,
                "widths": {name: 100 * ms / slowest for name, ms in spent.items()},
                "rates": [
                    {"rate": rates.get(batch), "share": rates.get(batch, 0.0) / (fastest or 1.0)}
                    for batch in batches
                ],
            }
            for row, spent, rates in zip(rows, stages, throughput, strict=True)
        ],
    }


def _by_batch(row: Row) -> dict[int, float]:
    return {int(batch): float(rate) for batch, rate in json.loads(row["throughput"]).items()}


def _what(row: Row, rows: list[Row]) -> str:
    """Name a backbone and device, and engine and precision where it has several of them."""
    same = [r for r in rows if all(r[name] == row[name] for name in PLACE)]
    varying = [name for name in VARIANT if len({r[name] for r in same}) > 1]
    name = f"{row['pretrained_model']} on {row['hardware_type']}"
    return ", ".join([name, *(str(row[column]) for column in varying)])
