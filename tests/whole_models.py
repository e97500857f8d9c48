"""Whole models to export: a backbone, its heads, and what results.csv would say of them."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.store import Cache
from evaluate.export.model_file import Written, export_model
from evaluate.export.whole_model import MeasuredModel, WholeModel
from evaluate.metrics import METRICS, confusion_matrix
from evaluate.predictions import Predictions
from evaluate.results import COLUMNS
from extract.dataset import scan
from extract.embedding_spec import LoadedBackbone
from extract.imaging.decode import decode_gray
from heads.search.space import SearchPlan, combinations
from heads.store import TrainedHead
from heads.training import train_heads
from tests.conftest import ROOT


@dataclass(frozen=True)
class Ready:
    """A backbone, heads trained on it by name, the test images as it sees them, and what each head
    says of them; the fourth image is leaked.
    """

    backbone: LoadedBackbone
    heads: dict[str, TrainedHead]
    pixels: NDArray[np.uint8]
    predictions: dict[str, Predictions]

    def whole(self, head: str) -> WholeModel:
        saved = self.heads[head]
        return WholeModel(self.backbone.module, saved.module(), saved.info.temperature)

    def row(self, head: str) -> dict[str, Any]:
        """What results.csv would say, of the columns that a file or its card needs."""
        clean = self.predictions[head].clean
        row = {
            **{n: m.score(clean.labels, clean.probabilities) for n, m in METRICS.items()},
            "model_id": 7,
            "hardware_type": "cpu",
            "engine": "openvino",
            "test": "test_images",
            "test_fingerprint": "0123456789abcdef",
            "n_test": len(clean.labels),
            "n_test_groups": len(clean.labels),
            "accuracy_of_groups": 0.5,
            "conf_mat": json.dumps(confusion_matrix(clean.labels, clean.probabilities)),
            "n_leaked": 1.0,
            "n_unreadable": 0,
            "n_groups": 3.0,
            "ece": 0.0625,
            "ece_calibrated": 0.03125,
            "val_accuracy": 0.9,
            "val_loss": 0.2,
            "cv_accuracy": float("nan"),
            "selected_by": "the only candidate",
            "evaluated_at": "2026-01-02T03:04:05+00:00",
        }
        assert set(row) <= set(COLUMNS)
        return row

    def export(
        self,
        head: str,
        form: str,
        out: Path,
        saved: TrainedHead | None = None,
        row: dict[str, Any] | None = None,
        paths: tuple[Path, ...] | None = None,
    ) -> Written:
        predictions = self.predictions[head]
        if paths:
            known = {
                p.name: key for p, key in zip(predictions.paths, predictions.hashes, strict=True)
            }
            hashes = tuple(known[path.name] for path in paths)
            predictions = dataclasses.replace(predictions, paths=paths, hashes=hashes)
        row = row or self.row(head)
        model = MeasuredModel(self.backbone, saved or self.heads[head], row, predictions)
        return export_model(model, form, out)


def heads_on(
    cache: Cache, backbone: LoadedBackbone, root: Path, heads: Sequence[str], every: int
) -> Ready:
    """Train heads on a cache of the samples; take each so-manieth of the test images."""
    sweep = SearchPlan(tuple(combinations({"head": list(heads), "optimizer": ["adam"]})))
    trained = train_heads(cache, scan(ROOT / "dataset").labels, "dataset", sweep, root).heads
    paths = tuple(file.path for file in scan(ROOT / "test_images").files)[::every]
    pixels = np.stack([decode_gray(path.read_bytes()).pixels for path in paths])
    with torch.inference_mode():
        embeddings = backbone.module(torch.from_numpy(pixels))
    labels = np.array([path.parent.name == "not_gel" for path in paths], np.int64)
    hashes = tuple(sha256(path.read_bytes()).digest() for path in paths)
    by_name = {saved.info.configuration.head: saved for saved in trained}
    predictions = {}
    for name, saved in by_name.items():
        chances = saved.module()(embeddings).double().softmax(1).numpy()
        leaked = np.arange(len(labels)) == 3
        predictions[name] = Predictions(paths, hashes, labels, chances, leaked)
    return Ready(backbone, by_name, pixels, predictions)
