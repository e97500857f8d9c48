"""The whole model answers as its head does on cached rows, or is refused with a reason."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cache.errors import DatasetError, WeightsError
from cache.store import Cache, open_cache, read
from evaluate.backbone_loader import ModelLoader
from evaluate.classifier import measure
from evaluate.evaluation import evaluate, in_reference_order
from evaluate.explanation.gradcam import maps_path, read_maps
from evaluate.predictions import predictions_path, read_predictions
from evaluate.ranking import ranked
from evaluate.results import read_results, read_rows
from evaluate.test_set import TestSet, check_classes
from evaluate.workspace.layout import Workspace
from extract.backends.backend import ENGINES, Engine
from extract.dataset import scan
from extract.devices import DEVICES
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone, load_backbone
from extract.imaging.decode import decode_gray
from heads.architectures import HEADS
from heads.config import HeadConfig, fingerprint
from heads.search.space import SearchPlan, combinations
from heads.store import TrainedHead
from heads.training import train_heads
from tests.conftest import FIXTURES, ROOT, require_or_skip
from tests.toy import extract_one

pytestmark = pytest.mark.slow

Few = Callable[[int, int], Path]
EVERY = SearchPlan(tuple(combinations({"head": list(HEADS)})))
ONE = SearchPlan((HeadConfig("single", "adam"),))


@pytest.fixture(scope="module")
def lite() -> LoadedBackbone:
    return load_backbone("efficientnet_lite0", "imagenet")


@pytest.fixture(scope="module")
def workspace(
    tmp_path_factory: pytest.TempPathFactory, caches: dict[str, Cache]
) -> tuple[Workspace, list[TrainedHead]]:
    """The fixtures' caches with every head trained on them."""
    place = Workspace(tmp_path_factory.mktemp("workspace"))
    shutil.copytree(FIXTURES, place.cache)
    labels = scan(ROOT / "dataset").labels
    heads: list[TrainedHead] = []
    for cache in caches.values():
        heads += train_heads(cache, labels, "dataset", EVERY, place.heads).heads
    return place, heads


@pytest.mark.parametrize("device", DEVICES)
def test_assembled_models_answer_as_their_heads_on_the_committed_rows(
    device: str, workspace: tuple[Workspace, list[TrainedHead]], lite: LoadedBackbone
) -> None:
    require_or_skip(device)
    place, heads = workspace
    # A device without a committed cache answers as the CPU's rows do.
    kept = {saved.info.identity.device for saved in heads}
    source = device if device in kept else "cpu"
    wanted = [saved for saved in heads if saved.info.identity.device == source]
    assert {saved.info.configuration.head for saved in wanted} == set(HEADS)
    paths = [file.path for file in scan(ROOT / "test_images").files]
    spec = EmbeddingSpec(lite, device, tuple(DEVICES[device].engines), "fp32")
    whole = measure(spec, wanted, paths)
    assert whole.paths == tuple(paths)
    rows = read(open_cache(place.cache, wanted[0].info.identity), whole.hashes)
    for saved, answers in zip(wanted, whole.answers, strict=True):
        cached = saved.module()(torch.tensor(rows)).numpy()
        assert np.abs(answers.logits - cached).max() / np.abs(cached).max() < 1e-4
        np.testing.assert_allclose(answers.probabilities.sum(1), 1)


def test_every_model_is_entered_with_its_scores_and_predictions(
    workspace: tuple[Workspace, list[TrainedHead]], tmp_path: Path
) -> None:
    place = Workspace(tmp_path)
    shutil.copytree(workspace[0].cache, place.cache)
    shutil.copytree(workspace[0].heads, place.heads)
    test = scan(ROOT / "test_images")
    heads = [saved for saved in workspace[1] if saved.info.identity.device == "cpu"]
    ids = evaluate(heads, TestSet(test), ModelLoader(place))
    assert ids == list(range(1, len(heads) + 1))
    table = read_results(place.results)
    assert (table["n_test"] == 22).all()
    assert (table["n_leaked"] == 0).all()
    assert (table["cached_difference"] < 1e-4).all()
    assert (table["inference_time_secs"] > 0).all()
    assert (table["accuracy"] >= 0.8).all()
    assert (table["accuracy_with_leaked"] == table["accuracy"]).all()
    assert (table["latency_p50_ms"] <= table["latency_p99_ms"]).all()
    assert (table["parameters"] >= 3_371_008).all()  # EfficientNet-Lite0's, but for its last layer
    assert table["ece"].between(0, 1).all()
    best = ranked(read_rows(place.results))[0]
    assert [path.name for path in place.heads.glob("*.maps.npz")] == [f"{best['head_id']}.maps.npz"]
    maps = read_maps(maps_path(place.heads, best["head_id"]))
    assert len(maps.hashes) == 8
    for row in table.to_dict("records"):
        path = predictions_path(place.heads, row["head_id"], fingerprint(test.labels), "openvino")
        predictions = read_predictions(path, ["gel", "not_gel"])
        right = (predictions.probabilities.argmax(1) == predictions.labels).mean()
        assert row["accuracy"] == pytest.approx(right, abs=1e-6)
    assert evaluate(heads[:1], TestSet(test), ModelLoader(place)) == [1]
    assert len(read_results(place.results)) == len(heads)


