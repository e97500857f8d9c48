"""Our models beside those that others published."""

from typing import Any

from evaluate.page.material import Material
from evaluate.page.ranking import model
from evaluate.published import Published, comparable, ours, with_leaked
from evaluate.statistics import accuracy_interval


def beside_ours(material: Material) -> dict[str, Any] | None:
    """Show each published model with ours of the same kind; None if it is of other classes."""
    known = [p for p in material.published if len(p.matrix) == len(material.classes)]
    if not known:
        return None
    lines = [_line(material, each) for each in known]
    return {
        "notes": comparable(known, material.study.rows),
        "lines": lines,
        "unmatched": sum(line["row"] is None for line in lines),
    }


def _line(material: Material, published: Published) -> dict[str, Any]:
    row = ours(published, material.study.rows)
    return {
        "published": published,
        "interval": accuracy_interval(published.right, published.images),
        "row": row and model(material, row),
        "with_leaked": row and with_leaked(row),
    }
