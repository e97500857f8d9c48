"""Whole-network training: what is drawn, shown and refused; frozen, it trains what heads are."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cache.errors import DatasetError, GridError, HeadError, WeightsError
from cache.store import Cache
from evaluate.baseline import training
from evaluate.baseline.images import batches_of_pixels, readable
from evaluate.baseline.modes import MODES, check_start, starting_weights
from evaluate.baseline.run import NetworkOptions, TrainedNetwork, train_network
from evaluate.baseline.training import joined
from evaluate.workspace.layout import Workspace
from extract.backbones import BACKBONES
from extract.dataset import ImageSet, scan
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone, load_backbone
from extract.imaging.augmentation import LARGEST_NUMBER, POLICIES
from extract.imaging.decode import decode_gray
from extract.imaging.preprocessing import AS_USUAL, Preprocessing
from frostline.cli.baseline import train_whole
from heads.config import HeadConfig
from heads.search.space import FIELDS, SearchPlan
from heads.store import TrainedHead
from heads.training import TrainingSettings, train_heads
from tests.toy import extract_one

pytestmark = pytest.mark.slow

Few = Callable[[int, int], Path]
Pairs = list[list[tuple[int, int]]]
Asked = list[tuple[str, Pairs]]  # whose policy is to draw views, and which of which images


def nobody(images: int) -> None:
    """Be told of progress."""


@pytest.fixture(scope="module")
def lite() -> LoadedBackbone:
    return load_backbone("efficientnet_lite0", "imagenet")


@pytest.fixture
def images(few: Few) -> ImageSet:
    """Eight images of one class, and five of another."""
    folder = few(8, 0) / "dataset"
    for path in sorted((folder / "not_gel").iterdir())[5:]:
        path.unlink()
    return scan(folder)


def spec(backbone: LoadedBackbone, precision: str = "fp32", device: str = "cpu") -> EmbeddingSpec:
    return EmbeddingSpec(backbone, device, (), precision)


def logits_of(saved: TrainedHead, rows: Tensor) -> Tensor:
    found: Tensor = saved.module()(rows)
    return found


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of logits, relative to the largest of them."""
    return float((one - other).abs().max() / other.abs().max())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Note which views of which images are asked for, in which batches."""
    noted: Asked = []
    original = batches_of_pixels

    def noting(files: Any, batches: Any, preprocessing: Preprocessing) -> Any:
        noted.append((preprocessing.augmentation, [list(batch) for batch in batches]))
        return original(files, batches, preprocessing)

    monkeypatch.setattr(training, "batches_of_pixels", noting)
    return noted


class TestAgreement:
    """Trained in the ordinary way behind a frozen backbone, a head is the one on cached rows.

    With batch norm by SGD: where a gradient is nothing but rounding, Adam makes full steps.
    """

    @pytest.mark.parametrize(
        ("head", "optimizer"), [("single", "adam"), ("multi", "adam"), ("mlp-gelu", "sgd")]
    )
    def test_real_images_and_weights(
        self,
        head: str,
        optimizer: str,
        few: Few,
        tmp_path: Path,
        caches: dict[str, Cache],
        lite: LoadedBackbone,
    ) -> None:
        images = scan(few(5, 0) / "dataset")
        configuration = HeadConfig(head, optimizer, epochs=2, batch_size=4)
        frozen = train_heads(
            caches["cpu"], images.labels, "", SearchPlan((configuration,)), tmp_path / "frozen"
        ).heads[0]
        whole = train_network(spec(lite), configuration, "transfer", images, Workspace(tmp_path))
        info = whole.head.info
        assert info.identity == frozen.info.identity
        assert (info.weights, info.mode, frozen.info.mode) == ("imagenet", "transfer", "frozen")
        for name, curve in frozen.info.curves.items():
            assert info.curves[name] == pytest.approx(curve, rel=1e-4)
        rows = torch.randn(50, 1280, generator=torch.Generator().manual_seed(0)).abs()
        assert apart(logits_of(whole.head, rows), logits_of(frozen, rows)) < 1e-4

    @pytest.mark.parametrize(
        "settings",
        [
            {"balance": "weights", "optimizer": "sgd", "nesterov": True, "weight_decay": 0.01},
            {"balance": "sampling", "optimizer": "adamw", "weight_decay": 0.1},
            {"schedule": "cosine", "warmup": 1, "learning_rate": 0.1, "seed": 3},
            {"patience": 1, "learning_rate": 5.0, "epochs": 8, "head": "multi"},
            {"batch_size": 9, "head": "mlp-gelu", "optimizer": "sgd"},  # of 10: a last batch of one
        ],
        ids=lambda settings: "-".join(map(str, settings.values())),
    )
    def test_every_setting(
        self, settings: dict[str, Any], toy: LoadedBackbone, images: ImageSet, tmp_path: Path
    ) -> None:
        usual: dict[str, Any] = {"head": "single", "optimizer": "adam", "epochs": 3}
        configuration = HeadConfig(**(usual | {"batch_size": 4} | settings))
        cache = extract_one(toy, images.files, tmp_path / "cache").cache
        groups = {images.files[0].sha256: 1, images.files[1].sha256: 1}
        sweep = SearchPlan((configuration,), configuration.seed)
        frozen = train_heads(
            cache, images.labels, "", sweep, tmp_path / "frozen", TrainingSettings(groups)
        ).heads[0]
        whole = train_network(
            spec(toy),
            configuration,
            "transfer",
            images,
            Workspace(tmp_path),
            NetworkOptions(groups),
        ).head
        rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
        assert apart(logits_of(whole, rows), logits_of(frozen, rows)) < 1e-4
        assert whole.info.epoch == frozen.info.epoch
        for field in ("n_training", "n_validation", "n_groups", "images_fingerprint", "classes"):
            assert getattr(whole.info, field) == getattr(frozen.info, field)

    def test_an_unreadable_image_costs_itself_only(
        self, toy: LoadedBackbone, images: ImageSet, tmp_path: Path
    ) -> None:
        (images.folder / "gel" / "broken.png").write_bytes(b"no picture")
        Image.new("L", (9, 9)).save(images.folder / "gel" / "gone.png")
        listed = scan(images.folder)
        (images.folder / "gel" / "gone.png").unlink()
        configuration = HeadConfig("single", "adam", epochs=2, batch_size=4)
        cache = extract_one(toy, listed.files, tmp_path / "cache").cache
        usable = {k: v for k, v in listed.labels.items() if k in images.labels}
        frozen = train_heads(
            cache, usable, "", SearchPlan((configuration,)), tmp_path / "frozen"
        ).heads[0]
        whole = train_network(spec(toy), configuration, "transfer", listed, Workspace(tmp_path))
        assert sorted(Path(f.path).name for f in whole.failures) == ["broken.png", "gone.png"]
        assert "not an image of a known format" in {f.reason for f in whole.failures}
        found, told = readable(listed, AS_USUAL, nobody), list[tuple[int, int]]()
        again = train_network(
            spec(toy), replace(configuration, seed=1), "transfer", listed, Workspace(tmp_path),
            NetworkOptions(progress=lambda *now: told.append(now), found=found),
        )  # fmt: skip
        assert again.failures == whole.failures
        validated = again.head.info.n_validation
        assert told[-1] == (2 * len(found.files) + validated,) * 2  # nothing is decoded for it
        rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
        assert apart(logits_of(whole.head, rows), logits_of(frozen, rows)) < 1e-4


class TestViews:
    def test_each_image_in_each_epoch_is_another_view(
        self, toy: LoadedBackbone, images: ImageSet, tmp_path: Path, asked: Asked
    ) -> None:
        configuration = HeadConfig("single", "adam", epochs=3, batch_size=4)
        train_network(
            spec(toy),
            configuration,
            "scratch",
            images,
            Workspace(tmp_path),
            NetworkOptions(augmentation="strong"),
        )
        batches_asked = [batches for _, batches in asked]
        trained, validated = batches_asked[0:6:2], batches_asked[1::2]
        for epoch, batches in enumerate(trained):
            assert {view for batch in batches for _, view in batch} == {epoch + 1}
            seen = sorted(image for batch in batches for image, _ in batch)
            assert seen == sorted(set(seen))
        assert {view for epoch in validated for batch in epoch for _, view in batch} == {0}
        held_out = {image for batch in validated[0] for image, _ in batch}
        assert held_out.isdisjoint(image for batch in trained[0] for image, _ in batch)

    @pytest.mark.parametrize("policy", POLICIES)
    def test_copies_of_rare_classes_are_views_that_no_epoch_has_shown(
        self, policy: str, toy: LoadedBackbone, images: ImageSet, tmp_path: Path, asked: Asked
    ) -> None:
        configuration = HeadConfig("single", "adam", epochs=2, balance="augment", views=2)
        place = Workspace(tmp_path)
        train_network(
            spec(toy),
            configuration,
            "scratch",
            images,
            place,
            NetworkOptions(augmentation=policy),
        )
        assert {drawn_by for drawn_by, _ in asked} == {policy}
        shown = [pair for _, epoch in asked[0:4:2] for batch in epoch for pair in batch]
        assert len(set(shown)) == len(shown)
        labels = [file.label for file in readable(images, AS_USUAL, nobody).files]
        classes = [labels[image] for image, _ in shown]
        assert classes.count("gel") == classes.count("not_gel")

    def test_pixels_are_those_of_the_one_decoder_in_the_order_asked_for(
        self, images: ImageSet
    ) -> None:
        files = readable(images, AS_USUAL, nobody).files
        pairs = [[(3, 0), (0, 7)], [(3, LARGEST_NUMBER), (3, 7), (2, 0)]]
        for policy in POLICIES:
            preprocessing = Preprocessing(augmentation=policy)
            found = list(batches_of_pixels(files, pairs, preprocessing))
            for batch, pixels in zip(pairs, found, strict=True):
                for (image, view), square in zip(batch, pixels, strict=True):
                    data = files[image].path.read_bytes()
                    picture = decode_gray(data, preprocessing, [view] if view else [])
                    expected = picture.views[0] if view else picture.pixels
                    assert np.array_equal(square, expected)

    @pytest.mark.parametrize("harm", ["unlink", "change", "break"])
    def test_an_image_that_changes_meanwhile_ends_training_and_can_be_put_back(
        self, harm: str, toy: LoadedBackbone, images: ImageSet, tmp_path: Path
    ) -> None:
        victim = images.files[0].path
        data = victim.read_bytes()
        place, total = Workspace(tmp_path), len(images.files)

        def progress(done: int, total_now: int) -> None:
            if done == total:  # all have been found to be readable
                if harm == "unlink":
                    victim.unlink()
                else:
                    victim.write_bytes(
                        b"" if harm == "break" else images.files[1].path.read_bytes()
                    )

        configuration = HeadConfig("single", "adam", epochs=2, batch_size=4)
        ask = partial(train_network, spec(toy), configuration, "scratch", images, place)
        with pytest.raises(DatasetError, match=f"{victim.name} can't be used any more"):
            ask(options=NetworkOptions(progress=progress))
        assert len(list(place.networks.glob("*.checkpoint.safetensors"))) == 1
        victim.write_bytes(data)
        assert not ask().already


class TestModes:
    def test_scratch_draws_its_weights(self) -> None:
        assert starting_weights("scratch", "auto") == "random"
        for given in ("imagenet", "some.pth"):
            with pytest.raises(WeightsError, match="--mode finetune"):
                starting_weights("scratch", given)

    def test_fine_tuning_needs_trained_ones(
        self, toy: LoadedBackbone, images: ImageSet, tmp_path: Path
    ) -> None:
        with pytest.raises(WeightsError, match="--mode scratch"):
            starting_weights("finetune", "random")
        assert starting_weights("finetune", "imagenet") == "imagenet"
        with pytest.raises(WeightsError, match=r"starts toy from.*doctor.*--mode scratch"):
            train_network(
                spec(toy), HeadConfig("single", "adam"), "finetune", images,
                Workspace(tmp_path),
            )  # fmt: skip

    def test_transfer_takes_any(self, toy: LoadedBackbone) -> None:
        for given in ("auto", "random", "imagenet", "some.pth"):
            assert starting_weights("transfer", given) == given
        check_start("transfer", toy)

    def test_scratch_from_a_file_is_fine_tuning(self, tmp_path: Path, toy: LoadedBackbone) -> None:
        from safetensors.torch import save_file

        save_file(toy.module.get_submodule("network").state_dict(), tmp_path / "a.safetensors")
        given = load_backbone("toy", str(tmp_path / "a.safetensors"))
        check_start("finetune", given)
        with pytest.raises(WeightsError, match=r"not file:a\.safetensors; choose --mode finetune"):
            check_start("scratch", given)

    @pytest.mark.parametrize("mode", MODES)
    def test_what_is_no_ordinary_training_is_refused(
        self, mode: str, toy: LoadedBackbone, images: ImageSet, tmp_path: Path
    ) -> None:
        def attempt(**settings: Any) -> TrainedNetwork:
            configuration = HeadConfig(**({"head": "single", "optimizer": "adam"} | settings))
            return train_network(spec(toy), configuration, mode, images, Workspace(tmp_path))

        with pytest.raises(HeadError, match="--head ridge is fitted at once"):
            attempt(head="ridge", optimizer="none")
        with pytest.raises(GridError, match="by --augment, and"):
            attempt(views=3)
        with pytest.raises(GridError, match=r"--augment none forbids them: .* gentle or"):
            attempt(balance="augment", views=2)
        if MODES[mode].trains_backbone:
            with pytest.raises(GridError, match="--batch-size 1: "):
                attempt(batch_size=1)

    def test_one_image_left_over_joins_the_batch_before(self) -> None:
        def sizes(rows: int) -> list[int]:
            batches = joined(torch.split(torch.arange(rows), 4))
            assert torch.cat([*batches]).tolist() == list(range(rows))
            return [len(batch) for batch in batches]

        assert sizes(9) == [4, 5]
        assert sizes(10) == [4, 4, 2]
        assert sizes(1) == [1]


class TestTrainings:
    """What one command asks for: several backbones, modes and configurations."""

    @pytest.fixture
    def ask(self, toy: LoadedBackbone, images: ImageSet, tmp_path: Path) -> Any:
        usual: dict[str, Any] = dict.fromkeys(FIELDS, ()) | {
            "arch": ["toy"], "mode": ["scratch"], "weights": "random", "device": "cpu",
            "engine": "torch", "precision": "fp32", "fit": "stretch", "full_scale": 65535,
            "normalize": "weights", "augment": "none", "seed": 0, "epochs": (1,), "nesterov": False,
        }  # fmt: skip
        return lambda **choices: train_whole(images, {}, Workspace(tmp_path), usual | choices)

    def test_each_is_there_as_soon_as_it_is_trained(self, ask: Any, tmp_path: Path) -> None:
        heads = ask(mode=["scratch", "transfer"])
        assert next(heads).info.mode == "scratch"
        assert len(list((tmp_path / "heads").glob("*.safetensors"))) == 1
        assert [saved.info.mode for saved in heads] == ["transfer"]

    def test_one_that_diverges_costs_itself(
        self, ask: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        heads = ask(optimizer=("sgd",), learning_rate=(1e30, 0.01))
        assert next(heads).info.configuration.learning_rate == 0.01
        reason = r"toy, scratch, single head, sgd, --lr 1e\+30: training diverged in epoch 1"
        with pytest.raises(HeadError, match=f"1 of 2 trainings left out:\n{reason}"):
            next(heads)
        assert "training diverged" in capsys.readouterr().err

    @pytest.mark.parametrize("weights", ["auto", "random"])
    def test_a_mode_without_weights_is_told_first_and_costs_itself(
        self, weights: str, ask: Any, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        monkeypatch.setitem(BACKBONES, "toy", replace(BACKBONES["toy"], imagenet=None))
        heads = ask(mode=["scratch", "finetune"], weights=weights, learning_rate=(0.1, 0.01))
        next(heads)
        told = capsys.readouterr().err
        assert "toy, finetune: " in told
        next(heads)
        with pytest.raises(
            HeadError, match="2 of 4 trainings left out:\ntoy, finetune: "
        ) as caught:
            next(heads)
        assert str(caught.value).splitlines()[1] in told

    @pytest.mark.parametrize(
        ("choices", "reason"),
        [
            ({"arch": ["toy", "nothing"]}, "nothing"),
            ({"arch": ["toy", "resnet18"], "weights": "some.pth"}, "a file fits one backbone"),
            ({"mode": ["transfer", "scratch"], "batch_size": (1,)}, "--batch-size 1"),
            ({"balance": ("none", "augment"), "views": (2,)}, "--views"),
            ({"mode": ["finetune"]}, "1 of 1 trainings left out:\n.*--mode scratch"),
        ],
        ids=["name", "file", "configuration", "views", "weights"],
    )
    def test_what_contradicts_itself_is_refused_before_any_training(
        self, choices: dict[str, Any], reason: str, ask: Any, tmp_path: Path
    ) -> None:
        with pytest.raises((GridError, HeadError, WeightsError), match=reason):
            next(ask(**choices))
        assert not list(tmp_path.rglob("*.safetensors"))

    def test_an_unreadable_image_is_told_once(
        self, images: ImageSet, ask: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        images.files[0].path.write_bytes(b"no picture")
        trained = list(ask(mode=["scratch", "transfer"]))
        assert {s.info.n_training + s.info.n_validation for s in trained} == {12}
        assert capsys.readouterr().err.count(images.files[0].path.name) == 1
