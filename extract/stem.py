"""What a backbone stands between: the exact gray input, and a head. All of it is in the graph."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class WholeModel(nn.Module):
    """Backbone and head as one: uint8 [B, 1, 224, 224] → logits float32 [B, C].

    The head computes in fp32, as it was trained, whatever the backbone's precision.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        embeddings = self.backbone(images).float()
        with torch.autocast(embeddings.device.type, enabled=False):
            logits: Tensor = self.head(embeddings)
        return logits


class GrayInput(nn.Module):
    """A network for RGB, fed with gray: uint8 [B, 1, H, W] → what `network` gives.

    A gray image is three equal channels, each normalised with the weights' own mean and std
    (full scale = 1). Folding them into one channel would not be exact at the border, where the
    first convolution pads with zeros *after* normalisation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, 1, H, W] → [B, D]."""
        gray = images.to(self.mean.dtype) / 255
        normalised = (gray - self.mean) / self.std  # broadcasts one channel to three
        embeddings: Tensor = self.network(normalised)
        return embeddings
