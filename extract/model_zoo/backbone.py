"""What is known of a backbone, and the normalisations that published weights were trained with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


Channels = tuple[float, float, float]

# Of ImageNet's training images, RGB, full scale = 1: torchvision's weights were trained with it.
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
# EfficientNet-Lite: (pixel - 127) / 128, from the authors' efficientnet_lite_builder.py.
LITE_MEAN: Channels = (127 / 255,) * 3
LITE_STD: Channels = (128 / 255,) * 3


@dataclass(frozen=True)
class Backbone:
    """A published classifier whose last linear layer is taken away.

    Attributes:
        dim: Length of the embedding.
        last_linear: Dotted name of that layer; the embedding is its input.
        build: Name in the table → the whole classifier with random weights.
        imagenet: torch.hub's file name of its ImageNet weights, or `hf-hub:` and the name of their
            repository, or a function that returns an installed file, or None if nobody published
            any.
        mean: The weights' own normalisation, per channel, full scale = 1.
        std: Likewise.
        standard: It runs unless others are asked for.
        package: What builds it; another version may build another network.
    """

    dim: int
    last_linear: str
    build: Callable[[str], nn.Module]
    imagenet: str | Callable[[], Path] | None
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    standard: bool = False
    package: str = "torchvision"


HUGGING_FACE = "hf-hub:"  # before the name of a repository there
