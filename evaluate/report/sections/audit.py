"""What the audit found in the images, with pictures: of the report and of a page of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluate.audit.findings import FINDINGS, Audit, DuplicatePair, Seen
from evaluate.audit.outliers import ODD
from evaluate.report.thumbnails import thumbnail
from evaluate.text import printable
from evaluate.workspace.image_files import ImageFiles

SIDE_PX = 112
GROUPS, IN_GROUP, PAIRS, LISTED = 24, 8, 24, 100  # shown at most


def audited(audit: Audit, files: ImageFiles) -> dict[str, Any]:
    """Return an audit for the templates: counts, pairs and groups with pictures, tables.

    Args:
        files: Where its images are found.
    """
    within = [a for a in audit.alike if a not in (*audit.leaks, *audit.conflicts)]
    closest: dict[int, DuplicatePair] = {}
    for pair in within:
        group = audit.images[pair.first].group
        closest[group] = max(closest.get(group, pair), pair, key=_likeness)
    return {
        "dataset": printable(audit.dataset),
        "test": printable(audit.test) if audit.test else None,
        "cache": audit.cache,
        "images": len(audit.images),
        "counts": [
            {"name": name, "summary": finding.summary, "count": finding.count(audit)}
            for name, finding in FINDINGS.items()
        ],
        "leaks": _pairs(audit, audit.leaks, files),
        "conflicts": _pairs(audit, audit.conflicts, files),
        "groups": _capped(
            [
                {
                    "images": [_image(audit.images[i], files) for i in group[:IN_GROUP]],
                    "more": len(group) - IN_GROUP,
                    "likeness": _in_words(closest[audit.images[group[0]].group])
                    if audit.images[group[0]].group in closest
                    else "",
                }
                for group in audit.groups[:GROUPS]
            ],
            len(audit.groups),
        ),
        "unreadable": _capped(
            [(printable(Path(path).name), reason) for path, reason in audit.unreadable[:LISTED]],
            len(audit.unreadable),
        ),
        "odd": _capped(
            [
                {
                    "image": _image(audit.images[odd.image], files),
                    "what": ODD[odd.what].summary if odd.what in ODD else odd.what,
                    "note": odd.note,
                }
                for odd in audit.odd[:PAIRS]
            ],
            len(audit.odd),
        ),
        "properties": [printable(each.note) for each in audit.properties],
        "balance": _balance(audit),
    }


def _pairs(audit: Audit, pairs: Sequence[DuplicatePair], files: ImageFiles) -> dict[str, Any]:
    shown = [
        {
            "first": _image(audit.images[pair.first], files),
            "second": _image(audit.images[pair.second], files),
            "likeness": _in_words(pair),
        }
        for pair in pairs[:PAIRS]
    ]
    return _capped(shown, len(pairs))


def _capped(shown: Sequence[Any], total: int) -> dict[str, Any]:
    return {"shown": shown, "more": total - len(shown)}


def _image(image: Seen, files: ImageFiles) -> dict[str, Any]:
    path = Path(image.path)
    return {
        "name": printable(path.name),
        "label": printable(image.label),
        "part": image.part,
        "picture": thumbnail(files, path, bytes.fromhex(image.sha256), SIDE_PX),
    }


def _likeness(pair: DuplicatePair) -> tuple[bool, int]:
    return pair.exact, -pair.bits


def _in_words(pair: DuplicatePair) -> str:
    if pair.exact:
        return "the same bytes"
    words = f"hashes differ in {pair.bits} of 63 bits"
    return words if pair.cosine is None else f"cosine {pair.cosine:.3f}, {words}"


def _balance(audit: Audit) -> dict[str, Any]:
    labels = sorted({label for counts in audit.balance.values() for label in counts})
    most = max((n for counts in audit.balance.values() for n in counts.values()), default=1)
    return {
        "parts": list(audit.balance),
        "rows": [
            {
                "label": printable(label),
                "counts": [counts.get(label, 0) for counts in audit.balance.values()],
                "shares": [counts.get(label, 0) / most for counts in audit.balance.values()],
            }
            for label in labels
        ],
    }
