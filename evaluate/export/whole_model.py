"""Backbone and head as one torch module: gray pixels in, logits and probabilities out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluate.predictions import Predictions
from evaluate.results import Row
from extract.embedding_spec import LoadedBackbone
from heads.store import TrainedHead

Pixels = NDArray[np.uint8]  # [N, 1, 224, 224]


@dataclass(frozen=True)
class MeasuredModel:
    """A whole model and what was measured of it.

    Attributes:
        backbone: As the head was trained on it.
        head: The saved head.
        row: Its row of results.csv.
        predictions: Of its test images.
    """

    backbone: LoadedBackbone
    head: TrainedHead
    row: Row
    predictions: Predictions


class WholeModel(nn.Module):
    """A backbone and a head as one network: uint8 [N, 1, 224, 224] → logits and probabilities,
    each float32 [N, C]. Probabilities are the softmax of logits divided by the temperature.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, temperature: float) -> None:
        super().__init__()
        self.backbone, self.head, self.temperature = backbone, head, temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        logits: Tensor = self.head(self.backbone(images))
        return logits, (logits / self.temperature).softmax(1)
