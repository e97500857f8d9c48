"""What stands before a backbone, in its graph: the exact gray input."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
