"""The reference study's 24 models, then ours: every backbone x head x optimizer x device."""

from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from cli import cli
from extract.backbones import BACKBONES
from heads.architectures import HEADS
from heads.optimizers import OPTIMIZERS
from tests.conftest import ROOT

REFERENCE = ("resnet18", "vgg16", "mobilenet_v3_large")
DEVICES = ("cpu", "xla-cpu")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all models of this machine on a few real images, in the order of `make study`."""
    pytest.importorskip("torch_xla", reason="the XLA wheel exists for Linux only")
    folder = tmp_path_factory.mktemp("study")
    for part, count in (("dataset", 3), ("test_images", 1)):
        for label in ("gel", "not_gel"):
            (folder / part / label).mkdir(parents=True)
            for path in sorted((ROOT / part / label).iterdir())[:count]:
                (folder / part / label / path.name).symlink_to(path)
    for arch in (REFERENCE, ("efficientnet_lite0",)):
        command = ["run", "--dataset", folder / "dataset", "--test", folder / "test_images"]
        command += ["--workspace", folder / "out", "--epochs", 2]
        command += [item for name in arch for item in ("--arch", name)]
        command += [item for name in DEVICES for item in ("--device", name)]
        done = CliRunner().invoke(cli, [str(item) for item in command])
        assert done.exit_code == 0, done.output
    return folder / "out" / "results.csv"


def configurations(table: pd.DataFrame) -> list[tuple[str, ...]]:
    names = ["hardware_type", "pretrained_model", "classifier_head", "opt_alg"]
    return [tuple(row) for row in table[names].to_numpy()]


def test_24_models_in_the_reference_studys_order(results: Path, gel: Path) -> None:
    table = pd.read_csv(results).head(24)
    assert table["model_id"].tolist() == list(range(1, 25))
    published = pd.read_csv(gel / "published_results.csv")
    published["hardware_type"] = published["hardware_type"].map({"cpu": "cpu", "gpu": "xla-cpu"})
    published = published.replace({"mobilenet-v3": "mobilenet_v3_large"})
    assert configurations(table) == configurations(published)


def test_every_combination_is_there_once(results: Path) -> None:
    table = pd.read_csv(results)
    assert set(configurations(table)) == {
        (d, b, h, o) for d in DEVICES for b in BACKBONES for h in HEADS for o in OPTIMIZERS
    }
    assert len(table) == 32


def test_every_assembled_model_agrees_with_its_head_on_cached_rows(results: Path) -> None:
    """The contract of the whole thing: nothing is lost between the cache and the whole model."""
    assert (pd.read_csv(results)["cached_difference"] < 1e-4).all()


def test_weights_are_labelled(results: Path) -> None:
    table = pd.read_csv(results)
    lite = table["pretrained_model"] == "efficientnet_lite0"
    assert set(table.loc[lite, "weights"]) == {"imagenet"}
    assert table.loc[~lite, "weights"].isin(["imagenet", "random:0"]).all()
