"""Every entry of the table: an embedding is what the published last layer would receive."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import get_model_weights, list_models

from extract.backbones import BACKBONES
from extract.load import load_backbone
from extract.sources import imagenet_file
from extract.stem import GrayInput

TORCHVISION = [name for name in BACKBONES if name in list_models()]


def gray_images(count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 1, 224, 224), dtype=torch.uint8, generator=generator)


def live_weights(name: str, folder: Path) -> Path:
    """Write the weights of a whole random classifier whose activations do not die out."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = BACKBONES[name].build(name)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
    save_file(model.state_dict(), folder / "live.safetensors")
    return folder / "live.safetensors"


@pytest.mark.parametrize("name", BACKBONES)
def test_random_weights_tell_images_apart(name: str) -> None:
    """torchvision's own initialisation gives mobilenet_v3_large embeddings of 1e-9."""
    first, second = load_backbone(name, "random").module(gray_images())
    assert (first - second).abs().mean() > 0.01 * first.abs().mean() > 1e-4


@pytest.mark.parametrize("name", BACKBONES)
def test_embedding_is_the_input_of_the_last_linear_layer(name: str, tmp_path: Path) -> None:
    entry = BACKBONES[name]
    weights = live_weights(name, tmp_path)
    loaded = load_backbone(name, str(weights))
    published = entry.build(name).eval()
    published.load_state_dict(load_file(weights))
    last = published.get_submodule(entry.last_linear)
    assert isinstance(last, nn.Linear)
    received: list[torch.Tensor] = []
    last.register_forward_pre_hook(lambda module, inputs: received.append(inputs[0]))
    three = gray_images().float().div(255).expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (entry.mean, entry.std))
    with torch.inference_mode():
        published((three - mean) / std)
        embedding = loaded.module(gray_images())
    assert embedding.shape == (2, entry.dim)
    spread = (embedding[0] - embedding[1]).abs().mean()
    assert spread > 0.01  # alive: two images differ by far more than they may differ here
    assert (embedding - received[0]).abs().max() < 1e-4 * spread


@pytest.mark.parametrize("name", BACKBONES)
def test_frozen(name: str) -> None:
    module = load_backbone(name, "random").module
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())
    images = gray_images(1)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert torch.equal(module(images), module(images))
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


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
