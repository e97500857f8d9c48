"""The best model that may cost so much and no more."""

from collections.abc import Sequence
from dataclasses import dataclass

from evaluate.leaderboard import Leaderboard, configuration_name, is_random, right_answers
from evaluate.results import Row
from evaluate.statistics.comparison import Comparison, difference_in_words, verdict

MIB, MB = 2**20, 10**6  # bytes


@dataclass(frozen=True)
class Limits:
    """What a model may cost; None: no limit.

    Attributes:
        max_latency_ms: Milliseconds for a single image, from file to label, the median.
        max_size_mb: Backbone and head as fp32, in 10^6 bytes.
    """

    max_latency_ms: float | None = None
    max_size_mb: float | None = None

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return self.max_latency_ms is not None or self.max_size_mb is not None


NO_LIMITS = Limits()


def size_mb(row: Row) -> float:
    """Return a model's size in 10^6 bytes; NaN where it was not measured."""
    return float(row["size_mib"] * MIB / MB)


def fits(row: Row, limits: Limits) -> bool:
    """Tell whether a model keeps the limits; what was not measured keeps none."""
    fast = limits.max_latency_ms is None or row["latency_p50_ms"] <= limits.max_latency_ms
    small = limits.max_size_mb is None or size_mb(row) <= limits.max_size_mb
    return bool(fast and small)


def choose(rows: Sequence[Row], limits: Limits) -> Row | None:
    """Return the first of ranked rows that fits: validation chose, as ever. None if none does."""
    return next((row for row in rows if fits(row, limits)), None)


def nearest(rows: Sequence[Row], limits: Limits) -> dict[str, Row]:
    """Return the model nearest to each limit given: `fastest` and `smallest`, as far as measured.

    Of several that are equally near, the first.
    """
    found = {}
    timed = [row for row in rows if row["latency_p50_ms"] == row["latency_p50_ms"]]
    sized = [row for row in rows if row["size_mib"] == row["size_mib"]]
    if limits.max_latency_ms is not None and timed:
        found["fastest"] = min(timed, key=lambda row: float(row["latency_p50_ms"]))
    if limits.max_size_mb is not None and sized:
        found["smallest"] = min(sized, key=size_mb)
    return found


def describe_choice(study: Leaderboard, limits: Limits, against: Comparison | None) -> str:
    """Say which model is the best within the limits, and what it gives up; if none fits, which come
    nearest.

    Args:
        against: The chosen model compared with the best of all, where predictions of both are
            there.
    """
    chosen, best = choose(study.rows, limits), study.best
    if chosen is None:
        near = nearest(study.rows, limits)
        told = [f"the {which} is {_with_costs(row)}" for which, row in near.items()]
        found = "; ".join(told) or "none was timed and weighed"
        return f"No model fits within {limits_in_words(limits)}; {found}"
    words = (
        f"Within {limits_in_words(limits)}: {_with_costs(chosen)}, {right_answers(chosen)} of "
        f"{chosen['n_test']} test images right ({chosen['accuracy']:.1%})"
    )
    if is_random(chosen):
        words += ", with RANDOM weights"
    if chosen is best:
        return f"{words}. It is the best of all"
    words += f". The best of all, {_with_costs(best)}, has {best['accuracy']:.1%}"
    if against is None:
        return words
    loss = difference_in_words(against.difference, against.interval)
    return f"{words}: {loss}{verdict(against.p_value, against.p_value, against.images)}"


def limits_in_words(limits: Limits) -> str:
    """Say the limits given: `20 ms and 25 MB`."""
    pairs = ((limits.max_latency_ms, "ms"), (limits.max_size_mb, "MB"))
    return " and ".join(f"{value:,g} {unit}" for value, unit in pairs if value is not None)


def _with_costs(row: Row) -> str:
    costs = ((row["latency_p50_ms"], "ms"), (size_mb(row), "MB"))
    known = ", ".join(f"{value:,.2f} {unit}" for value, unit in costs if value == value)
    name = f"model {row['model_id']}, {configuration_name(row)}"
    return f"{name} ({known})" if known else name
