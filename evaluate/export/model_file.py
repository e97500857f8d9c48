"""A whole model as one file for other programs: gray pixels in, logits and probabilities out."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from scipy.special import softmax

from cache.errors import (
    DatasetError,
    DeviceError,
    FrostlineError,
    HeadError,
    ResultsError,
    UnreadableImageError,
)
from cache.files import check_replaceable, commit
from evaluate.export.formats import FORMATS, Facts, Format
from evaluate.export.model_card import Check, ModelFile, model_card
from evaluate.export.whole_model import MeasuredModel, Pixels, WholeModel
from evaluate.predictions import Predictions
from evaluate.results import Row
from evaluate.text import printable
from evaluate.workspace.image_files import ImageFiles
from extract.backends.backend import TOLERANCES
from extract.embedding_spec import preprocessing_of
from extract.imaging.decode import decode_gray
from extract.imaging.preprocessing import Preprocessing
from heads.store import HeadInfo

CHECKED = 8  # test images that a file is tried on


@dataclass(frozen=True)
class Written:
    """What an export wrote.

    Attributes:
        files: The model first.
        check: How it did when it was tried.
    """

    files: tuple[Path, ...]
    check: Check


def export_model(
    model: MeasuredModel, format_name: str, out: Path, files: ImageFiles | None = None
) -> Written:
    """Write a backbone and a head as one file of a format, and a model card beside it (`OUT.md`).

    Some of the test images are decoded again to run the file in its own runtime, alone and in a
    batch: logits that differ from those of the model assembled here by more than 1e-4 of the
    largest are an error. Then no file is left; nor is half a one, ever.

    Args:
        files: Finds the test images.

    Raises:
        ResultsError: `out` has another suffix, the file answers otherwise, or a file that is no
            export would be overwritten.
        DeviceError: a package is missing.
        HeadError: the head was trained on embeddings of another precision than fp32, or the format
            can't hold the model.
        DatasetError: none of the test images can be read any more.
        OSError: the disk is full, or the folder can't be written.
    """
    saved, info, form = model.head, model.head.info, FORMATS[format_name]
    _check_possible(info, format_name, out)
    pixels = _samples(files or ImageFiles(), model.predictions, preprocessing_of(info.identity))
    whole = WholeModel(model.backbone.module, saved.module(), info.temperature).eval()
    facts = _facts(info, model.row, form)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=".", suffix=".tmp") as folder:
        path = Path(folder) / out.name
        try:
            with warnings.catch_warnings():  # exporters warn of their own insides
                warnings.simplefilter("ignore")
                form.write(whole, path, facts)
                check = _tried(form, path, whole, pixels)
        except (FrostlineError, OSError):
            raise
        except Exception as error:
            raise HeadError(
                f"{info.id} can't be written as {format_name}: "
                f"{next(iter(str(error).splitlines()), type(error).__name__)}; choose another "
                "--format"
            ) from error
        file = ModelFile(out.name, facts, check, form.snippet)
        card = model_card(info, model.row, model.predictions.clean, file)
        (Path(folder) / f"{out.name}.md").write_text(card, "utf-8")
        # What belongs to the model first, so that a model is never there without it.
        others = sorted(file.name for file in Path(folder).iterdir() if file.name != out.name)
        for name in (*others, out.name):
            commit(Path(folder) / name, out.parent / name)
    return Written((out, *(out.parent / name for name in others)), check)


def _check_possible(info: HeadInfo, format_name: str, out: Path) -> None:
    form = FORMATS[format_name]
    if out.suffix != form.suffix:
        raise ResultsError(f"--out {out}: a file for {format_name} ends in {form.suffix}")
    card = out.with_name(f"{out.name}.md")
    check_replaceable(card, b"Frostline", what="The model card")
    # A model is never here without its card, nor its weights without either.
    for path in (out, *([out.with_suffix(".bin")] if out.suffix == ".xml" else [])):
        if path.exists() and (path.is_dir() or not card.exists()):
            raise ResultsError(
                f"--out {out}: {path} exists and is no exported model. Choose another name, or "
                "move it away."
            )
    if missing := [name for name in form.packages if find_spec(name) is None]:
        raise DeviceError(f"--format {format_name} needs more: pip install {' '.join(missing)}")
    if info.identity.precision != "fp32":
        raise HeadError(
            f"{info.id} was trained on {info.identity.precision} embeddings, and the file would "
            "compute in fp32, which was never measured: choose a model at fp32"
        )


def _samples(files: ImageFiles, predictions: Predictions, preprocessing: Preprocessing) -> Pixels:
    """Decode some of the images, from all of the list: uint8 [n, 1, 224, 224]."""
    pixels, images = [], list(zip(predictions.paths, predictions.hashes, strict=True))
    for path, key in dict.fromkeys((*images[:: max(1, len(images) // CHECKED)], *images)):
        data = files.read(path, key)
        if data is None:
            continue  # gone since, or changed
        try:
            pixels.append(decode_gray(data, preprocessing).pixels)
        except UnreadableImageError:
            continue
        if len(pixels) == CHECKED:
            break
    if not pixels:
        raise DatasetError(
            "None of the test images was found unchanged, so the exported file can't be verified. "
            "Run evaluate again, with --dataset and --test."
        )
    return np.stack(pixels)


def _facts(info: HeadInfo, row: Row, form: Format) -> Facts:
    key = info.identity
    rules = ("gray", "bit_depth", "fit", "interpolation", "size")
    return {
        "head_id": info.id,
        "classes": json.dumps(info.classes),
        "backbone": key.backbone,
        "weights": printable(info.weights),
        "weights_sha256": key.weights_sha256,
        "dataset_fingerprint": info.dataset_fingerprint,
        "test_fingerprint": row["test_fingerprint"],
        "preparation": json.dumps({name: getattr(key, name) for name in rules}),
        "temperature": json.dumps(info.temperature),
        "versions": json.dumps({name: version(name) for name in ("torch", *form.packages)}),
    }


def _tried(form: Format, path: Path, model: WholeModel, pixels: Pixels) -> Check:
    """Run a file and hold it against its model. Raises ResultsError if they answer differently."""
    with torch.inference_mode():
        expected = model(torch.from_numpy(pixels))[0].numpy()
    differences = []
    for logits, probabilities in form.run(path, (pixels[:1], pixels)):
        part = expected[: len(logits)]
        differences.append(np.abs(logits - part).max() / np.abs(part).max())
        own = softmax(logits.astype(np.float64) / model.temperature, axis=1)
        differences.append(np.abs(probabilities - own).max())
    difference = float(np.max(differences))
    if not difference <= TOLERANCES["fp32"]:  # NaN is larger than any limit
        raise ResultsError(
            f"{path.name}: run by itself, the file answers {len(pixels)} test images otherwise "
            f"than the model does here, by {difference:.2g} of the largest logit, more than "
            f"{TOLERANCES['fp32']:g}: it was removed; choose another --format"
        )
    return Check(difference, len(pixels))
