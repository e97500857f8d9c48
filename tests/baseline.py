"""Toys that are trained as whole networks, here and in processes of their own."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaluate.baseline import training
from evaluate.baseline.run import NetworkOptions, TrainedNetwork, train_network
from evaluate.baseline.training import Training
from evaluate.workspace.layout import Workspace
from extract.backbones import BACKBONES
from extract.dataset import ImageSet, scan
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone, load_backbone
from extract.model_zoo.backbone import Backbone
from heads.config import HeadConfig
from tests.killing import Death
from tests.toy import Toy, no_file

Ask = Callable[..., TrainedNetwork]
PATIENT = HeadConfig("multi", "sgd", 0.01, epochs=2, batch_size=4, patience=2)


class Dropping(Toy):
    """A toy that draws in training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers.append(nn.Dropout(0.2))


DROPPING = Backbone(8, "fc", lambda name: Dropping(), no_file)


def asking(backbone: LoadedBackbone, images: ImageSet, place: Workspace) -> Ask:
    """Return a call that trains a backbone from scratch; it takes fields of NetworkOptions."""
    spec = EmbeddingSpec(backbone, "cpu", (), "fp32")

    def ask(**options: Any) -> TrainedNetwork:
        given = NetworkOptions(augmentation="gentle", **options)
        return train_network(spec, PATIENT, "scratch", images, place, given)

    return ask


def train(folder: Path, root: Path, death: Death | None) -> None:
    """Train with a checkpoint after every second batch, and die before some later one."""
    original, done = Training._step, 0

    def step(self: Training, *arguments: Any) -> None:
        nonlocal done
        training.SAVE_EVERY_S = training.WRITING = 0 if done % 2 else 10**6
        if death and done == death.call:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, *arguments)
        done += 1

    Training._step = step  # type: ignore[assignment, method-assign]
    torch.set_num_threads(1)
    BACKBONES["toy"] = DROPPING
    asking(load_backbone("toy", "random"), scan(folder), Workspace(root))()


def curves_on(device: str, epochs: int, folder: Path, root: Path) -> dict[str, list[float]]:
    """Train a toy on a device, and return its curves."""
    BACKBONES["toy"] = Backbone(8, "fc", lambda name: Toy(), no_file)
    configuration = HeadConfig(
        "multi", "adam", schedule="cosine", epochs=epochs, batch_size=4, patience=2
    )
    spec = EmbeddingSpec(load_backbone("toy", "random"), device, (), "fp32")
    done = train_network(spec, configuration, "scratch", scan(folder), Workspace(root / device))
    return done.head.info.curves
