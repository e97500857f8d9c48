"""Every entry of the table: an embedding is what the published last layer would receive."""

from importlib.metadata import version

import pytest
import torch
from torch import nn
from torchvision.models import get_model_weights, list_models

from extract.backbones import BACKBONES, find_backbone
from extract.embedding_spec import LoadedBackbone, load_backbone
from extract.imaging.gray_input import GrayInput
from extract.model_zoo.basic_cnn import BasicCNN
from extract.model_zoo.families import skeleton
from extract.weights import imagenet_file

TORCHVISION = [name for name in BACKBONES if name in list_models()]
# The other VGGs are vgg16 with other numbers of convolutions: test_families.py sees their shapes.
TRIED = [name for name in BACKBONES if name not in ("vgg11", "vgg19")]


def gray_images(size: int = 224) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 1, size, size), dtype=torch.uint8, generator=generator)


def received(classifier: nn.Module, last: str, images: torch.Tensor) -> torch.Tensor:
    """What the layer `last` is given when images go through the whole classifier."""
    inputs: list[torch.Tensor] = []
    layer = classifier.get_submodule(last)
    handle = layer.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    with torch.inference_mode():
        classifier(images)
    handle.remove()
    return inputs[0]


def published(name: str, loaded: LoadedBackbone) -> nn.Module:
    """The whole classifier as its publisher has it, with the backbone's weights."""
    entry = find_backbone(name)
    classifier = skeleton(name, entry.build)
    classifier.load_state_dict(
        loaded.module.get_submodule("network").state_dict(), strict=False, assign=True
    )
    classifier.get_submodule(entry.last_linear).to_empty(device="cpu")
    return classifier


def normalised(name: str, images: torch.Tensor) -> torch.Tensor:
    entry = find_backbone(name)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (entry.mean, entry.std))
    return (images.float().div(255).expand(-1, 3, -1, -1) - mean) / std


@pytest.fixture(scope="module", params=TRIED)
def backbone(request: pytest.FixtureRequest) -> tuple[str, LoadedBackbone, torch.Tensor]:
    """An entry's name, the entry with random weights, and its embeddings of two images."""
    loaded = load_backbone(request.param, "random")
    return request.param, loaded, loaded.module(gray_images())


Loaded = tuple[str, LoadedBackbone, torch.Tensor]


def test_random_weights_tell_images_apart(backbone: Loaded) -> None:
    """torchvision's own initialisation gives mobilenet_v3_large embeddings of 1e-9."""
    first, second = backbone[2]
    assert (first - second).abs().mean() > 0.01 * first.abs().mean() > 1e-6


def test_embedding_is_the_input_of_the_last_linear_layer(backbone: Loaded) -> None:
    name, loaded, embedding = backbone
    entry, classifier = BACKBONES[name], published(name, loaded)
    assert isinstance(classifier.get_submodule(entry.last_linear), nn.Linear)
    expected = received(classifier, entry.last_linear, normalised(name, gray_images()))
    assert embedding.shape == (2, entry.dim)
    spread = (embedding[0] - embedding[1]).abs().mean()
    # Alive: two images differ by far more than they may differ here.
    assert spread > 0.01 * embedding.abs().mean() > 1e-6
    assert (embedding - expected).abs().max() < 1e-4 * spread


def test_frozen(backbone: Loaded) -> None:
    _, loaded, embedding = backbone
    assert not loaded.module.training
    assert not any(p.requires_grad for p in loaded.module.parameters())
    before = {key: value.clone() for key, value in loaded.module.named_buffers()}
    assert torch.equal(loaded.module(gray_images()), embedding)
    assert all(torch.equal(value, before[key]) for key, value in loaded.module.named_buffers())


def test_four_are_run_unless_others_are_asked_for() -> None:
    standard = [name for name, entry in BACKBONES.items() if entry.standard]
    assert standard == ["resnet18", "vgg16", "mobilenet_v3_large", "efficientnet_lite0"]


def test_what_builds_it_is_a_package() -> None:
    for name, entry in BACKBONES.items():
        assert version(entry.package), name


def test_basic_cnn_is_small_and_learns() -> None:
    """From scratch: bright circles against dark ones, in a few steps."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = BasicCNN()
        assert sum(parameter.numel() for parameter in network.parameters()) < 700_000
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        labels = torch.arange(16) % 2
        images = torch.rand(16, 3, 32, 32) + labels.view(-1, 1, 1, 1)
        for _ in range(20):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert torch.equal(network.eval()(images).argmax(1), labels)


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_file_of_weights_is_the_published_one(name: str) -> None:
    published = get_model_weights(name)["IMAGENET1K_V1"].url.rpartition("/")[2]
    assert BACKBONES[name].imagenet == published


@pytest.mark.parametrize("name", TORCHVISION)
def test_normalisation_is_the_weights_own(name: str) -> None:
    transforms = get_model_weights(name)["IMAGENET1K_V1"].transforms()
    assert list(BACKBONES[name].mean) == transforms.mean
    assert list(BACKBONES[name].std) == transforms.std


def test_gray_is_exactly_three_equal_normalised_channels() -> None:
    """In float64, against the plain way, through a convolution that pads at the border."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Conv2d(3, 16, 7, stride=2, padding=3, dtype=torch.float64)
    entry = BACKBONES["resnet18"]
    stem = GrayInput(network, entry.mean, entry.std).double()
    images = gray_images()
    channels = [
        (images[:, 0].double() / 255 - mean) / std
        for mean, std in zip(stem.mean.flatten(), stem.std.flatten(), strict=True)
    ]
    plain = network(torch.stack(channels, 1))
    torch.testing.assert_close(stem(images), plain, rtol=1e-14, atol=1e-14)


def test_efficientnet_lite0_knows_what_a_flower_is() -> None:
    """Its weights are real and its normalisation right: a photograph gets its ImageNet class."""
    from efficientnet_lite_pytorch import EfficientNet
    from PIL import Image
    from sklearn.datasets import load_sample_image

    entry = BACKBONES["efficientnet_lite0"]
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(imagenet_file("efficientnet_lite0"), weights_only=True))
    flower = Image.fromarray(load_sample_image("flower.jpg")).resize((224, 224))
    pixels = torch.frombuffer(bytearray(flower.tobytes()), dtype=torch.uint8).view(224, 224, 3)
    mean, std = (torch.tensor(v) for v in (entry.mean, entry.std))
    normalised = ((pixels / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.inference_mode():
        assert model(normalised).argmax().item() == 985  # daisy
