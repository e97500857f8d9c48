"""What the models said of single images, mistakes first, and where in them they looked."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluate.explanation.gradcam import maps_path, overlay, read_maps
from evaluate.predictions import Predictions
from evaluate.report.context import ReportContext
from evaluate.report.sections.leaderboard import short_name
from evaluate.report.thumbnails import data_uri, pixels_of
from evaluate.results import Row
from evaluate.statistics.calibration import calibrated
from evaluate.text import printable

SAMPLES = 24  # pictures of test images
COMPARED = 8  # of them, with the activation maps of every backbone
SIDE_PX = 144

HeatMaps = Mapping[bytes, NDArray[np.uint8]]  # by the SHA-256 of an image


def samples(context: ReportContext) -> dict[str, Any] | None:
    """Show single images; None where there are no predictions."""
    found = answers(context)
    return found and {"samples": found, "looks": looks(context)}


def answers(context: ReportContext) -> dict[str, Any] | None:
    """Show what the best model said of test images: mistakes first, then the least certain."""
    best = context.study.best
    found = context.answers.get(best["model_id"])
    if found is None:
        return None
    heat = _maps(context, best)
    order, confidence = mistakes_first(found, best)
    predicted, classes = found.probabilities.argmax(1), context.classes
    shown = []
    for i in order[:SAMPLES]:
        pixels = pixels_of(context.files, found.paths[i], found.hashes[i])
        shown.append(
            {
                "name": printable(found.paths[i].name),
                "picture": None if pixels is None else data_uri(Image.fromarray(pixels), SIDE_PX),
                "overlay": _overlay(pixels, heat.get(found.hashes[i])),
                "label": classes[found.labels[i]],
                "predicted": classes[predicted[i]],
                "confidence": float(confidence[i]),
                "right": bool(predicted[i] == found.labels[i]),
                "leaked": bool(found.leaked[i]),
            }
        )
    return {
        "shown": shown,
        "images": len(order),
        "mistakes": int((predicted != found.labels).sum()),
        "calibrated": best["temperature"] == best["temperature"],
        "maps": any(sample["overlay"] for sample in shown),
    }


def looks(context: ReportContext) -> dict[str, Any] | None:
    """Show beside one another where the best model of each backbone looked; None if fewer than two
    of them have activation maps.
    """
    seen = []
    for row in context.champions:
        answers, heat = context.answers.get(row["model_id"]), _maps(context, row)
        if answers and heat:
            index = {key: i for i, key in enumerate(answers.hashes)}
            seen.append((row, answers, index, heat))
    first = context.answers.get(context.study.best["model_id"])
    if first is None or len(seen) < 2:
        return None
    order, _ = mistakes_first(first, context.study.best)
    order.sort(key=lambda i: -sum(first.hashes[i] in heat for *_, heat in seen))
    images = [
        _compared(context, first.paths[i], first.hashes[i], seen)
        | {"label": context.classes[first.labels[i]]}
        for i in order[:COMPARED]
    ]
    return {"models": [short_name(context, row) for row, *_ in seen], "images": images}


def _compared(
    context: ReportContext,
    path: Path,
    key: bytes,
    seen: list[tuple[Row, Predictions, dict[bytes, int], HeatMaps]],
) -> dict[str, Any]:
    pixels, classes = pixels_of(context.files, path, key), context.classes
    cells = []
    for _, answers, index, heat in seen:
        i = index.get(key)
        said = None if i is None else int(answers.probabilities[i].argmax())
        cells.append(
            {
                "overlay": _overlay(pixels, heat.get(key)),
                "predicted": None if said is None else classes[said],
                "right": i is not None and said == answers.labels[i],
            }
        )
    picture = None if pixels is None else data_uri(Image.fromarray(pixels), SIDE_PX)
    return {"name": printable(path.name), "picture": picture, "cells": cells}


def mistakes_first(found: Predictions, row: Row) -> tuple[list[int], NDArray[np.float64]]:
    """Return the images, mistakes first, then the least certain, and the (calibrated) confidences.

    Leaked images come last: they are in no score.
    """
    probabilities = found.probabilities
    if row["temperature"] == row["temperature"]:
        probabilities = calibrated(probabilities, row["temperature"])
    confidence: NDArray[np.float64] = probabilities.max(1)
    right = found.probabilities.argmax(1) == found.labels
    order = sorted(range(len(right)), key=lambda i: (found.leaked[i], right[i], confidence[i], i))
    return order, confidence


def _maps(context: ReportContext, row: Row) -> HeatMaps:
    """Return a model's activation maps by image; none where it has none."""
    path = maps_path(context.workspace.heads, row["head_id"])
    found = context.read(partial(read_maps, path)) if path.exists() else None
    if found is None:
        return {}
    return dict(zip(found.hashes, found.maps, strict=True))


def _overlay(pixels: NDArray[np.uint8] | None, heat: NDArray[np.uint8] | None) -> str | None:
    if pixels is None or heat is None:
        return None
    return data_uri(overlay(pixels, heat), SIDE_PX)
