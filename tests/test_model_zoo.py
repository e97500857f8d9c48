"""Backbones by name: of every model of torchvision and timm, the embedding is what its last layer
is given; a model that has no such layer is refused.
"""

import sys

import pytest
import torch
from torch import nn
from torchvision.models import get_model, get_model_builder, get_model_weights

from cache.errors import WeightsError
from extract.backbones import BACKBONES, find_backbone
from extract.embedding_spec import load_backbone
from extract.model_zoo.backbone import IMAGENET_MEAN, IMAGENET_STD
from extract.model_zoo.families import (
    build_torchvision,
    last_linear,
    skeleton,
    torchvision_names,
)
from extract.weights import HUB
from tests.test_backbones import gray_images, normalised, published, received

pytestmark = pytest.mark.slow

NAMES = torchvision_names()
# torchvision has a file for each kind of network.
FIRST_OF_KIND = {get_model_builder(name).__module__: name for name in reversed(NAMES)}
SMALL = [n for n in NAMES if get_model_weights(n).DEFAULT.meta["num_params"] < 6e6]
OF_TIMM = ["resnet10t", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every model by `make soak`, else the first of each kind."""
    if "classifier" in metafunc.fixturenames:
        soak = metafunc.config.getoption("--soak")
        metafunc.parametrize("classifier", NAMES if soak else sorted(FIRST_OF_KIND.values()))


def test_every_torchvision_classifier_is_a_backbone_by_its_shapes(classifier: str) -> None:
    entry = find_backbone(f"tv:{classifier}")
    network = skeleton(classifier, entry.build)
    with torch.device("meta"):
        given = received(network, entry.last_linear, torch.empty(2, 3, 224, 224))
        network.set_submodule(entry.last_linear, nn.Identity())
        embedding = network(torch.empty(2, 3, 224, 224))
    assert embedding.shape == (2, entry.dim)
    assert given.shape[:2] == embedding.shape
    assert all(tensor.is_meta for tensor in network.state_dict().values())


@pytest.mark.parametrize("name", [*(f"tv:{n}" for n in SMALL), *(f"timm:{n}" for n in OF_TIMM)])
def test_an_embedding_is_exactly_what_the_last_layer_is_given(name: str) -> None:
    images = gray_images(224 if "224" in name else 64)
    loaded, entry = load_backbone(name, "random"), find_backbone(name)
    embedding = loaded.module(images)
    given = received(published(name, loaded), entry.last_linear, normalised(name, images))
    if "squeezenet" in name:  # its last layer is a 1 x 1 convolution of maps
        given = given.mean((2, 3))
    assert embedding.shape == (2, entry.dim)
    assert (embedding[0] - embedding[1]).abs().mean() > 0.001 * embedding.abs().mean() > 0
    torch.testing.assert_close(embedding, given, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in BACKBONES if n in NAMES])
def test_by_both_names_it_is_the_same(name: str) -> None:
    entry, found = BACKBONES[name], find_backbone(f"tv:{name}")
    for field in ("dim", "last_linear", "imagenet", "mean", "std", "package"):
        assert getattr(found, field) == getattr(entry, field)


def test_nothing_is_drawn_to_find_a_backbone() -> None:
    before = torch.get_rng_state()
    last_linear("tv:regnet_y_400mf", build_torchvision)
    assert torch.equal(torch.get_rng_state(), before)


class TestWeights:
    def test_every_file_lies_in_the_hub_and_carries_its_hash(self) -> None:
        for name in NAMES:
            for weights in get_model_weights(name):
                address, _, file = weights.url.rpartition("/")
                assert address == HUB
                assert int(file.removesuffix(".pth").rpartition("-")[2], 16)

    @pytest.mark.parametrize(
        ("name", "file"),
        [
            ("resnet101", "resnet101-63fe2227.pth"),  # of two for 224 the first
            ("vit_b_16", "vit_b_16-c867db91.pth"),
            ("regnet_y_16gf", "regnet_y_16gf-9e6ed7dd.pth"),
            ("vit_h_14", "vit_h_14_lc_swag-c1eb923e.pth"),  # the first is for 518 x 518
            ("efficientnet_b1", "efficientnet_b1_rwightman-bac287d4.pth"),  # none is for 224
        ],
    )
    def test_those_for_our_size_are_preferred(self, name: str, file: str) -> None:
        assert find_backbone(f"tv:{name}").imagenet == file

    @pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
    def test_the_inception_family_sees_what_it_was_trained_on(self, name: str) -> None:
        """torchvision turns its usual normalisation into theirs inside the network."""
        entry = find_backbone(f"tv:{name}")
        torchvisions = get_model(name, transform_input=True, init_weights=False)
        images = torch.rand(2, 3, 8, 8)
        mean, std, own_mean, own_std = (
            torch.tensor(v).view(1, 3, 1, 1)
            for v in (IMAGENET_MEAN, IMAGENET_STD, entry.mean, entry.std)
        )
        expected = torchvisions._transform_input((images - mean) / std)
        torch.testing.assert_close((images - own_mean) / own_std, expected)
        assert vars(entry.build(f"tv:{name}"))["transform_input"] is False

    def test_timms_are_safetensors_of_its_repository(self) -> None:
        entry = find_backbone("timm:vit_tiny_patch16_224")
        assert entry.imagenet == "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
        assert entry.mean == entry.std == (0.5, 0.5, 0.5)
        assert entry.package == "timm"
        other = find_backbone("timm:vit_tiny_patch16_224.augreg_in21k")
        assert other.imagenet == "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k"

    def test_a_model_published_without_a_last_layer_has_one(self) -> None:
        entry = find_backbone("timm:vit_small_patch16_224.dino")
        assert (entry.last_linear, entry.dim) == ("head", 384)


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("resnet34", "tv:resnet34"),
            ("mobilenet-v2", "mobilenet_v2"),
            ("tv:resnet43", "tv:resnet34"),
            ("timm:resnet11t", "timm:resnet10t"),
            ("tv:fasterrcnn_resnet50_fpn", "tv:NAME"),  # detects, does not classify
            ("timm:hf-hub:some/where", "timm:NAME"),
            ("timm", "timm:NAME"),
            ("", "basic_cnn"),
        ],
    )
    def test_an_unknown_name_says_what_is_near_and_how_to_list_all(
        self, name: str, near: str
    ) -> None:
        with pytest.raises(WeightsError, match=f"there is no backbone {name}") as caught:
            find_backbone(name)
        assert near in str(caught.value)
        assert "list_models" in str(caught.value)

    def test_timm_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(WeightsError, match=r"pip install 'timm>=1.0'"):
            find_backbone("timm:resnet10t_never_asked_for")

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("vit_small_patch14_dinov2", "3 channels and 518 x 518 pixels only"),
            ("levit_128s", "not that of one last linear layer"),  # the mean of two
            ("dla34", "not that of one last linear layer"),  # a convolution
            ("halonet26t", "224 x 224 pixels can't be sent through it"),
        ],
    )
    def test_a_model_of_another_kind_says_why(self, name: str, reason: str) -> None:
        with pytest.raises(WeightsError, match=f"timm:{name} .*{reason}"):
            find_backbone(f"timm:{name}")

    @pytest.mark.parametrize(
        "behind", [nn.Softmax(1), nn.ReLU(), nn.Unflatten(1, (5, 2)), nn.Conv1d(1, 1, 1)]
    )
    def test_something_behind_the_last_linear_layer(self, behind: nn.Module) -> None:
        """Without that layer, what lies behind it would change the embedding."""
        layers = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10), behind)
        with pytest.raises(WeightsError, match="mine is no backbone here"):
            last_linear("mine", lambda name: nn.Sequential(*layers))

    def test_a_linear_layer_of_every_place(self) -> None:
        layers = (nn.Flatten(2), nn.Linear(224 * 224, 10))
        with pytest.raises(WeightsError, match="mine is no backbone here"):
            last_linear("mine", lambda name: nn.Sequential(*layers))


def test_the_layer_that_is_called_last_counts_not_the_one_written_last() -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(5, 10), nn.Linear(3, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.body(images.mean((2, 3))))
            return logits

    assert last_linear("mine", lambda name: Reversed()) == ("head", 5)
