"""Backbone and head as one torch module: gray pixels in, logits and probabilities out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Pixels = NDArray[np.uint8]  # [N, 1, 224, 224]


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
