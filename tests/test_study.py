"""The reference study's 24 models, then ours: every backbone x head x optimizer x device."""

from dataclasses import replace
from math import nan
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from cache.store import open_cache, read
from evaluate.benchmark.timing import Timing
from evaluate.predictions import read_predictions
from evaluate.workspace.layout import Workspace
from extract import devices
from extract.backbones import BACKBONES, STANDARD
from frostline.cli.main import cli
from heads.store import find_heads
from tests.conftest import ROOT
from tests.toy import Toy

pytestmark = pytest.mark.slow

REFERENCE = ("resnet18", "vgg16", "mobilenet_v3_large")
DEVICES = ("cpu", "xla-cpu")
COSTS = Timing(nan, nan, nan, {}, {}, 1, None)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, soak: bool) -> Path:
    """Run all models of this machine on a few real images, in the order of `make study`.

    A toy stands for vgg16, whose 138 million parameters take XLA half a minute, but with --soak.
    """
    pytest.importorskip("torch_xla", reason="the XLA wheel exists for Linux only")
    folder = tmp_path_factory.mktemp("study")
    for part, count in (("dataset", 2), ("test_images", 1)):
        for label in ("gel", "not_gel"):
            (folder / part / label).mkdir(parents=True)
            for path in sorted((ROOT / part / label).iterdir())[:count]:
                (folder / part / label / path.name).symlink_to(path)
    for arch in (REFERENCE, [name for name in STANDARD if name not in REFERENCE]):
        command = ["run", "--dataset", folder / "dataset", "--test", folder / "test_images"]
        command += ["--workspace", folder / "out", "--epochs", 2]
        command += [item for name in arch for item in ("--arch", name)]
        command += [item for name in DEVICES for item in ("--device", name)]
        with pytest.MonkeyPatch.context() as patch:
            # XLA computes whole batches: of 2, six images take a fraction of the time.
            # Costs are measured in test_timing.py; XLA compiles again for each batch size.
            patch.setattr(
                "evaluate.evaluation.time_models", lambda t, heads, *_: [COSTS] * len(heads)
            )
            if not soak:
                toy = replace(BACKBONES["vgg16"], dim=8, last_linear="fc", build=lambda n: Toy())
                patch.setitem(BACKBONES, "vgg16", toy)
            for name in DEVICES:
                device = devices.DEVICES[name]
                engines = dict.fromkeys(device.engines, 2)
                patch.setitem(devices.DEVICES, name, replace(device, engines=engines))
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
        (d, b, h, o)
        for d in DEVICES
        for b in STANDARD
        for h in ("single", "multi")
        for o in ("adam", "sgd")
    }
    assert len(table) == 32


def test_every_whole_model_answers_as_its_head_on_cached_rows(results: Path) -> None:
    """The contract of the whole thing, recomputed here from the files that the run left."""
    place = Workspace(results.parent)
    heads, _ = find_heads(place.heads)
    assert len(heads) == 32
    for saved in heads:
        (path,) = place.heads.glob(f"{saved.info.id}.*.csv")
        whole = read_predictions(path, saved.info.classes)
        rows = torch.tensor(read(open_cache(place.cache, saved.info.identity), whole.hashes))
        logits = saved.module()(rows).double()
        # Probabilities keep logits up to a constant, which the mean takes away.
        answered = torch.from_numpy(whole.probabilities).log()
        difference = (answered - answered.mean(1, True)) - (logits - logits.mean(1, True))
        assert difference.abs().max() < 1e-4 * logits.abs().max(), saved.info.id
        assert (rows[0] - rows[1]).abs().mean() > 0.01 * rows.abs().mean(), saved.info.id
    assert (pd.read_csv(results)["cached_difference"] < 1e-4).all()


def test_weights_are_labelled(results: Path) -> None:
    table = pd.read_csv(results)
    lite = table["pretrained_model"] == "efficientnet_lite0"
    assert set(table.loc[lite, "weights"]) == {"imagenet"}
    assert table.loc[~lite, "weights"].isin(["imagenet", "random:0"]).all()
