"""Where a result comes from: data, weights, versions, choice and times, and what embedding cost."""

from functools import partial

from cache.provenance import words
from cache.store import Cache, find_caches, open_cache, summarize
from evaluate.report.cache_summary import costs
from evaluate.report.context import ReportContext
from evaluate.results import Row
from evaluate.text import printable
from evaluate.workspace.layout import Workspace
from heads.config import FROZEN


def provenance(context: ReportContext) -> list[tuple[str, str]]:
    """Return what the study is of, as names and values."""
    rows, best = context.study.rows, context.study.best
    when = sorted(str(row["evaluated_at"]) for row in rows)
    notes = [
        ("training images", f"{best['dataset']}, fingerprint {best['dataset_fingerprint']}"),
        ("test images", f"{best['test']}, fingerprint {best['test_fingerprint']}"),
        ("classes", ", ".join(context.classes)),
        ("trained on", _images(best["n_training"], best["n_validation"], best["n_groups"])),
        ("models", f"{len(rows):,}, measured {when[0]} to {when[-1]}"),
        ("weights", "; ".join(sorted({_weights(row) for row in rows}))),
        ("best model", best["head_id"]),
        ("chosen", best["selected_by"]),
    ]
    if best["cv_accuracy"] == best["cv_accuracy"]:
        notes.append(("judged by folds", _folds(best)))
    if (info := context.infos.get(best["model_id"])) and best["mode"] == FROZEN:
        cache = open_cache(context.workspace.cache, info.identity)
        notes += context.read(partial(_of_cache, cache)) or []
    return [(name, printable(str(value))) for name, value in notes]


def extractions(workspace: Workspace) -> list[str]:
    """Say of each cache what filling it cost. Raises CacheError on a damaged one."""
    return [costs(cache) for cache in find_caches(workspace.cache)]


def _images(training: int, validation: int, groups: float) -> str:
    line = f"{training:,} images, validated on {validation:,}"
    if groups != groups:
        return f"{line}; near duplicates may lie on both sides of the split"
    return f"{line}; {groups:,.0f} groups of near duplicates were never divided"


def _weights(row: Row) -> str:
    return f"{row['pretrained_model']}: {row['weights']}"


def _folds(row: Row) -> str:
    line = f"accuracy {row['cv_accuracy']:.1%}, standard deviation {row['cv_spread']:.1%}"
    ungrouped = row["cv_accuracy_ungrouped"]
    if ungrouped != ungrouped:
        return line
    return f"{line}; {ungrouped:.1%} if they may divide near duplicates"


def _of_cache(cache: Cache) -> list[tuple[str, str]]:
    """Return what the best model's cache says of itself, its host left out."""
    key, note = cache.key, summarize(cache).provenance
    versions = [f"{name} {' and '.join(words(v))}" for name, v in note.get("versions", {}).items()]
    channels = [f"{mean:.3f}/{std:.3f}" for mean, std in zip(key.mean, key.std, strict=True)]
    facts = [
        ("cache", key.name),
        ("weights' SHA-256", key.weights_sha256),
        ("gray", key.gray),
        ("bit depth", key.bit_depth),
        ("size", f"{key.size} x {key.size}, {key.fit}, {key.interpolation}"),
        ("mean and deviation", ", ".join(channels)),
        ("precision", key.precision),
        ("engine", ", ".join(words(note.get("engine", "")))),
        ("versions", ", ".join(versions)),
    ]
    return [(name, value) for name, value in facts if value]
