"""Augmented views: the same for the same image, different from one another, rows like any other."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cache.errors import CacheError
from cache.store import read, summarize
from extract.dataset import scan
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone, load_backbone, preprocessing_of
from extract.imaging.augmentation import POLICIES, render_view
from extract.imaging.decode import SIZE, decode_gray
from extract.imaging.preprocessing import Preprocessing
from extract.pipeline import RunnerOptions, extract
from heads.config import HeadConfig
from heads.search.space import SearchPlan
from heads.training import train_heads
from tests.conftest import ROOT
from tests.toy import extract_one, with_module

Few = Callable[[int, int], Path]
PATH = sorted((ROOT / "dataset" / "gel").iterdir())[0]


def picture(width: int = 300, height: int = 200) -> Image.Image:
    """Bright above, dark below, on a border of 90."""
    pixels = np.full((height, width), 90, np.uint8)
    pixels[20 : height // 2, 20:-20], pixels[height // 2 : -20, 20:-20] = 200, 30
    return Image.fromarray(pixels)


def test_an_image_has_always_the_same_views_all_different() -> None:
    data = PATH.read_bytes()
    first, again = (decode_gray(data, numbers=range(1, 7)) for _ in range(2))
    views = [first.pixels, *first.views]
    assert {view.shape for view in views} == {(1, SIZE, SIZE)}
    assert all(view.dtype == np.uint8 for view in views)
    assert all(np.array_equal(a, b) for a, b in zip(first.views, again.views, strict=True))
    assert len({view.tobytes() for view in views}) == 7
    assert np.array_equal(first.pixels, decode_gray(data).pixels)
    fewer = decode_gray(data, numbers=range(1, 4)).views
    assert all(np.array_equal(a, b) for a, b in zip(fewer, first.views, strict=False))


def test_another_image_has_other_views() -> None:
    keys = [sha256(bytes([number])).digest() for number in range(2)]
    one, other = (render_view(picture(), key, 1, SIZE) for key in keys)
    assert not np.array_equal(one, other)


def test_every_kind_of_change_occurs_and_none_goes_too_far() -> None:
    """Over many draws: half of them are inverted, none is empty."""
    key, inverted, seen = b"k" * 32, 0, []
    count = 200
    for number in range(1, count + 1):
        view = render_view(picture(), key, number, 64)[0].astype(float)
        above, below = view[16:24, 20:44].mean(), view[44:52, 20:44].mean()
        inverted += bool(above < below)
        seen.append(view.std())
    assert 0.35 * count < inverted < 0.65 * count
    assert min(seen) > 20


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (40, 40)])
def test_any_shape_can_be_rendered(size: tuple[int, int], policy: str) -> None:
    image = Image.new("L", size, 7)
    for number in range(1, 20):
        assert render_view(image, b"x" * 32, number, SIZE, policy).shape == (1, SIZE, SIZE)


def test_a_strong_view_is_a_random_choice_of_changes() -> None:
    """Changes are made or not; each flip occurs alone, and hardly ever none at all."""
    image = picture()
    image.paste(255, (30, 30, 90, 60))  # so that no flip leaves it as it is
    small = image.resize((192, 128), Image.Resampling.BILINEAR)  # twice 64 pixels high
    clean = np.asarray(small.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    views = [render_view(image, b"k" * 32, n, 64, "strong")[0].astype(int) for n in range(1, 301)]
    same = sum(np.array_equal(view, clean) for view in views)
    assert same < 0.02 * len(views), "a turn or a blur may be next to none"
    for flipped in (clean[::-1], clean[:, ::-1]):
        assert any(np.array_equal(view, flipped) for view in views)
    lit = [view for view in views if abs(int(view.min()) - 30) > 5]
    assert 0.1 * len(views) < len(lit) < 0.6 * len(views)


def test_policies_are_different_caches(toy: LoadedBackbone) -> None:
    specs = [
        EmbeddingSpec(toy, "cpu", ("torch",), "fp32", Preprocessing(augmentation=name))
        for name in POLICIES
    ]
    assert len({spec.key.digest for spec in specs}) == len(POLICIES)
    assert [preprocessing_of(spec.key).augmentation for spec in specs] == list(POLICIES)


def test_views_are_rows_of_the_same_cache(toy: LoadedBackbone, few: Few, tmp_path: Path) -> None:
    files = scan(few(3, 1) / "dataset").files
    clean = extract_one(toy, files, tmp_path)
    more = extract_one(toy, files, tmp_path, views=2, batch_size=4)
    assert (clean.computed, more.computed, more.present) == (6, 12, 6)
    assert more.cache == clean.cache
    again = extract_one(toy, files, tmp_path, views=2)
    assert (again.computed, again.present) == (0, 18)
    third = extract_one(toy, files, tmp_path, views=3)
    assert (third.computed, third.present) == (6, 18)
    assert {*summarize(clean.cache).stored} == {file.sha256 for file in files}


def test_a_view_is_embedded_as_it_is_rendered(
    toy: LoadedBackbone, few: Few, tmp_path: Path
) -> None:
    files = scan(few(2, 1) / "dataset").files
    done = extract_one(toy, files, tmp_path, views=2)
    for file in files:
        views = decode_gray(file.path.read_bytes(), numbers=(1, 2)).views
        pixels = torch.from_numpy(np.stack(views))
        expected = toy.module(pixels).numpy()
        rows = np.concatenate([read(done.cache, [file.sha256], number) for number in (1, 2)])
        np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)


def test_a_backbone_gets_only_the_views_that_it_lacks(
    toy: LoadedBackbone, few: Few, tmp_path: Path
) -> None:
    files, other = scan(few(3, 1) / "dataset").files, load_backbone("toy", "random", 1)
    specs = [EmbeddingSpec(each, "cpu", ("torch",), "fp32") for each in (toy, other)]
    extract(specs[:1], files, tmp_path, options=RunnerOptions(views=1))
    first, second = extract(specs, files, tmp_path, options=RunnerOptions(views=2))
    assert (first.computed, second.computed) == (6, 18)


def test_an_unreadable_image_fails_once(toy: LoadedBackbone, few: Few, tmp_path: Path) -> None:
    data = few(2, 1) / "dataset"
    (data / "gel" / "broken.png").write_bytes(b"no picture")
    done = extract_one(toy, scan(data).files, tmp_path, views=2)
    assert (len(done.failed), done.computed, done.present) == (1, 12, 0)


def test_a_view_that_gives_nan_is_counted_as_such(
    few: Few, tmp_path: Path, toy: LoadedBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sick(torch.nn.Module):
        """Gives NaN for what is bright: for some views and not for others."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            mean = images.float().mean((1, 2, 3))
            rows = mean[:, None].repeat(1, 8)
            return torch.where(rows > 128, torch.nan, rows)

    sick = with_module(toy, Sick())
    done = extract_one(sick, scan(few(4, 1) / "dataset").files, tmp_path, views=3)
    assert 0 < done.computed < 32
    assert done.present == 0
    assert len({failure.path for failure in done.failed}) <= 8


def test_training_draws_from_views_and_says_what_is_missing(
    toy: LoadedBackbone, few: Few, tmp_path: Path
) -> None:
    images = scan(few(6, 1) / "dataset")
    cache = extract_one(toy, images.files, tmp_path / "cache", views=2).cache
    losses = []
    for views in (0, 1, 2):
        sweep = SearchPlan((HeadConfig("single", "adam", views=views),))
        (saved,) = train_heads(cache, images.labels, "few", sweep, tmp_path / "heads").heads
        losses.append(saved.info.curves["training_loss"])
    assert losses[0] != losses[1] != losses[2]
    plain, augmented = (HeadConfig("single", "adam", views=views, epochs=2) for views in (0, 2))
    heads = tmp_path / "more heads"
    train_heads(cache, images.labels, "few", SearchPlan((augmented,), cv=2), heads)
    both = train_heads(cache, images.labels, "few", SearchPlan((plain, augmented), cv=2), heads)
    assert both.tried == 2  # the clean ones only; if the other is chosen, its views are read
    with pytest.raises(CacheError, match=r"run extract --views 3"):
        wanted = SearchPlan((HeadConfig("single", "adam", views=3),))
        train_heads(cache, images.labels, "few", wanted, tmp_path / "heads")
