"""New images → labels, with calibrated probabilities and review flags.

Embeddings go through the cache. Neither torch nor pandas is imported: one image answers soon.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.arrays import Arrays
from cache.errors import DatasetError, Failure, HeadError, ResultsError
from cache.files import check_regular, check_replaceable, replacing
from cache.progress import Progress, silent
from cache.store import read
from cache.tables import neutral, path_cell, table_text
from evaluate.audit.set_properties import of_new_images
from evaluate.ranking import ranked
from evaluate.results import Row, read_rows
from evaluate.text import STUDYS_OWN
from evaluate.uncertainty.scores import Uncertainty, doubt_path, doubts, read_doubt
from evaluate.workspace.current_study import read_current
from evaluate.workspace.layout import Workspace
from extract.dataset import files_below
from extract.embedding_spec import EmbeddingSpec, engine_artifacts
from extract.pipeline import RunnerOptions, extract
from extract.sources.file_names import ListingNotes, why_no_image
from extract.sources.image_file import ImageFile
from heads.inference import probabilities
from heads.store import HeadInfo, TrainedHead, head_path, read_head

BEST = "best"
# What answers are known by, by the suffix of their file.
MARKS = {".csv": (b"path", b"label", b"probability"), ".json": (b'"head"', b'"classes"')}


@dataclass(frozen=True)
class Prediction:
    """The prediction for one file.

    Attributes:
        probabilities: Calibrated, by class.
        doubt: Whether it is flagged for review; None if flags were never fitted for this model.
        score: The uncertainty score.
        error: Why there is no prediction; then the others are None.
    """

    path: str
    label: str | None = None
    probabilities: dict[str, float] | None = None
    doubt: bool | None = None
    score: float | None = None
    error: str | None = None


def find_model(workspace: Workspace, wanted: str) -> tuple[str, TrainedHead]:
    """Return the model_id and head of a model of `results.csv`: see `find_row`.

    Raises:
        ResultsError: there are no results, or no such model.
        HeadError: its head is gone or damaged.
    """
    return load_row(workspace, find_row(workspace, wanted))


def find_row(workspace: Workspace, wanted: str) -> Row:
    """Return a row of `results.csv`: by its model_id, or the best one of the study run last.

    The best: as the report ranks them.

    Raises:
        ResultsError: there are no results, or no such model; or nothing says which study was run
            last, and their classes differ.
    """
    rows = _results(workspace.results)
    if wanted == BEST:
        found = _of_current_study(workspace, rows)
    else:
        found = [row for row in rows if str(row["model_id"]) == wanted]
    if not found:
        ids = ", ".join(str(row["model_id"]) for row in rows[:20])
        raise ResultsError(f"--model {wanted}: {workspace.results} has the models {ids}; or `best`")
    return _first(found)


def _of_current_study(workspace: Workspace, rows: Sequence[Row]) -> list[Row]:
    current, of_study = read_current(workspace), dict[tuple[str, str], list[Row]]()
    for row in sorted(rows, key=lambda row: row["evaluated_at"]):
        of_study.setdefault((row["dataset_fingerprint"], row["test_fingerprint"]), []).append(row)
    candidates = "; ".join(
        f"--model {row['model_id']} (trained on {row['dataset']}, tested on {row['test']}, "
        f"classes {row['classes']})"
        for row in map(_first, of_study.values())
    )
    if current:
        key = (current.training.fingerprint, current.test.fingerprint)
        if key not in of_study:
            raise ResultsError(
                f"The study run last ({current.title}) has no results in {workspace.results}. Run "
                f"`cli.py evaluate`, or choose another study's model: {candidates}."
            )
        return of_study[key]
    if len({row["classes"] for row in rows}) > 1:
        raise ResultsError(
            f"{workspace.results} has studies of different classes, and nothing says which one was "
            f"run last. Choose one: {candidates}."
        )
    return max(of_study.values(), key=lambda found: found[-1]["evaluated_at"])


def load_row(workspace: Workspace, row: Row) -> tuple[str, TrainedHead]:
    """Return the model_id and the head of a row. Raises HeadError: it is gone or damaged."""
    path = head_path(workspace.heads, row["head_id"])
    if not path.exists():
        raise HeadError(
            f"{workspace.results} has model {row['model_id']}, but its head {path} is missing. If "
            "your results are elsewhere, name that folder with --workspace; else run train-heads."
        )
    return str(row["model_id"]), read_head(path)


def measured_doubt(saved: TrainedHead) -> tuple[Uncertainty, Arrays] | None:
    """Read how the review flags of a head were fitted; None if they never were.

    Raises:
        HeadError: the head is damaged.
        ResultsError: a file is damaged, or of another training of this head.
        OSError: a file can't be read.
    """
    path = doubt_path(saved.path.parent, saved.info.id)
    if not path.exists():
        return None
    doubt, arrays = read_doubt(path)
    if doubt.head_sha256 != saved.sha256():
        raise ResultsError(f"{path} was measured before the head was trained again: run evaluate")
    return doubt, arrays


def best_of(workspace: Workspace, heads: Collection[TrainedHead], test: str) -> TrainedHead | None:
    """Return the best of some heads on a test set, by its fingerprint; None if none was measured.

    See `find_model`.
    """
    mine = {saved.info.id: saved for saved in heads}
    rows = [row for row in _results(workspace.results) if row["head_id"] in mine]
    rows = [row for row in rows if row["test_fingerprint"] == test]
    return mine[_first(rows)["head_id"]] if rows else None


def predict(
    paths: Sequence[Path],
    saved: TrainedHead,
    spec: EmbeddingSpec,
    workspace: Workspace,
    progress: Progress = silent,
    remark: Callable[[str], None] = lambda text: None,
) -> tuple[list[Prediction], list[str]]:
    """Classify files.

    Args:
        remark: Receives why there are no review flags, if a file with the score cannot be used.

    Returns:
        Predictions in the order of the files; a file that is no image has an error instead. And a
        line about each kind of image whose bit depth differs from what the model decodes.

    Raises:
        CacheError, DeviceError, OSError: as `extract`.
        HeadError: the head is damaged.
    """
    hashes, errors = dict[Path, bytes](), dict[Path, str]()
    for path in dict.fromkeys(paths):
        if reason := why_no_image(path.name):
            errors[path] = reason
            continue
        try:
            check_regular(path.stat())
            with path.open("rb") as file:
                hashes[path] = hashlib.file_digest(file, "sha256").digest()
        except (OSError, ValueError) as error:  # a name that no file can have
            errors[path] = getattr(error, "strerror", None) or str(error)
    files = [ImageFile(path, "", key) for path, key in hashes.items()]
    options = RunnerOptions(
        artifacts=engine_artifacts(workspace.cache), index=workspace.image_index
    )
    (done,) = extract([spec], files, workspace.cache, progress, options)
    reasons = {failure.sha256: failure.reason for failure in done.failed}
    errors |= {path: reasons[key] for path, key in hashes.items() if key in reasons}
    good = [path for path in hashes if path not in errors]
    readable = [file for file in files if file.path not in errors]
    notes = list(of_new_images(readable, workspace, spec.preprocessing))
    answers = dict(zip(good, _answers(good, hashes, saved, done.cache, remark), strict=True))
    found = [
        answers[path] if path in answers else Prediction(str(path), error=errors[path])
        for path in paths
    ]
    return found, notes


def listed(given: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Return the files given and the images in folders given, by name; and what is left out there,
    a line each.

    Raises:
        DatasetError: there is no file at all.
    """
    found, remarks = list[Path](), list[str]()
    for folder in given:
        if not folder.is_dir():
            found.append(folder)
            continue
        notes, unopened = ListingNotes(), list[Failure]()
        files = files_below(folder, notes, unopened)
        found += sorted(Path(path) for path, _ in files if notes.takes_name(path))
        notes.unlisted.update(f"{failure.path} ({failure.reason})" for failure in unopened)
        remarks += notes.remarks(folder)
    if not found:
        raise DatasetError("No image file was given. Give images or folders", *remarks)
    return found, remarks