def test_leaked_images_are_left_out_of_scores_and_both_are_told(
    workspace: tuple[Workspace, list[TrainedHead]], few: Few, tmp_path: Path
) -> None:
    data = few(1, 2)
    mislabelled = data / "test_images" / "not_gel" / "leak.jpg"
    shutil.copy(next((data / "dataset" / "gel").iterdir()), mislabelled)
    (data / "test_images" / "gel" / "broken.png").write_bytes(b"x")
    test, place = scan(data / "test_images"), Workspace(tmp_path / "empty")
    leaked = sha256(mislabelled.read_bytes()).digest()
    evaluate(workspace[1][:1], TestSet(test, {leaked}), ModelLoader(place))
    row = read_results(place.results).iloc[0]
    assert (row["n_test"], row["n_leaked"], row["n_unreadable"]) == (4, 1, 1)
    assert (row["accuracy"], row["accuracy_with_leaked"]) == (1.0, 0.8)
    assert sum(map(sum, json.loads(row["conf_mat"]))) == 4
    assert np.isnan(row["cached_difference"])  # these images are in no cache there
    (path,) = place.heads.glob("*.csv")
    predictions = read_predictions(path, ["gel", "not_gel"])
    assert (len(predictions.paths), len(predictions.clean.paths)) == (5, 4)
    assert predictions.paths[predictions.leaked.argmax()] == mislabelled


def test_a_test_set_of_leaks_only_is_refused(
    workspace: tuple[Workspace, list[TrainedHead]], few: Few, tmp_path: Path
) -> None:
    test = scan(few(1, 1) / "test_images")
    with pytest.raises(DatasetError, match="every image there is in training too"):
        evaluate(
            workspace[1][:1],
            TestSet(test, set(test.labels)),
            ModelLoader(Workspace(tmp_path / "out")),
        )


def test_leaks_and_broken_files_only_are_refused_too(
    workspace: tuple[Workspace, list[TrainedHead]], few: Few, tmp_path: Path
) -> None:
    data = few(1, 1)
    leaked = set(scan(data / "test_images").labels)
    (data / "test_images" / "gel" / "broken.png").write_bytes(b"x")
    with pytest.raises(DatasetError, match="all that can be read there is in training too"):
        evaluate(
            workspace[1][:1],
            TestSet(scan(data / "test_images"), leaked),
            ModelLoader(Workspace(tmp_path / "out")),
        )


def test_nothing_readable_is_an_error(
    workspace: tuple[Workspace, list[TrainedHead]], lite: LoadedBackbone, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DatasetError, match="none of the 1 test images"):
        spec = EmbeddingSpec(lite, "cpu", ("torch",), "fp32")
        measure(spec, workspace[1][:1], [tmp_path / "a.png"])


def test_a_file_that_changed_since_it_was_scanned_is_left_out_and_named(
    workspace: tuple[Workspace, list[TrainedHead]], few: Few
) -> None:
    """Its new bytes show another class: under its old label it would count as a mistake."""
    place, heads = workspace
    test = scan(few(1, 2) / "test_images")
    (victim,) = {file.path for file in test.files if file.path == test.files[0].path}
    shutil.copy(next(path for path in victim.parent.parent.glob("not_gel/*")), victim)
    said = list[str]()
    (number,) = evaluate(heads[:1], TestSet(test), ModelLoader(place), remark=said.append)
    rows = read_results(place.results)
    row = rows[rows["model_id"] == number].iloc[0]
    assert (row["n_test"], row["n_unreadable"]) == (3, 1)
    assert [line for line in said if line.startswith(f"{victim} is left out: its content has")]


