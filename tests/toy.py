"""A backbone small enough to watch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cache.progress import silent
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone
from extract.pipeline import Extraction, RunnerOptions, extract
from extract.sources.image_file import ImageFile


class Toy(nn.Module):
    """A classifier as torchvision builds them: layers, then a last linear layer called `fc`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 7, stride=4, padding=3), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.fc = nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.layers(images).mean((2, 3)))
        return logits


def key(number: int) -> bytes:
    """Return a number as if it were an image's SHA-256."""
    return number.to_bytes(32, "big")


def no_file() -> Path:
    raise AssertionError("the toy has no published weights")


def with_module(backbone: LoadedBackbone, module: nn.Module) -> LoadedBackbone:
    """Return the backbone with a module of the test's own."""
    other = replace(backbone)
    vars(other)["module"] = module
    return other


def extract_one(
    backbone: LoadedBackbone,
    images: Sequence[ImageFile],
    root: Path,
    precision: str = "fp32",
    **settings: Any,
) -> Extraction:
    """Fill one cache, on the CPU, by torch. settings: of `RunnerOptions`, and `progress`."""
    spec = EmbeddingSpec(backbone, "cpu", ("torch",), precision)
    progress = settings.pop("progress", silent)
    (done,) = extract([spec], images, root, progress, RunnerOptions(**settings))
    return done
