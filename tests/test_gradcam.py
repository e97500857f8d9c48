"""A map shows where a model found the evidence for its answer, for every backbone and head."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.errors import HeadError, ResultsError
from cache.store import Cache
from evaluate.explanation.gradcam import (
    IMAGES_AT_ONCE,
    Maps,
    activation_maps,
    maps_path,
    overlay,
    read_maps,
    write_maps,
)
from extract.backbones import BACKBONES
from extract.dataset import scan
from extract.embedding_spec import LoadedBackbone, load_backbone
from extract.imaging.decode import decode_gray
from extract.weights import Source
from heads.architectures import HEADS
from heads.closed_form import FITS
from heads.modules import build_head
from heads.search.space import SearchPlan, combinations
from heads.store import TrainedHead
from heads.training import train_heads
from tests.conftest import ROOT
from tests.test_backbones import TRIED
from tests.toy import with_module

pytestmark = pytest.mark.slow

Pixels = NDArray[np.uint8]


class Layers(nn.Module):
    """Layers, then the mean of each map; `reused` once more on the means, as some networks do."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.reused = nn.Sequential(*layers), nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.reused(self.layers(images.float()))
        means: Tensor = self.reused(maps.mean((2, 3)))
        return means


def frozen(network: nn.Module) -> LoadedBackbone:
    module = network.eval().requires_grad_(False)
    half = (0.5, 0.5, 0.5)
    return with_module(LoadedBackbone("toy", Source("random:0", None), "", (half, half)), module)


def brightness() -> LoadedBackbone:
    """The mean of every 16 x 16 pixels, and its opposite: how bright, how dark."""
    layer = nn.Conv2d(1, 2, 16, stride=16)
    nn.init.constant_(layer.weight[0], 1 / 256)
    nn.init.constant_(layer.weight[1], -1 / 256)
    layer.bias = nn.Parameter(torch.tensor([-100.0, 101.0]))
    return frozen(Layers(layer))


def linear(*weight: list[float]) -> nn.Linear:
    head = nn.Linear(len(weight[0]), len(weight))
    head.weight, head.bias = nn.Parameter(torch.tensor(weight)), nn.Parameter(torch.zeros(2))
    return head.requires_grad_(False)


def blob() -> Pixels:
    """Black, but for one white square in the fourth row and the twelfth column of 14."""
    image = np.zeros((1, 1, 224, 224), np.uint8)
    image[0, 0, 48:64, 176:192] = 255
    return image


def images(count: int) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (count, 1, 224, 224), np.uint8)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(1)


@pytest.fixture(scope="module")
def lite() -> LoadedBackbone:
    return load_backbone("efficientnet_lite0", "imagenet")


@pytest.fixture(scope="module")
def gels() -> Pixels:
    files = scan(ROOT / "test_images").files[::4]
    return np.stack([decode_gray(file.path.read_bytes()).pixels for file in files])


@pytest.fixture(scope="module")
def trained(
    caches: dict[str, Cache], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, TrainedHead]:
    """Every head, trained on the committed embeddings of the sample images."""
    sweep = SearchPlan(tuple(combinations({"head": list(HEADS), "optimizer": ["adam"]})))
    root, labels = tmp_path_factory.mktemp("heads"), scan(ROOT / "dataset").labels
    heads = train_heads(caches["cpu"], labels, "dataset", sweep, root).heads
    return {saved.info.configuration.head: saved for saved in heads}


