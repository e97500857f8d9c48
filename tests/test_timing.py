"""What a whole model costs is measured from file to label, within a budget, and never guessed."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn
from torchvision.models import get_model_weights, list_models

from benchmarks.pictures import photos
from cache.errors import DatasetError
from evaluate.benchmark.timing import FEWEST, MOST, STAGES, size_of, time_models
from extract.artifact_store import ArtifactStore
from extract.backbones import BACKBONES
from extract.backends.backend import ENGINES, Engine, build_backend
from extract.devices import DEVICES, usable_cores
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone, load_backbone
from extract.imaging.decode import decode_gray
from extract.imaging.preprocessing import Preprocessing
from extract.model_zoo.backbone import Backbone
from extract.weights import imagenet_file
from heads.architectures import HEADS
from heads.modules import build_head
from tests.conftest import ROOT, require_or_skip
from tests.toy import Toy, no_file

pytestmark = pytest.mark.slow

Few = Callable[[int, int], Path]
Images = NDArray[np.uint8]
SAMPLES = sorted((ROOT / "test_images").rglob("*.*"))
TORCHVISION = [name for name in BACKBONES if name in list_models()]
MIB = 2**20


class Sleeper(nn.Module):
    """A head that takes its time."""

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return embeddings


@pytest.fixture
def on_torch(toy: LoadedBackbone) -> EmbeddingSpec:
    return EmbeddingSpec(toy, "cpu", ("torch",), "fp32")


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> tuple[EmbeddingSpec, ArtifactStore]:
    backbone = load_backbone("efficientnet_lite0", "imagenet")
    artifacts = ArtifactStore(tmp_path_factory.mktemp("engines"))
    return EmbeddingSpec(backbone, "cpu", ("openvino",), "fp32"), artifacts


@pytest.fixture
def computing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Images], None]], None]:
    """Let the engine do something else: it is handed each batch, and gives rows of zeros."""

    def set_to(work: Callable[[Images], None]) -> None:
        def build(*arguments: object) -> Callable[[Images], NDArray[np.float32]]:
            def forward(images: Images) -> NDArray[np.float32]:
                work(images)
                return np.zeros((len(images), 8), np.float32)

            return forward

        monkeypatch.setitem(ENGINES, "torch", Engine("torch", ("fp32",), build))

    return set_to


class TestModels:
    @pytest.mark.parametrize("device", DEVICES)
    def test_every_head_is_timed_on_every_device(self, device: str, toy: LoadedBackbone) -> None:
        require_or_skip(device)
        spec = EmbeddingSpec(toy, device, tuple(DEVICES[device].engines), "fp32")
        heads = [build_head(name, 8, 2, rows=20).eval() for name in HEADS]
        timings = time_models(spec, heads, SAMPLES, budget_s=0.2)
        assert len(timings) == len(HEADS)
        for timing in timings:
            assert 0 < timing.p50_ms <= timing.p90_ms <= timing.p99_ms
            assert tuple(timing.stages_ms) == STAGES
            assert all(milliseconds > 0 for milliseconds in timing.stages_ms.values())
            assert {1, 4} <= set(timing.throughput) <= {1, 4, 16, 64}
            assert 1 <= timing.threads <= usable_cores()

    def test_heads_share_the_backbones_times_and_add_their_own(
        self, on_torch: EmbeddingSpec, computing: Callable[..., None]
    ) -> None:
        computing(lambda images: None)
        quick, slow = time_models(on_torch, [nn.Identity(), Sleeper()], SAMPLES, budget_s=0.3)
        for stage in ("read", "decode", "backbone"):
            assert quick.stages_ms[stage] == slow.stages_ms[stage]
        assert quick.stages_ms["head"] < 5
        assert slow.stages_ms["head"] >= 20
        assert slow.p50_ms > quick.p50_ms + 15
        assert slow.throughput[1] < 50 < quick.throughput[1]
        assert slow.throughput[4] < 4 * 50

    def test_the_backbones_time_is_its_own(
        self, on_torch: EmbeddingSpec, computing: Callable[..., None]
    ) -> None:
        computing(lambda images: time.sleep(0.03))
        (timing,) = time_models(on_torch, [nn.Identity()], SAMPLES, budget_s=0.2)
        stages = timing.stages_ms
        assert stages["backbone"] >= 30
        assert stages["read"] + stages["decode"] + stages["head"] < 30
        assert timing.p50_ms == pytest.approx(sum(stages.values()), rel=0.2)

    @pytest.mark.parametrize("fast", [False, True])
    def test_images_are_decoded_as_the_target_says(
        self,
        toy: LoadedBackbone,
        computing: Callable[..., None],
        tmp_path: Path,
        fast: bool,
    ) -> None:
        seen = list[Images]()
        computing(seen.append)
        (path,) = photos(tmp_path, 1).rglob("*.jpg")
        spec = EmbeddingSpec(toy, "cpu", ("torch",), "fp32", Preprocessing(fast))
        time_models(spec, [nn.Identity()], [path], budget_s=0.01)
        expected = decode_gray(path.read_bytes(), Preprocessing(fast)).pixels
        assert all(np.array_equal(image, expected) for images in seen for image in images)
        assert {len(images) for images in seen} == {1, 4, 16, 64}

    def test_memory_is_of_this_measurement_alone(
        self, on_torch: EmbeddingSpec, computing: Callable[..., None]
    ) -> None:
        if not Path("/proc/self/clear_refs").exists():
            pytest.skip("only Linux tells")

        def peak(mib: int) -> float:
            computing(lambda images: np.ones(mib * MIB, np.uint8).sum())
            (timing,) = time_models(on_torch, [nn.Identity()], SAMPLES[:2], budget_s=0.05)
            assert timing.peak_memory_mib is not None
            return timing.peak_memory_mib

        before, large, after = peak(1), peak(300), peak(1)
        assert large > before + 250
        assert after < large - 250


class TestBudget:
    def test_batches_that_take_too_long_are_left_out(
        self, on_torch: EmbeddingSpec, computing: Callable[..., None]
    ) -> None:
        """At 30 ms an image, 4 take 0.24 s with the first time, 16 would take 0.96 s."""
        computing(lambda images: time.sleep(0.03 * len(images)))
        (timing,) = time_models(on_torch, [nn.Identity()], SAMPLES, budget_s=0.4)
        assert set(timing.throughput) == {1, 4}
        assert timing.throughput[4] == pytest.approx(1 / 0.03, rel=0.2)

    @pytest.mark.parametrize(
        ("seconds", "least", "most"), [(0.1, FEWEST, FEWEST), (0.02, 7, 15), (0.0, MOST, MOST)]
    )
    def test_from_5_to_200_single_images(
        self,
        on_torch: EmbeddingSpec,
        computing: Callable[..., None],
        seconds: float,
        least: int,
        most: int,
    ) -> None:
        sizes = list[int]()

        def work(images: Images) -> None:
            sizes.append(len(images))
            time.sleep(seconds)

        computing(work)
        budget = 0.3 if seconds else 30
        time_models(on_torch, [nn.Identity()], SAMPLES, budget_s=budget)
        assert least <= sizes.count(1) - 1 <= most  # one warms up

    def test_files_that_cant_be_read_are_left_out(
        self, on_torch: EmbeddingSpec, computing: Callable[..., None], tmp_path: Path
    ) -> None:
        (tmp_path / "a.png").write_bytes(b"x")
        bad = [tmp_path / "a.png", tmp_path / "gone.png"]
        seen = list[Images]()
        computing(seen.append)
        time_models(on_torch, [nn.Identity()], [*bad, SAMPLES[0]], budget_s=0.01)
        expected = decode_gray(SAMPLES[0].read_bytes()).pixels
        assert all(np.array_equal(image, expected) for images in seen for image in images)
        with pytest.raises(DatasetError, match="none of the 2 test images can be read"):
            time_models(on_torch, [nn.Identity()], bad)

    def test_of_many_images_a_sample_from_end_to_end(
        self, on_torch: EmbeddingSpec, computing: Callable[..., None], tmp_path: Path
    ) -> None:
        """Folders come one class after the other: the first 64 could all be of one class."""
        gels, others = (next((ROOT / "dataset" / c).iterdir()) for c in ("gel", "not_gel"))
        batches = list[Images]()
        computing(batches.append)
        time_models(on_torch, [nn.Identity()], [gels] * 500 + [others] * 500, budget_s=0.01)
        kinds, counts = np.unique(batches[-1], axis=0, return_counts=True)
        assert len(kinds) == 2
        assert counts.min() > 28


class TestEngineForOneImage:
    """OpenVINO computes four images per core at once, except where it is built for one."""

    def test_it_gives_the_same_rows(self, lite: tuple[EmbeddingSpec, ArtifactStore]) -> None:
        spec, artifacts = lite
        one, four, many = (build_backend(spec, size, artifacts).forward for size in (1, 4, 32))
        pixels = np.stack([decode_gray(path.read_bytes()).pixels for path in SAMPLES[:6]])
        rows = many(pixels)
        assert np.array_equal(np.concatenate([four(pixels[:4]), four(pixels[4:])]), rows)
        alone = np.concatenate([one(image[None]) for image in pixels])
        assert np.abs(alone - rows).max() < 1e-5 * np.abs(rows).max()

    def test_it_answers_sooner(self, lite: tuple[EmbeddingSpec, ArtifactStore]) -> None:
        spec, artifacts = lite
        image = decode_gray(SAMPLES[0].read_bytes()).pixels[None]
        best = []
        for size in (1, 32):
            forward, seconds = build_backend(spec, size, artifacts).forward, []
            for _ in range(20):
                started = time.perf_counter()
                forward(image)
                seconds.append(time.perf_counter() - started)
            best.append(min(seconds))
        assert best[0] < 0.6 * best[1]


class TestSize:
    @pytest.mark.parametrize("name", TORCHVISION)
    def test_backbones_are_counted_as_their_publishers_did(self, name: str) -> None:
        """Published: parameters, 10⁹ multiply-adds and MiB of the classifier for 1,000 classes."""
        published = get_model_weights(name)["IMAGENET1K_V1"].meta
        whole = size_of(name, nn.Linear(BACKBONES[name].dim, 1000))
        assert whole.parameters == published["num_params"]
        assert whole.flops == pytest.approx(2e9 * published["_ops"], rel=0.02)
        assert whole.mib == pytest.approx(published["_file_size"], rel=0.01)

    def test_efficientnet_lite0_is_counted_as_its_file_of_weights(self) -> None:
        state = torch.load(imagenet_file("efficientnet_lite0"), weights_only=True)
        whole = size_of("efficientnet_lite0", nn.Linear(1280, 1000))
        assert whole.mib * MIB == sum(tensor.nbytes for tensor in state.values())
        counted = [key for key in state if "running" not in key and "tracked" not in key]
        assert whole.parameters == sum(state[key].numel() for key in counted)

    @pytest.mark.parametrize("name", BACKBONES)
    @pytest.mark.parametrize("head", HEADS)
    def test_a_head_is_added(self, name: str, head: str) -> None:
        dim = BACKBONES[name].dim
        module = build_head(head, dim, 3, rows=100)
        bare, whole = size_of(name, nn.Identity()), size_of(name, module)
        own = sum(parameter.numel() for parameter in module.parameters())
        assert whole.parameters - bare.parameters == own
        assert (whole.mib - bare.mib) * MIB == pytest.approx(
            len(save(module.state_dict())), rel=0.2
        )
        products = own - sum(p.numel() for p in module.parameters() if p.ndim == 1)
        assert whole.flops - bare.flops == 2 * (products if own else 100 * dim)

    def test_no_weights_are_drawn_and_each_backbone_is_counted_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        built = list[nn.Module]()

        def build(name: str) -> nn.Module:
            built.append(Toy())
            return built[-1]

        monkeypatch.setitem(BACKBONES, "counted", Backbone(8, "fc", build, no_file))
        first, second = (size_of("counted", nn.Linear(8, classes)) for classes in (2, 3))
        assert second.parameters - first.parameters == 9
        assert len(built) == 1
        assert all(parameter.is_meta for parameter in built[0].parameters())
