"""What the tests share: real images, real caches, and a backbone small enough to watch."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from cache.errors import DeviceError
from cache.store import Cache, find_caches
from extract.backbones import BACKBONES, Backbone
from extract.devices import require_device
from extract.load import LoadedBackbone, load_backbone

ROOT = Path(__file__).resolve().parent.parent
GEL = ROOT.parent / "shared" / "gel"
FIXTURES = Path(__file__).parent / "fixtures" / "cache"


def require_or_skip(device: str) -> None:
    """Choose a device, or skip the test with the reason why it is not there."""
    try:
        require_device(device)
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def gel() -> Path:
    """The reference study's real images; CI must have them."""
    if not GEL.is_dir():
        assert not os.environ.get("CI"), f"CI must have the real images in {GEL}"
        pytest.skip("the reference study's images do not lie beside the repository")
    return GEL


@pytest.fixture(scope="session")
def caches() -> dict[str, Cache]:
    """The committed caches of the sample images (make fixtures), by device."""
    return {cache.identity.device: cache for cache in find_caches(FIXTURES)}


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


def _no_file(name: str, download: bool) -> Path:
    raise AssertionError("the toy has no published weights")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> LoadedBackbone:
    """A backbone of 8 numbers, in the table for the length of a test."""
    monkeypatch.setitem(BACKBONES, "toy", Backbone(8, "fc", lambda name: Toy(), _no_file))
    return load_backbone("toy", "random")


@pytest.fixture
def few(tmp_path: Path) -> Callable[[int, int], Path]:
    """Copy N training and M test images of each class of the samples below tmp_path/data."""

    def copy(training: int, testing: int) -> Path:
        for part, count in (("dataset", training), ("test_images", testing)):
            for label in ("gel", "not_gel"):
                target = tmp_path / "data" / part / label
                target.mkdir(parents=True)
                for path in sorted((ROOT / part / label).iterdir())[:count]:
                    shutil.copy(path, target)
        return tmp_path / "data"

    return copy