class TestWhatLightsUp:
    def test_the_bright_blob_for_the_class_of_bright_things(self) -> None:
        (heat,) = activation_maps(brightness(), linear([200.0, 0.0], [0.0, 1.0]), blob())
        assert heat.shape == (14, 14)
        assert heat[3, 11] == 255
        assert heat.sum() == 255  # and nothing else

    def test_all_but_the_blob_for_the_class_of_dark_things(self) -> None:
        (heat,) = activation_maps(brightness(), linear([0.0, 1.0], [1.0, 0.0]), blob())
        assert heat[3, 11] == 0
        assert (heat == 255).sum() == 14 * 14 - 1

    def test_nothing_where_nothing_speaks_for_the_class(self) -> None:
        black = np.zeros((1, 1, 224, 224), np.uint8)
        bias = nn.Linear(2, 2).requires_grad_(False)
        bias.weight[:] = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
        bias.bias[:] = torch.tensor([1000.0, 0.0])  # the first class, whatever is seen
        assert activation_maps(brightness(), bias, black).max() == 0

    def test_a_constant_added_to_every_logit_changes_no_map(self) -> None:
        plain, shifted = linear([3.0, 1.0], [1.0, 2.0]), linear([8.0, -7.0], [6.0, -6.0])
        first, second = (activation_maps(brightness(), h, blob()) for h in (plain, shifted))
        np.testing.assert_array_equal(first, second)

    @pytest.mark.parametrize("name", HEADS)
    def test_hiding_the_hottest_region_costs_more_of_the_answer_than_the_coolest(
        self, name: str, lite: LoadedBackbone, trained: dict[str, TrainedHead], gels: Pixels
    ) -> None:
        head = trained[name].module()
        maps = activation_maps(lite, head, gels)
        assert maps.shape == (len(gels), 7, 7)
        hidden = np.concatenate([gels, gels])
        hot, cool = hidden[: len(gels)], hidden[len(gels) :]
        for number, heat in enumerate(maps):
            hide(hot[number, 0], int(heat.argmax()))
            hide(cool[number, 0], int(heat.argmin()))
        with torch.inference_mode():
            rows = lite.module(torch.from_numpy(np.concatenate([gels, hidden])))
        chosen = head(rows[: len(gels)]).argmax(1).repeat(3)
        given, without_hot, without_cool = (
            evidence(head, rows)[range(len(rows)), chosen].view(3, -1).mean(1).tolist()
        )
        assert given - without_hot > 2 * abs(given - without_cool)


def hide(image: Pixels, place: int) -> None:
    """Cover the surroundings of one of 7 x 7 places by the image's mean."""
    y, x = (32 * part for part in divmod(place, 7))
    image[max(0, y - 16) : y + 48, max(0, x - 16) : x + 48] = int(image.mean())


def evidence(head: nn.Module, embeddings: Tensor) -> Tensor:
    """Logits less their mean; of `knn`, whose votes seldom change, the nearest image's cosine."""
    with torch.inference_mode():
        logits: Tensor = head(embeddings)
        if "directions" in dict(head.named_buffers()):
            near = nn.functional.normalize(embeddings) @ head.get_buffer("directions").t()
            labels = head.get_buffer("labels")
            logits = torch.stack([near[:, labels == c].amax(1) for c in range(2)], 1)
        return logits - logits.mean(1, keepdim=True)


def test_behind_a_mean_of_maps_grad_cam_is_the_weighted_sum_of_maps(toy: LoadedBackbone) -> None:
    """What Selvaraju et al. 2017 show in section 3.1: it generalises CAM (Zhou et al. 2016)."""
    pixels, head = images(IMAGES_AT_ONCE + 1), nn.Linear(8, 3)
    maps = activation_maps(toy, head, pixels)
    with torch.inference_mode():
        chosen = head(toy.module(torch.from_numpy(pixels))).argmax(1)
        gray = torch.from_numpy(pixels).float() / 255
        mean, std = toy.module.get_buffer("mean"), toy.module.get_buffer("std")
        layers = toy.module.get_submodule("network.layers")
        features = layers((gray - mean) / std)
        weights = head.weight[chosen] - head.weight.mean(0)
        cam = torch.einsum("nc,nchw->nhw", weights, features).relu()
        expected = cam * 255 / cam.amax((1, 2), keepdim=True)
    assert maps.shape == (IMAGES_AT_ONCE + 1, 56, 56)
    assert np.abs(maps - expected.numpy()).max() < 0.51


@pytest.mark.parametrize("name", TRIED)
def test_every_backbone_has_maps_and_is_left_as_it_was(name: str) -> None:
    backbone = load_backbone(name, "random")
    entry, pixels = BACKBONES[name], images(1)
    with torch.inference_mode():
        before = backbone.module(torch.from_numpy(pixels))
    maps = activation_maps(backbone, build_head("single", entry.dim, 2), pixels)
    assert maps.shape == (1, 7, 7)  # all of them halve 224 five times
    assert maps.max() == 255
    with torch.inference_mode():
        assert torch.equal(backbone.module(torch.from_numpy(pixels)), before)
    for layer in backbone.module.modules():
        assert not layer._forward_hooks
    for parameter in backbone.module.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad


def test_hooks_are_removed_after_an_error_too() -> None:
    backbone = brightness()
    with pytest.raises(RuntimeError):
        activation_maps(backbone, linear([1.0, 0.0], [0.0, 1.0]), images(1).repeat(3, axis=1))
    assert not any(layer._forward_hooks for layer in backbone.module.modules())


