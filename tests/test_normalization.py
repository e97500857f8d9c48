"""`--normalize dataset`: by mean and deviation of the training images, in another cache."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cache.errors import DatasetError
from cache.store import find_caches
from extract.backbones import BACKBONES, find_backbone
from extract.dataset import scan
from extract.dataset_statistics.normalization import fit_normalization
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone, load_backbone, normalization_of
from extract.imaging.decode import decode_gray
from extract.imaging.image_stats import ImageStats, compute_stats
from frostline.cli.main import cli
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

Few = Callable[[int, int], Path]
GELS = sorted((ROOT / "dataset" / "gel").iterdir())[:6]


def test_it_is_that_of_all_their_pixels() -> None:
    pictures = [decode_gray(path.read_bytes()) for path in GELS]
    mean, std = fit_normalization(map(compute_stats, pictures))
    pixels = np.stack([picture.pixels for picture in pictures]) / 255
    assert mean == (round(float(pixels.mean()), 3),) * 3
    assert std == (round(float(pixels.std()), 3),) * 3


def test_images_without_contrast_are_refused() -> None:
    with pytest.raises(DatasetError, match="one gray level"):
        fit_normalization([ImageStats(b"", 1, 1, "L", 100.0, 0.0)] * 3)
    with pytest.raises(DatasetError, match="none of the images"):
        fit_normalization([])


def test_a_backbone_is_given_what_was_asked_for(toy: LoadedBackbone) -> None:
    mine = load_backbone("toy", "random", 0, None, ((0.25,) * 3, (0.5,) * 3))
    assert mine.weights_sha256 == toy.weights_sha256
    images = torch.randint(256, (2, 1, 224, 224), dtype=torch.uint8)
    module = mine.module
    expected = module.get_submodule("network")((images / 255 - 0.25).expand(-1, 3, -1, -1) / 0.5)
    assert torch.allclose(module(images), expected, atol=1e-6)


def test_it_is_another_cache_and_known_again(toy: LoadedBackbone) -> None:
    entry = find_backbone("toy")
    own = EmbeddingSpec(toy, "cpu", ("torch",), "fp32").key
    assert (own.mean, own.std, normalization_of(own)) == (entry.mean, entry.std, "weights")
    mine = load_backbone("toy", "random", 0, None, ((0.25,) * 3, (0.5,) * 3))
    other = EmbeddingSpec(mine, "cpu", ("torch",), "fp32").key
    assert other.digest != own.digest
    assert normalization_of(other) == "dataset"


@pytest.mark.usefixtures("toy")
def test_training_images_alone_decide(
    few: Few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The command line's choices were made before the toy was in the table.
    monkeypatch.setitem(BACKBONES, "resnet18", BACKBONES["toy"])
    data = few(3, 2)
    given = ["extract", "--arch", "resnet18", "--weights", "random", "--engine", "torch"]
    given += ["--normalize", "dataset", "--test", str(data / "test_images")]
    given += ["--workspace", str(tmp_path / "ws")]
    done = CliRunner().invoke(cli, [*given, "--dataset", str(data / "dataset")])
    assert done.exit_code == 0, done.output
    image_stats = [
        compute_stats(decode_gray(f.path.read_bytes())) for f in scan(data / "dataset").unique
    ]
    (cache,) = find_caches(tmp_path / "ws" / "cache")
    assert (cache.key.mean, cache.key.std) == fit_normalization(image_stats)
    monkeypatch.chdir(tmp_path)
    alone = CliRunner().invoke(cli, given)
    assert alone.exit_code == 1
    assert "--normalize dataset goes by training images, and dataset is not there" in alone.output