def test_an_engine_that_gives_way_is_told_and_entered(
    workspace: tuple[Workspace, list[TrainedHead]],
    few: Few,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(*arguments: object) -> object:
        raise RuntimeError("no kernel for this")

    monkeypatch.setitem(ENGINES, "openvino", Engine("openvino", ("fp32",), build))  # type: ignore[arg-type]
    place, told = Workspace(tmp_path / "out"), list[str]()
    test = scan(few(1, 1) / "test_images")
    evaluate(workspace[1][:1], TestSet(test), ModelLoader(place), remark=told.append)
    assert told == [
        "the engine openvino can't be built on cpu: no kernel for this; torch was measured instead"
    ]
    assert read_results(place.results)["engine"].tolist() == ["torch"]


def test_the_reference_studys_order(workspace: tuple[Workspace, list[TrainedHead]]) -> None:
    ordered = in_reference_order(list(reversed(workspace[1])))
    names = [
        (s.info.identity.device, s.info.configuration.head, s.info.configuration.optimizer)
        for s in ordered
    ]
    kinds = [
        (name, optimizer)
        for name, head in HEADS.items()
        for optimizer in (("none",) if head.fitted else ("adam", "sgd"))
    ]
    assert kinds[:4] == [("single", "adam"), ("single", "sgd"), ("multi", "adam"), ("multi", "sgd")]
    assert names == [(device, *kind) for device in ("cpu", "xla-cpu") for kind in kinds]


def test_a_class_that_training_has_not_is_named(few: Few) -> None:
    test = scan(few(1, 1) / "test_images")
    check_classes(("gel", "not_gel", "third"), test)
    with pytest.raises(DatasetError, match=r"class\(es\) not_gel, which training has not \(gel\)"):
        check_classes(("gel",), test)


def test_a_test_folder_of_conflicts_only_is_refused_at_once(few: Few) -> None:
    data = few(1, 1)
    for path in (data / "test_images" / "not_gel").iterdir():
        path.unlink()
    shutil.copytree(
        data / "test_images" / "gel", data / "test_images" / "not_gel", dirs_exist_ok=True
    )
    with pytest.raises(DatasetError, match="every image there lies in two classes"):
        check_classes(("gel", "not_gel"), scan(data / "test_images"))


def test_the_head_computes_in_fp32_at_any_precision(
    workspace: tuple[Workspace, list[TrainedHead]], lite: LoadedBackbone
) -> None:
    head = workspace[1][0]
    paths = [file.path for file in scan(ROOT / "test_images").files][:4]
    whole = measure(EmbeddingSpec(lite, "cpu", ("torch",), "bf16"), [head], paths)
    pixels = np.stack([decode_gray(path.read_bytes()).pixels for path in paths])
    embeddings = ENGINES["torch"].build(lite, "cpu", "bf16", 4, None)(pixels)
    expected = head.logits(embeddings)
    np.testing.assert_allclose(whole.answers[0].logits, expected, rtol=1e-5, atol=1e-6)


def test_weights_that_are_gone_cost_their_own_models_only(
    workspace: tuple[Workspace, list[TrainedHead]], few: Few, tmp_path: Path
) -> None:
    place = Workspace(tmp_path / "work")
    data = few(2, 1)
    images, labels = scan(data / "dataset"), scan(data / "dataset").labels
    state = load_backbone("resnet18", "random").module.get_submodule("network").state_dict()
    save_file(state, tmp_path / "mine.safetensors")
    mine = load_backbone("resnet18", str(tmp_path / "mine.safetensors"))
    cache = extract_one(mine, images.files, place.cache).cache
    heads = list(train_heads(cache, labels, "few", ONE, place.heads).heads)
    heads.append(workspace[1][0])
    with pytest.raises(WeightsError, match=r"1 of 2 models left out:\nresnet18 .*mine"):
        evaluate(heads, TestSet(scan(data / "test_images")), ModelLoader(place))
    assert read_results(place.results)["pretrained_model"].tolist() == ["efficientnet_lite0"]


class TestReload:
    def test_the_same_weights_come_back(
        self, toy: LoadedBackbone, few: Few, tmp_path: Path
    ) -> None:
        files = scan(few(2, 1) / "dataset").files
        cache = extract_one(toy, files, tmp_path).cache
        again = ModelLoader(Workspace(tmp_path), "auto").backbone(cache.key, toy.weights)
        assert again.weights_sha256 == toy.weights_sha256

    def test_other_weights_are_refused(self, caches: dict[str, Cache], tmp_path: Path) -> None:
        with pytest.raises(
            WeightsError, match=r"weights_sha256: .*run extract and train-heads again"
        ):
            ModelLoader(Workspace(tmp_path), "auto").backbone(caches["cpu"].key, "random:3")

    def test_other_weights_asked_for_are_refused(
        self, caches: dict[str, Cache], tmp_path: Path
    ) -> None:
        with pytest.raises(WeightsError, match="was extracted with imagenet"):
            ModelLoader(Workspace(tmp_path), "random").backbone(caches["cpu"].key, "imagenet")

    def test_weights_from_a_file_must_be_given_again(
        self, caches: dict[str, Cache], tmp_path: Path
    ) -> None:
        with pytest.raises(WeightsError, match=r"--weights PATH/mine\.pth"):
            ModelLoader(Workspace(tmp_path), "auto").backbone(caches["cpu"].key, "file:mine.pth")