def test_maps_can_be_had_in_inference_mode(toy: LoadedBackbone) -> None:
    head = build_head("single", 8, 2)
    with torch.inference_mode():
        assert activation_maps(toy, head, images(1)).max() == 255


def test_knn_shows_what_makes_an_image_like_the_nearest_of_its_class() -> None:
    bright = torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
    (state,) = FITS["knn"](bright.double(), torch.tensor([0, 0, 1, 1]), 2, (0.0,))
    head = build_head("knn", 2, 2, rows=4)
    head.load_state_dict(state)
    white = np.full((1, 1, 224, 224), 255, np.uint8)
    white[0, 0, :112] = 0
    (heat,) = activation_maps(brightness(), head, white)
    assert head(brightness().module(torch.from_numpy(white))).argmax() == 0
    assert (heat[:7] == 0).all()
    assert (heat[7:] == 255).all()


def test_a_head_without_gradient_is_refused() -> None:
    class Rounded(nn.Module):
        def forward(self, embeddings: Tensor) -> Tensor:
            return embeddings.argsort(1).float()

    with pytest.raises(HeadError, match="Rounded: this head has no gradient"):
        activation_maps(brightness(), Rounded(), blob())


def test_a_backbone_without_feature_maps_is_refused() -> None:
    flat = frozen(nn.Sequential(nn.Flatten(), nn.Identity()))
    with pytest.raises(HeadError, match="toy has no layer that gives feature maps"):
        activation_maps(flat, nn.Identity(), blob())


class TestFile:
    def test_what_was_written_comes_back(self, tmp_path: Path) -> None:
        maps = Maps((b"a" * 32, b"b" * 32), images(2)[:, 0, :7, :7])
        path = maps_path(tmp_path, "some-head")
        assert path == tmp_path / "some-head.maps.npz"
        write_maps(path, maps)
        again = read_maps(path)
        assert again.hashes == maps.hashes
        np.testing.assert_array_equal(again.maps, maps.maps)

    def test_equal_maps_give_equal_files(self, tmp_path: Path) -> None:
        for name in ("a.npz", "b.npz"):
            write_maps(tmp_path / name, Maps((b"a" * 32,), images(1)[0]))
        assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()

    @pytest.mark.parametrize("place", [0, 200, 5000, -30])
    @pytest.mark.parametrize("damage", [b"", b"\xff\0\xff"])
    def test_a_damaged_file_is_named(self, place: int, damage: bytes, tmp_path: Path) -> None:
        write_maps(tmp_path / "x.npz", Maps((b"a" * 32,), images(1)[0]))
        whole = (tmp_path / "x.npz").read_bytes()
        rest = whole[place + len(damage) :] if damage else b""  # overwritten, or cut short
        (tmp_path / "x.npz").write_bytes(whole[:place] + damage + rest)
        with pytest.raises(ResultsError, match=r"x\.npz can't be used: .*Run evaluate again"):
            read_maps(tmp_path / "x.npz")

    def test_other_arrays_are_refused(self, tmp_path: Path) -> None:
        hashes, maps = np.zeros((2, 32), np.uint8), np.zeros((2, 7, 7))
        np.savez(tmp_path / "x.npz", hashes=hashes, maps=maps)
        with pytest.raises(
            ResultsError, match="an older version of Frostline, or by another program"
        ):
            read_maps(tmp_path / "x.npz")


class TestOverlay:
    def test_a_picture_without_heat_is_as_it_was(self) -> None:
        picture = images(1)[0, 0]
        shown = overlay(picture, np.zeros((7, 7), np.uint8))
        assert (shown.mode, shown.size) == ("RGB", (224, 224))
        for channel in range(3):
            np.testing.assert_array_equal(np.asarray(shown)[..., channel], picture)

    def test_only_the_hot_part_is_coloured(self) -> None:
        heat = np.zeros((7, 7), np.uint8)
        heat[3, 5] = 255
        shown = np.asarray(overlay(np.full((224, 224), 90, np.uint8), heat)).astype(int)
        colour = shown.max(2) - shown.min(2)
        y, x = np.unravel_index(colour.argmax(), colour.shape)
        assert (y // 32, x // 32) == (3, 5)
        assert colour[:, :96].max() == 0

    def test_hotter_is_brighter(self) -> None:
        gray = np.full((224, 224), 90, np.uint8)
        levels = [
            np.asarray(overlay(gray, np.full((7, 7), level, np.uint8)).convert("L")).mean()
            for level in (64, 128, 192, 255)
        ]
        assert levels == sorted(levels)
