"""The only ranking of measured models."""

from collections.abc import Mapping, Sequence
from math import inf, nan
from typing import Any, TypeVar

from evaluate.text import NOT_TRAINED
from heads.preference import Preference, preference

Row = TypeVar("Row", bound=Mapping[str, Any])


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Return rows of `results.csv` of one study, the best first, by what validation says.

    Choosing by the test score would make the test score a boast. Backbones with random weights that
    were never trained come last; before them come heads whose split divided near duplicates, which
    makes validation too easy. All others by `heads.preference`: validation accuracy, calibrated
    loss, regularisation, simplicity; equal ones by model_id. A row of an earlier version has no
    calibrated loss, and is behind its equals.
    """
    most = max((float(row["n_groups"]) for row in rows), default=0.0)

    def sort_key(row: Row) -> tuple[bool, bool, Preference, int]:
        untrained = str(row["weights"]).startswith("random") and row["mode"] in NOT_TRAINED
        simplicity = _number(row, "parameters")
        key = preference(
            _number(row, "val_accuracy"),
            _number(row, "val_calibrated_loss"),
            _number(row, "weight_decay"),
            inf if simplicity != simplicity else simplicity,
        )
        return untrained, float(row["n_groups"]) < most, key, int(row.get("model_id", 0))

    return sorted(rows, key=sort_key)


def _number(row: Mapping[str, Any], name: str) -> float:
    """Return a number, NaN where there is none."""
    value = row.get(name)
    return nan if value in (None, "") else float(value)
