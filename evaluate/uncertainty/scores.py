"""How uncertain a prediction is: the table of scores, and the one that was measured to be best.

Which score finds a model's errors can't be known beforehand, so it is measured: see
evaluate/uncertainty/fitting.py.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.arrays import ArrayFileError, Arrays, content_sha256, read_arrays, write_arrays
from cache.errors import ResultsError
from cache.files import check_file, replacing
from cache.records import parse_json

FORMAT = "frostline-doubt-2"
DIRECTIONS = 256  # with a variance of their own; the others share one

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """A score of doubt.

    Attributes:
        summary: What it is, in words.
        fit: (embeddings [N, D], labels [N]) of the training images → what `score` must know.
        score: (that, calibrated probabilities [n, C], embeddings [n, D]) → float [n], larger where
            there is more to doubt.
    """

    summary: str
    fit: Callable[[Floats, NDArray[np.int64]], Arrays]
    score: Callable[[Arrays, NDArray[np.float64], Floats], NDArray[np.float64]]


@dataclass(frozen=True)
class Uncertainty:
    """How doubt was measured, of one head.

    Attributes:
        chosen: The score.
        power: Of each score the area under the ROC curve, errors against right answers; NaN if
            there was no error.
        material: Images by kind.
        errors: Of all these.
        threshold: Of the chosen score, above which an answer is doubted.
        flagged_right, flagged_errors: The share of right answers and of errors above it, of all
            material.
        head_sha256: `TrainedHead.sha256` of the head that it was measured for.
    """

    chosen: str
    power: dict[str, float]
    material: dict[str, int]
    errors: int
    threshold: float
    flagged_right: float
    flagged_errors: float
    head_sha256: str = ""


@dataclass(frozen=True)
class _Stored(Uncertainty):
    """A file's content.

    Attributes:
        sha256: Over all the rest, and the arrays of the `.npz` beside it.
    """

    format: str = ""
    sha256: str = ""


def _nothing(embeddings: Floats, labels: NDArray[np.int64]) -> Arrays:
    return {}


def _margin(arrays: Arrays, chances: NDArray[np.float64], embeddings: Floats) -> Any:
    """Of log probabilities: near 1, probabilities themselves are all alike."""
    two = np.sort(np.log(np.maximum(chances, np.finfo(np.float64).tiny)), axis=1)[:, -2:]
    return two[:, 0] - two[:, 1]


def _unsure(arrays: Arrays, chances: NDArray[np.float64], embeddings: Floats) -> Any:
    return 1 - chances.max(1)


def _fit_spread(embeddings: Floats, labels: NDArray[np.int64]) -> Arrays:
    """Class means, and the shared covariance (1 - a) S + a m I, shrunk after Ledoit & Wolf (2004).

    Kept as the directions v of most variance: its inverse times m a is I - Σ share v vᵀ.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    means = np.stack([embeddings[labels == c].mean(0) for c in np.unique(labels)])
    residuals = (embeddings - means[np.searchsorted(np.unique(labels), labels)]).astype(np.float64)
    shrinkage = max(ledoit_wolf_shrinkage(residuals, assume_centered=True), 1e-6)
    _, values, vectors = np.linalg.svd(residuals, full_matrices=False)
    variances = (1 - shrinkage) * values**2 / len(residuals)
    floor = shrinkage * np.square(residuals).sum(1).mean() / residuals.shape[1]
    floor = max(floor, np.finfo(np.float32).tiny)
    kept = slice(0, DIRECTIONS)
    return {
        "means": means,
        "directions": vectors[kept].astype(np.float32),
        "share": (variances / (variances + floor))[kept],
        "floor": np.array(floor),
    }


def _mahalanobis(arrays: Arrays, chances: NDArray[np.float64], embeddings: Floats) -> Any:
    distances = []
    for mean in arrays["means"]:
        away = embeddings - mean
        along = away @ arrays["directions"].T
        whole = np.square(away, dtype=np.float64).sum(1)
        inside = np.square(along, dtype=np.float64) @ arrays["share"]
        distances.append((whole - inside) / arrays["floor"])
    return np.log1p(np.maximum(np.min(distances, axis=0), 0))


