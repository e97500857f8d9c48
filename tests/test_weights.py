"""Weights: found, checked, loaded safely, or refused with the way out."""

import hashlib
import pickle
import re
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import VisionTransformer, get_model

from cache.errors import WeightsError, WeightsUnavailableError
from extract.artifact_store import ArtifactStore
from extract.backbones import BACKBONES, find_backbone
from extract.embedding_spec import LoadedBackbone, load_backbone
from extract.state_dict import initialise, load_state, tensors_sha256
from extract.weights import hub_folder, imagenet_file


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub folder, and a network that isn't there."""

    def unreachable(url: str, *args: object) -> None:
        raise URLError("no network in this test")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize(
    "variables", [{}, {"XDG_CACHE_HOME": "~/elsewhere"}, {"TORCH_HOME": "/some/where"}]
)
def test_the_hubs_folder_is_torchs(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(hub_folder()) == f"{torch.hub.get_dir()}/checkpoints"


def state_of(name: str, seed: int) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = find_backbone(name).build(name)
        initialise(model)
        return model.state_dict()


def test_random_is_seeded() -> None:
    first, again, other = (load_backbone("resnet18", "random", seed) for seed in (1, 1, 2))
    assert first.weights == "random:1"
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256


def test_random_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    load_backbone("resnet18", "random", 5)
    assert torch.equal(before, torch.get_rng_state())


def test_efficientnet_lite0_has_real_weights_without_a_network(hub: Path) -> None:
    for choice in ("auto", "imagenet"):
        loaded = load_backbone("efficientnet_lite0", choice)
        assert (loaded.weights, loaded.source.notice) == ("imagenet", None)


def test_imagenet_without_a_network_names_file_place_and_alternatives(hub: Path) -> None:
    with pytest.raises(WeightsUnavailableError) as caught:
        load_backbone("resnet18", "imagenet")
    message = str(caught.value)
    assert str(hub / "resnet18-f37072fd.pth") in message
    assert "--weights random" in message
    assert "efficientnet_lite0" in message


def test_auto_without_a_network_is_random_and_says_so(hub: Path) -> None:
    loaded = load_backbone("resnet18", "auto", seed=4)
    assert loaded.weights == "random:4"
    assert loaded.source.notice is not None
    assert "RANDOM" in loaded.source.notice


def test_imagenet_is_read_from_the_hub_after_its_hash_is_checked(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file made here stands for the published one, under the name its own hash gives it."""
    hub.mkdir(parents=True)
    torch.save(state_of("resnet18", 7), hub / "new.pth")
    digest = hashlib.sha256((hub / "new.pth").read_bytes()).hexdigest()[:8]
    file = (hub / "new.pth").rename(hub / f"resnet18-{digest}.pth")
    monkeypatch.setitem(BACKBONES, "resnet18", replace(BACKBONES["resnet18"], imagenet=file.name))
    loaded = load_backbone("resnet18", "imagenet")
    assert loaded.weights == "imagenet"
    assert loaded.weights_sha256 == load_backbone("resnet18", "random", 7).weights_sha256
    with file.open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(WeightsError, match=r"damaged.*Delete it"):
        load_backbone("resnet18", "auto")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_weights(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"mine{suffix}"
    state = state_of("resnet18", 9)
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    loaded = load_backbone("resnet18", str(file))
    assert loaded.weights == f"file:mine{suffix}"
    assert loaded.weights_sha256 == load_backbone("resnet18", "random", 9).weights_sha256


def test_the_last_layer_may_be_missing_or_of_other_classes(tmp_path: Path) -> None:
    state = state_of("resnet18", 9)
    headless = {key: value for key, value in state.items() if not key.startswith("fc.")}
    for number, extra in enumerate(({}, {"fc.weight": torch.zeros(7, 512)})):
        save_file(headless | extra, tmp_path / f"{number}.safetensors")
        load_backbone("resnet18", str(tmp_path / f"{number}.safetensors"))


def test_every_mismatch_is_named_at_once(tmp_path: Path) -> None:
    state = state_of("resnet18", 9)
    del state["bn1.weight"]
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    state["extra"] = torch.zeros(1)
    state["layer1.0.bn1.bias"][2] = torch.inf
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError) as caught:
        load_backbone("resnet18", str(tmp_path / "bad.safetensors"))
    for part in (
        "bn1.weight is missing",
        "conv1.weight is [64, 1, 7, 7], not [64, 3, 7, 7]",
        "extra is unknown",
        "layer1.0.bn1.bias holds NaN or infinity",
    ):
        assert part in str(caught.value)
    assert str(caught.value).count(";") == 3  # and nothing else


def test_weights_of_nan_are_refused(tmp_path: Path) -> None:
    state = state_of("resnet18", 9)
    state["bn1.weight"][3] = torch.nan
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match=r"bn1\.weight holds NaN"):
        load_backbone("resnet18", str(tmp_path / "nan.safetensors"))


class TestOlderFiles:
    """What was published before a layer had the tensors, or the names, that it has now."""

    def test_counts_of_batches_may_be_missing(self, tmp_path: Path) -> None:
        state = state_of("resnet18", 9)
        older = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        torch.save(older, tmp_path / "older.pth")
        loaded = load_backbone("resnet18", str(tmp_path / "older.pth"))
        assert loaded.weights_sha256 == load_backbone("resnet18", "random", 9).weights_sha256

    def test_densenet_had_dots_in_its_names(self, tmp_path: Path) -> None:
        """features.denseblock1.denselayer1.norm.1.weight, as in torchvision's published file."""
        older = {
            re.sub(r"(denselayer\d+\.(?:norm|relu|conv))([12])", r"\1.\2", key): tensor
            for key, tensor in state_of("densenet121", 9).items()
            if not key.endswith("num_batches_tracked")
        }
        assert "features.denseblock1.denselayer1.norm.1.weight" in older
        torch.save(older, tmp_path / "older.pth")
        loaded = load_backbone("densenet121", str(tmp_path / "older.pth"))
        assert loaded.weights_sha256 == load_backbone("densenet121", "random", 9).weights_sha256

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_vision_transformers_had_numbered_linear_layers(
        self, tmp_path: Path, suffix: str
    ) -> None:
        new, model = (VisionTransformer(32, 16, 1, 2, 8, 16) for _ in range(2))
        older = {
            key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
            for key, tensor in new.state_dict().items()
        }
        assert len(older.keys() - new.state_dict().keys()) == 4
        file = tmp_path / f"older{suffix}"
        save_file(older, file) if suffix == ".safetensors" else torch.save(older, file)
        load_state(model, file, "heads.head")
        first, second = (
            m.state_dict()["encoder.layers.encoder_layer_0.mlp.3.weight"] for m in (new, model)
        )
        assert torch.equal(first, second)

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_mnasnet_asks_for_the_version_of_its_file(self, tmp_path: Path, suffix: str) -> None:
        """A safetensors file has none: it is read as one of now."""
        state, file = state_of("tv:mnasnet0_5", 9), tmp_path / f"mine{suffix}"
        save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
        loaded = load_backbone("tv:mnasnet0_5", str(file))
        assert loaded.weights_sha256 == load_backbone("tv:mnasnet0_5", "random", 9).weights_sha256

    def test_googlenets_auxiliary_classifiers_are_left_out(self, tmp_path: Path) -> None:
        whole = get_model("googlenet", aux_logits=True, init_weights=False).state_dict()
        assert "aux1.fc1.weight" in whole
        save_file(whole, tmp_path / "whole.safetensors")
        loaded = load_backbone("tv:googlenet", str(tmp_path / "whole.safetensors"))
        assert torch.equal(
            loaded.module.state_dict()["network.conv1.conv.weight"], whole["conv1.conv.weight"]
        )


class TestUnpublished:
    """basic_cnn is for training from scratch: there are no weights of it."""

    def test_imagenet_is_refused(self) -> None:
        with pytest.raises(WeightsUnavailableError) as caught:
            load_backbone("basic_cnn", "imagenet")
        assert "it has no published weights. It is for `python cli.py baseline" in str(caught.value)

    def test_auto_is_random_with_a_notice(self) -> None:
        loaded = load_backbone("basic_cnn", "auto", 3)
        assert loaded.weights == "random:3"
        assert "basic_cnn has RANDOM weights: it has no published" in str(loaded.source.notice)


class TestHuggingFace:
    """timm's weights: its own folder first, the network only if there is nothing."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """An empty folder of Hugging Face's, and a network that isn't there."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        return tmp_path / "models--timm--resnet10t.c3_in1k"

    def test_a_file_that_is_there_is_read(self, folder: Path) -> None:
        snapshot = folder / "snapshots" / "0123"
        for path in (snapshot, folder / "refs"):
            path.mkdir(parents=True)
        (folder / "refs" / "main").write_text("0123")
        save_file(state_of("timm:resnet10t", 9), snapshot / "model.safetensors")
        loaded = load_backbone("timm:resnet10t", "imagenet")
        assert (loaded.weights, loaded.source.notice) == ("imagenet", None)
        expected = load_backbone("timm:resnet10t", "random", 9).weights_sha256
        assert loaded.weights_sha256 == expected

    def test_without_a_network_the_way_out_is_named(self, folder: Path) -> None:
        with pytest.raises(WeightsUnavailableError) as caught:
            load_backbone("timm:resnet10t", "imagenet")
        for part in (
            "model.safetensors of timm/resnet10t.c3_in1k can't be downloaded",
            "https://huggingface.co/timm/resnet10t.c3_in1k/resolve/main/model.safetensors",
            "--weights PATH",
        ):
            assert part in str(caught.value)
        assert "RANDOM" in str(load_backbone("timm:resnet10t", "auto").source.notice)

    def test_a_pickle_in_its_folder_is_no_weights_file(self, folder: Path) -> None:
        snapshot = folder / "snapshots" / "0123"
        for path in (snapshot, folder / "refs"):
            path.mkdir(parents=True)
        (folder / "refs" / "main").write_text("0123")
        (snapshot / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(), protocol=2))
        with pytest.raises(WeightsUnavailableError, match="is not in Hugging Face's folder"):
            imagenet_file("timm:resnet10t", download=False)


def test_of_any_torchvision_model_the_published_file_is_named(hub: Path) -> None:
    with pytest.raises(WeightsUnavailableError) as caught:
        load_backbone("tv:squeezenet1_1", "imagenet")
    assert "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth" in str(caught.value)
    assert str(hub / "squeezenet1_1-b8a52dc0.pth") in str(caught.value)


class Trap:
    """What a hostile pickle does on loading."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("trapped"),))


def test_a_pickle_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("trap.pth").write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(WeightsError, match="safely"):
        load_backbone("resnet18", "trap.pth")
    torch.save({"fc.weight": Trap()}, "trap2.pth")
    with pytest.raises(WeightsError, match="safely"):
        load_backbone("resnet18", "trap2.pth")
    assert not Path("trapped").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x02K\x01."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_weights_file_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"junk{suffix}"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="junk"):
        load_backbone("resnet18", str(file))


def test_no_such_file() -> None:
    with pytest.raises(WeightsError, match=r"--weights mine.pth: there is no such file"):
        load_backbone("resnet18", "mine.pth")


def test_the_hash_is_of_names_types_shapes_and_bytes(toy: LoadedBackbone) -> None:
    first = torch.nn.Linear(2, 3)
    same = torch.nn.Linear(2, 3)
    same.load_state_dict(first.state_dict())
    assert tensors_sha256(first) == tensors_sha256(same)
    with torch.no_grad():
        same.bias[0] += 1e-6
    assert tensors_sha256(first) != tensors_sha256(same)
    assert tensors_sha256(first) != tensors_sha256(torch.nn.Sequential(first))


class TestKeptHash:
    """With its weights' hash in the store, a backbone is known without being loaded."""

    def test_nothing_is_built_until_it_is_used(
        self, toy: LoadedBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        artifacts = ArtifactStore(tmp_path)
        first = load_backbone("toy", "random", 3, artifacts)
        built = list[str]()
        build = BACKBONES["toy"].build

        def noted(name: str) -> torch.nn.Module:
            built.append(name)
            return build(name)

        monkeypatch.setitem(BACKBONES, "toy", replace(BACKBONES["toy"], build=noted))
        again = load_backbone("toy", "random", 3, artifacts)
        assert (again, built) == (first, [])
        states = [backbone.module.state_dict() for backbone in (first, again)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        assert again.module is again.module
        assert built == ["toy"]
        assert load_backbone("toy", "random", 4, artifacts) != again

    def test_a_changed_file_is_another(self, toy: LoadedBackbone, tmp_path: Path) -> None:
        hashes = set()
        for seed in (1, 2):
            save_file(state_of("toy", seed), tmp_path / "mine.safetensors")
            loaded = load_backbone(
                "toy", str(tmp_path / "mine.safetensors"), 0, ArtifactStore(tmp_path)
            )
            hashes.add(loaded.weights_sha256)
        assert len(hashes) == 2

    def test_weights_that_come_out_otherwise_are_refused_once(
        self, toy: LoadedBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on another machine whose torch draws other numbers for the same seed."""
        artifacts = ArtifactStore(tmp_path)
        first = load_backbone("toy", "random", 0, artifacts)
        monkeypatch.setattr("extract.state_dict.initialise", lambda model: None)
        with pytest.raises(WeightsError, match=r"toy: .*random:0.* run the same command again"):
            _ = load_backbone("toy", "random", 0, artifacts).module
        again = load_backbone("toy", "random", 0, artifacts)
        assert again.module
        assert again != first