def as_csv(
    predictions: Sequence[Prediction], classes: Sequence[str], shown: Callable[[str], str] = str
) -> str:
    """Return a table: path, label, probability, doubt, its score, error, then every class.

    Args:
        shown: Makes names fit for where the table goes.
    """
    names = ["path", "label", "probability", "doubt", "doubt_score", "error"]
    rows = []
    for each in predictions:
        probabilities = each.probabilities or {}
        row = [
            path_cell(each.path),
            neutral(each.label or ""),
            f"{max(probabilities.values()):.4f}" if probabilities else "",
            "" if each.doubt is None else int(each.doubt),
            "" if each.score is None else f"{each.score:.4g}",
            neutral(each.error or ""),
            *(f"{probabilities[name]:.6f}" if probabilities else "" for name in classes),
        ]
        rows.append([shown(str(cell)) for cell in row])
    return table_text([*names, *(shown(f"p({name})") for name in classes)], rows)


def check_out(out: Path | None) -> None:
    """Make sure that answers can be written into a file of this name.

    Raises:
        DatasetError: it has another suffix.
        ResultsError: a file that `predict` did not write has this name, such as a list of images.
    """
    if out and out.suffix not in (".csv", ".json"):
        raise DatasetError(f"--out {out}: give a file name that ends in .csv or .json")
    if out:
        check_replaceable(out, *MARKS[out.suffix], what="--out")


def write_answers(
    out: Path, predictions: Sequence[Prediction], info: HeadInfo, model_id: str
) -> None:
    """Write what a model says: a table, or JSON with the model's names. Raises OSError."""
    if out.suffix == ".csv":
        text = as_csv(predictions, info.classes)
    else:
        model = {"model": int(model_id), "head": info.id, "classes": info.classes}
        content = model | {"predictions": [vars(each) for each in predictions]}
        text = json.dumps(content, indent=1)
    with replacing(out) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))


def _answers(
    paths: Sequence[Path],
    hashes: dict[Path, bytes],
    saved: TrainedHead,
    cache: Any,
    remark: Callable[[str], None],
) -> list[Prediction]:
    if not paths:
        return []
    info, rows = saved.info, read(cache, [hashes[path] for path in paths])
    chances = probabilities(saved.logits(rows), info.temperature)
    scores = np.full(len(rows), np.nan)
    threshold = None
    try:
        if measured := measured_doubt(saved):
            scores, threshold = doubts(*measured, chances, rows), measured[0].threshold
    except (ResultsError, OSError) as error:
        remark(f"No review marks: {error}")
    return [
        Prediction(
            str(path),
            info.classes[int(of_image.argmax())],
            dict(zip(info.classes, map(float, of_image), strict=True)),
            None if threshold is None else bool(score > threshold),
            None if threshold is None else float(score),
        )
        for path, of_image, score in zip(paths, chances, scores, strict=True)
    ]


def _results(path: Path) -> list[Row]:
    """Return the rows on the studies' own test sets. Raises ResultsError."""
    rows = [row for row in read_rows(path) if row["also"] == STUDYS_OWN]
    if not rows:
        raise ResultsError(f"{path} has no models: run `cli.py run` first, or see --workspace")
    return rows


def _first(rows: Sequence[Row]) -> Row:
    """Return the best row."""
    return ranked(rows)[0]