def _fit_neighbours(embeddings: Floats, labels: NDArray[np.int64]) -> Arrays:
    return {"bank": _directions(embeddings)}


def _neighbour(arrays: Arrays, chances: NDArray[np.float64], embeddings: Floats) -> Any:
    return 1 - (_directions(embeddings) @ arrays["bank"].T).max(1).astype(np.float64)


def _directions(embeddings: Floats) -> Floats:
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(norms, np.finfo(np.float32).tiny))


SCORES: dict[str, Score] = {
    "margin": Score("how close the second class comes", _nothing, _margin),
    "confidence": Score("how far the calibrated probability is from 1", _nothing, _unsure),
    "mahalanobis": Score("how far the embedding is from every class", _fit_spread, _mahalanobis),
    "neighbour": Score("how far the nearest training image is", _fit_neighbours, _neighbour),
}


def doubt_path(heads: Path, head_id: str) -> Path:
    """Where it is kept how a head's answers are doubted; `.npz` beside it: what the score knows."""
    return heads / f"{head_id}.doubt.json"


def write_doubt(path: Path, doubt: Uncertainty, arrays: Arrays) -> None:
    """Write how doubt was measured, and what its score must know. Raises OSError."""
    write_arrays(path.with_suffix(".npz"), arrays, FORMAT)
    record = {"format": FORMAT} | asdict(doubt)
    content = record | {"sha256": _sha256(doubt, arrays)}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_doubt(path: Path) -> tuple[Uncertainty, Arrays]:
    """Read how doubt was measured, and what its score must know.

    Raises:
        ResultsError: one of the two files is gone or damaged, or they don't belong together.
        OSError: they can't be read.
    """
    known = path.with_suffix(".npz")
    try:
        check_file(path)
        stored = parse_json(path.read_bytes(), _Stored)
        if stored.format != FORMAT:
            raise ValueError("another version of Frostline wrote it")
        if stored.chosen not in SCORES:
            raise ValueError(f"there is no score {stored.chosen}")
        doubt = Uncertainty(
            **{field.name: getattr(stored, field.name) for field in fields(Uncertainty)}
        )
    except ValueError as error:
        raise _damaged(path, error) from None
    try:
        arrays, _ = read_arrays(known, FORMAT)
    except (ArrayFileError, FileNotFoundError) as error:
        raise _damaged(known, error) from None
    if stored.sha256 != _sha256(doubt, arrays):
        raise _damaged(path, f"its checksum is not that of its content and of {known.name}")
    return doubt, arrays


def doubts(
    doubt: Uncertainty, arrays: Arrays, chances: NDArray[np.float64], embeddings: Floats
) -> NDArray[np.float64]:
    """Return the chosen score of some answers: float [n].

    Args:
        arrays: As `read_doubt` gives them.

    Raises:
        ResultsError: it was measured on embeddings of another length.
    """
    try:
        return np.asarray(SCORES[doubt.chosen].score(arrays, chances, embeddings))
    except (ValueError, KeyError) as error:
        raise ResultsError(
            f"the review score was measured for another model ({error}): run evaluate again"
        ) from None


def power(errors: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Return how often an error has the higher score than a right answer; NaN without either."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(errors, score)) if 0 < errors.sum() < len(errors) else float("nan")


def most_powerful(powers: Mapping[str, float]) -> str:
    """Return the best score; the first of SCORES if nothing could be measured."""
    return max(SCORES, key=lambda name: -1.0 if np.isnan(powers[name]) else powers[name])


def _sha256(doubt: Uncertainty, arrays: Arrays) -> str:
    return content_sha256(arrays, FORMAT, json.dumps(asdict(doubt), sort_keys=True))


def _damaged(path: Path, why: object) -> ResultsError:
    return ResultsError(f"{path} can't be used: {why}. Run evaluate again.")
