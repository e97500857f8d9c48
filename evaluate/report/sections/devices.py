"""Whether devices agree: the embeddings of two, and what their models answered."""

from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

from cache.store import Cache, open_cache, summarize
from evaluate.leaderboard import SETTINGS, first_of_each
from evaluate.predictions import Predictions
from evaluate.report.context import ReportContext, read_answers
from evaluate.results import Row
from evaluate.statistics.device_agreement import in_words, parity
from heads.config import FROZEN
from heads.store import head_path, read_head

PLACE = (  # of a cache
    *("pretrained_model", "hardware_type", "numeric_precision", "weights"),
    *("fit", "normalization", "full_scale"),
)
# In what two models are equal that differ in nothing but the device.
MATCHED = (
    *("pretrained_model", "classifier_head", "opt_alg"),
    *(name for name in SETTINGS if name != "engine"),
)


def device_parity(context: ReportContext) -> list[dict[str, Any]]:
    """Compare each two devices of a backbone: embeddings of the test images, and answers.

    Raises:
        CacheError: a cache is damaged.
    """
    hashes = [key for found in list(context.answers.values())[:1] for key in found.hashes]
    lines = []
    for (of_first, first), (of_second, second) in combinations(_caches(context), 2):
        if replace(first.key, device="") != replace(second.key, device=""):
            continue
        shared = summarize(first).stored & summarize(second).stored
        common = [key for key in hashes if key in shared]
        if common:
            found = parity(first, second, common)
            pairs = _pairs(context, of_first, of_second)
            lines.append(
                {
                    "backbone": first.key.backbone,
                    "devices": f"{first.key.device}, {second.key.device}",
                    "precision": first.key.precision,
                    "found": found,
                    "words": in_words(first, second, found),
                    "heads": len(pairs),
                    "answers": sum(answers for answers, _ in pairs),
                    "differing": sum(len(differing) for _, differing in pairs),
                    "differing_images": len(set().union(*(keys for _, keys in pairs))),
                }
            )
    return lines


def _caches(context: ReportContext) -> list[tuple[Row, Cache]]:
    """Return the caches that the study's heads were trained on, by name, each with a row of it."""
    found = []
    for row in first_of_each(_frozen(context), *PLACE):
        path = head_path(context.workspace.heads, row["head_id"])
        head = context.read(partial(read_head, path)) if path.exists() else None
        if head:
            found.append((row, open_cache(context.workspace.cache, head.info.identity)))
    return sorted(found, key=lambda each: each[1].key.name)


def _pairs(context: ReportContext, first: Row, second: Row) -> list[tuple[int, set[bytes]]]:
    """Return of each two matched models how many images both answered, and on which they differ."""
    of_first = {_key(row): row for row in _frozen(context) if _same_place(row, first)}
    found = []
    for row in _frozen(context):
        other = of_first.get(_key(row)) if _same_place(row, second) else None
        if other is None:
            continue
        answers = [
            context.read(partial(read_answers, each, context.workspace)) for each in (other, row)
        ]
        if answers[0] and answers[1]:
            found.append(_differing(answers[0], answers[1]))
    return found


def _frozen(context: ReportContext) -> list[Row]:
    """Return the models whose heads were trained on caches."""
    return [row for row in context.study.rows if row["mode"] == FROZEN]


def _key(row: Row) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in MATCHED)


def _same_place(row: Row, other: Row) -> bool:
    return all(row[name] == other[name] for name in PLACE)


def _differing(first: Predictions, second: Predictions) -> tuple[int, set[bytes]]:
    """Return how many images two models answered both, and on which they differ."""
    said = dict(zip(first.hashes, first.probabilities.argmax(1).tolist(), strict=True))
    also = dict(zip(second.hashes, second.probabilities.argmax(1).tolist(), strict=True))
    common = said.keys() & also.keys()
    return len(common), {key for key in common if said[key] != also[key]}
