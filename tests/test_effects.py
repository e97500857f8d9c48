"""What choices are worth: which models are matched, and how often the intervals are right."""

import math
from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import permutation_test, t

from evaluate import leaderboard
from evaluate.leaderboard import Leaderboard
from evaluate.result_row import origin
from evaluate.statistics.comparison import compare, holm
from evaluate.statistics.effects import (
    FACTORS,
    SETTINGS,
    FactorEffect,
    effect_in_words,
    factor_effects,
    over_seeds,
)
from evaluate.text import NOT_TRAINED
from extract.backbones import find_backbone
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone
from extract.weights import Source
from heads.config import FROZEN, HeadConfig
from heads.store import HeadInfo, Network, Selection

pytestmark = pytest.mark.slow

Row = dict[str, Any]
Bools = NDArray[np.bool_]

ROW: Row = {
    "pretrained_model": "resnet18",
    "weights": "imagenet",
    "hardware_type": "cpu",
    "engine": "openvino",
    "numeric_precision": "fp32",
    "fit": "stretch",
    "normalization": "weights",
    "full_scale": "own",
    "classifier_head": "single",
    "opt_alg": "adam",
    "mode": "frozen",
    "learning_rate": 0.001,
    "momentum": 0.0,
    "nesterov": 0,
    "weight_decay": 0.0,
    "schedule": "constant",
    "gamma": 1.0,
    "warmup": 0,
    "patience": 0,
    "balance": "none",
    "views": 0,
    "augmentation": "none",
    "epochs": 20,
    "batch_size": 23,
    "n_validation": 18,
    "n_groups": 0,
    "seed": 0,
    "selected_by": "the only candidate",
    "accuracy": 0.9,
    "val_accuracy": 0.8,
}
SGD = {"opt_alg": "sgd", "momentum": 0.9}
MULTI = {"classifier_head": "multi"}
XLA = {"hardware_type": "xla-cpu", "engine": "xla"}
TRAINING = ("learning_rate", "momentum", "gamma", "warmup", "patience", "epochs", "batch_size")
FITTED = {"opt_alg": "none"} | dict.fromkeys(TRAINING, math.nan)
BEST = {"selected_by": "best of 6 by validation accuracy, 1 seed(s)"}


def rows_of(*changes: Row) -> list[Row]:
    return [ROW | change for change in changes]


def trained(mode: str, backbone: str = "resnet18", seed: int = 0) -> Row:
    """The row of a model trained in a mode, as `evaluate` makes it from the head's file."""
    start = f"random:{seed}" if mode == "scratch" else "imagenet"
    name = f"{backbone}-{mode}-{seed}"
    entry = find_backbone(backbone)
    now = start if mode in NOT_TRAINED else f"trained:{name}"
    loaded = LoadedBackbone(backbone, Source(now, None), now, (entry.mean, entry.std))
    info = HeadInfo(
        configuration=HeadConfig("single", "adam", seed=seed),
        identity=EmbeddingSpec(loaded, "cpu", (), "fp32").key,
        classes=("a", "b"),
        dataset="gel",
        dataset_fingerprint="d1",
        images_fingerprint="i1",
        n_groups=0,
        weights=now,
        n_training=74,
        n_validation=18,
        training_seconds=1.0,
        embedding_seconds=1.0,
        curves={"validation_accuracy": [0.8], "validation_loss": [0.5]},
        epoch=0,
        temperature=1.0,
        selection=Selection(),
        network=None if mode == FROZEN else Network(name, mode, start, "none", "fp32", "cpu"),
    )
    return origin(info) | {"engine": "openvino", "accuracy": 0.9}


def pairs_of(rows: Sequence[Row]) -> dict[tuple[str, ...], int]:
    """How many pairs of models each effect is over: (factor, levels in order) → pairs."""
    found = factor_effects(rows, np.ones((len(rows), 5), np.bool_))
    return {(e.factor, *sorted((e.first, e.second))): e.pairs for e in found}


def the_reference_study() -> list[Row]:
    """Its design: 24 models."""
    backbones = ("mobilenet_v3_large", "resnet18", "vgg16")
    return [
        ROW | {"pretrained_model": backbone} | device | head | optimizer
        for device, backbone, head, optimizer in product(
            ({}, XLA), backbones, ({}, MULTI), ({}, SGD)
        )
    ]


# Which models are matched


def test_every_setting_that_tells_models_apart_is_looked_at() -> None:
    assert set(leaderboard.SETTINGS) | set(leaderboard.KIND) == set(SETTINGS)


def test_the_reference_studys_24_models() -> None:
    assert pairs_of(the_reference_study()) == {
        ("pretrained_model", "mobilenet_v3_large", "resnet18"): 8,
        ("pretrained_model", "mobilenet_v3_large", "vgg16"): 8,
        ("pretrained_model", "resnet18", "vgg16"): 8,
        ("hardware_type", "cpu", "xla-cpu"): 12,
        ("classifier_head", "multi", "single"): 12,
        ("opt_alg", "adam", "sgd"): 12,
    }


@pytest.mark.parametrize(
    "other",
    [
        *({"seed": 1}, {"learning_rate": 0.01}, {"epochs": 5}, {"n_validation": 30}),
        {"n_groups": 19},
        *({"engine": "torch"}, {"numeric_precision": "bf16"}, {"weights": "random:0"}, MULTI, XLA),
        {"pretrained_model": "vgg16"},
    ],
    ids=str,
)
def test_models_that_differ_in_another_setting_are_not_matched(other: Row) -> None:
    assert not {key for key in pairs_of(rows_of({}, SGD | other)) if key[0] == "opt_alg"}


def test_a_model_without_a_partner_takes_no_part() -> None:
    rows = rows_of({}, SGD, {"seed": 1}, SGD | {"seed": 1}, SGD | {"seed": 2})
    assert pairs_of(rows) == {("opt_alg", "adam", "sgd"): 2}


def test_weights_belong_to_the_backbone() -> None:
    vgg16 = {"pretrained_model": "vgg16", "weights": "random:0"}
    untrained = {"weights": "random:0"}
    assert pairs_of(rows_of({}, untrained, vgg16)) == {
        ("pretrained_model", "resnet18", "resnet18 (random:0)"): 1,
        ("pretrained_model", "resnet18", "vgg16 (random:0)"): 1,
        ("pretrained_model", "resnet18 (random:0)", "vgg16 (random:0)"): 1,
    }


def test_modes_are_matched_where_all_else_is_equal() -> None:
    finetune, scratch = {"mode": "finetune"}, {"mode": "scratch", "weights": "random:0"}
    assert pairs_of(rows_of({}, finetune, scratch, finetune | {"learning_rate": 0.01})) == {
        ("mode", "finetune", "frozen"): 1,
        ("mode", "frozen", "scratch"): 1,
        ("mode", "finetune", "scratch"): 1,
    }


def test_training_from_scratch_is_not_matched_with_an_untrained_backbone() -> None:
    scratch = {"mode": "scratch", "weights": "random:0"}
    assert not pairs_of(rows_of({"weights": "random:0"}, scratch))


def test_networks_trained_as_a_whole_go_by_what_they_began_with() -> None:
    """However the weights are called that they came to; drawn ones are no level of a backbone."""
    modes = (FROZEN, "finetune", "transfer", "scratch")
    rows = [trained(mode, backbone) for backbone in ("resnet18", "vgg16") for mode in modes]
    of_modes = {("mode", *sorted(pair)): 2 for pair in combinations(modes, 2)}
    assert pairs_of(rows) == of_modes | {("pretrained_model", "resnet18", "vgg16"): 4}


def test_what_validation_chose_is_no_setting() -> None:
    """Each optimizer at its best learning rate; but not against one that had no choice."""
    adam, sgd = BEST | {"learning_rate": 0.01}, SGD | BEST | {"learning_rate": 0.1}
    assert pairs_of(rows_of(adam, sgd)) == {("opt_alg", "adam", "sgd"): 1}
    assert not pairs_of(rows_of(adam, SGD))


def test_fitted_heads_are_matched_with_each_other() -> None:
    logreg = FITTED | BEST | {"classifier_head": "logreg", "weight_decay": 0.01}
    ridge = FITTED | {"classifier_head": "ridge", "weight_decay": 10.0}
    knn = FITTED | {"classifier_head": "knn"}
    assert pairs_of(rows_of({}, logreg, ridge, knn)) == {
        ("classifier_head", "knn", "logreg"): 1,
        ("classifier_head", "knn", "ridge"): 1,
        ("classifier_head", "logreg", "ridge"): 1,
    }


def test_nothing_to_match() -> None:
    assert factor_effects(rows_of({}), np.ones((1, 5), np.bool_)) == []


# What comes of it


def only(rows: Sequence[Row], right: Bools) -> FactorEffect:
    (effect,) = factor_effects(rows, right)
    return effect


def test_a_single_pair_is_mcnemars_test() -> None:
    """And the interval is that of Bonett and Price, by Student's t."""
    generator = np.random.default_rng(0)
    right = generator.random((2, 40)) < [[0.6], [0.9]]
    effect, found = only(rows_of({}, SGD), right), compare(right[1], right[0])
    assert (effect.first, effect.second, effect.pairs, effect.images) == ("sgd", "adam", 1, 40)
    assert effect.difference == pytest.approx(found.difference)
    assert effect.p_value == pytest.approx(found.p_value)
    values = np.append(right[1].astype(int) - right[0], [1, -1])
    half = t.ppf(0.975, 41) * values.std(ddof=1) / math.sqrt(42)
    assert effect.interval == pytest.approx((values.mean() - half, values.mean() + half))
    assert effect.interval == pytest.approx(found.interval, abs=0.01)


@pytest.mark.parametrize("differing", range(2, 13))
def test_p_value_is_scipys_permutation_test(differing: int) -> None:
    """Exact there for so few images; here for any number."""
    rows = rows_of({}, SGD, {"seed": 1}, SGD | {"seed": 1}, {"seed": 2}, SGD | {"seed": 2})
    right = np.ones((6, 30), np.bool_)
    right[:, :differing] = np.random.default_rng(differing).random((6, differing)) < 0.5
    gained = right[1::2].sum(0) - right[::2].sum(0)
    theirs = permutation_test((gained[:differing],), np.sum, permutation_type="samples")
    assert only(rows, right).p_value == pytest.approx(theirs.pvalue)


def test_the_mean_over_pairs_and_images() -> None:
    """Two pairs on four images: sgd is better on one image twice, on one once."""
    rows = rows_of({}, SGD, MULTI, MULTI | SGD)
    right = np.array([[1, 0, 0, 1], [1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]]) > 0
    effects = {effect.factor: effect for effect in factor_effects(rows, right)}
    effect = effects["opt_alg"]
    assert (effect.first, effect.pairs) == ("sgd", 2)
    assert effect.difference == pytest.approx((2 + 1) / 2 / 4)
    assert effect.p_value == pytest.approx(2 * 1 / 4)  # of four ways to give signs, one is as large
    assert effects["classifier_head"].difference == pytest.approx(1 / 2 / 4)


def test_all_effects_of_a_study_are_adjusted_together() -> None:
    rows = the_reference_study()
    found = factor_effects(rows, np.random.default_rng(1).random((24, 200)) < 0.8)
    backbone, device, head, optimizer, _ = FACTORS  # all are frozen
    assert [effect.factor for effect in found] == [backbone] * 3 + [device, head, optimizer]
    adjusted = holm([effect.p_value for effect in found])
    assert [effect.adjusted_p for effect in found] == pytest.approx(adjusted.tolist())
    assert all(effect.difference >= 0 for effect in found)


@pytest.mark.parametrize("images", [1, 22])
def test_models_that_answer_alike(images: int) -> None:
    """Nothing differs, and nothing is certain."""
    effect = only(rows_of({}, SGD), np.ones((2, images), np.bool_))
    assert (effect.difference, effect.p_value) == (0, 1)
    low, high = effect.interval
    assert -low == high > 0.1


def test_the_same_result_twice() -> None:
    right = np.random.default_rng(2).random((24, 300)) < 0.8
    rows = the_reference_study()
    assert factor_effects(rows, right) == factor_effects(rows, right)


def world(images: int, seed: int) -> Bools:
    """Twelve models, right on [12, images]: hard images are hard for all, harder for adam."""
    generator = np.random.default_rng(seed)
    ease = 1 + generator.normal(size=images)
    of_backbone = generator.normal(size=(3, 1, 1, images)) / 2
    of_head = generator.normal(size=(1, 2, 1, images)) / 2
    of_optimizer = np.array([0.0, 0.3])[:, None]
    noise = generator.normal(size=(3, 2, 2, images)) / 2
    margin = ease + of_backbone + of_head + of_optimizer + noise
    return np.asarray(margin.reshape(12, images) > 0)


@pytest.mark.parametrize(("images", "most"), [(22, 1.0), (1000, 0.97)])
def test_intervals_hold_the_truth(images: int, most: float, figure: Callable[[str], None]) -> None:
    """Of an effect of the optimizer, and of the head, which has none. Of few images too wide."""
    rows = [
        ROW | {"pretrained_model": backbone} | head | optimizer
        for backbone, head, optimizer in product("abc", ({}, MULTI), ({}, SGD))
    ]
    large = world(200_000, 0).reshape(3, 2, 2, -1)
    truth = {"opt_alg": large[:, :, 1].mean() - large[:, :, 0].mean(), "classifier_head": 0.0}
    held: dict[str, list[bool]] = {name: [] for name in truth}
    false_alarms = []
    for seed in range(1, 801):
        effects = {effect.factor: effect for effect in factor_effects(rows, world(images, seed))}
        for name, expected in truth.items():
            sign = -1 if effects[name].first in ("adam", "multi") else 1
            low, high = effects[name].interval
            held[name].append(low <= sign * expected <= high)
        false_alarms.append(effects["classifier_head"].p_value < 0.05)
    for name, covered in held.items():
        figure(f"{name}, {images} images: {np.mean(covered):.3f}")
        assert 0.93 <= np.mean(covered) <= most
    assert np.mean(false_alarms) <= 0.07


# In words


def test_words_of_too_few_images() -> None:
    right = np.ones((2, 22), np.bool_)
    right[0, :3] = right[1, 3] = False
    assert effect_in_words(only(rows_of({}, SGD), right)).replace("\N{MINUS SIGN}", "-") == (
        "sgd over adam: +9.1 points over 1 pair of models, 95 % interval [-13, 30], "
        "not distinguishable with 22 images"
    )


def test_words_of_enough_images() -> None:
    right = np.ones((4, 500), np.bool_)
    right[0, :60] = right[2, 30:90] = right[1, 90:100] = False
    rows = rows_of({}, SGD, {"seed": 1}, SGD | {"seed": 1})
    assert effect_in_words(only(rows, right)) == (
        "sgd over adam: +11.0 points over 2 pairs of models, 95 % interval [8.4, 13.5]: "
        "distinguishable with 500 images"
    )


def test_words_of_what_is_significant_only_by_itself() -> None:
    effect = FactorEffect("opt_alg", "sgd", "adam", 0.05, (0.01, 0.09), 0.02, 0.2, 12, 500)
    assert effect_in_words(effect).endswith(
        "not distinguishable with 500 images among so many comparisons"
    )


# Over seeds


def test_weights_drawn_from_the_seed_are_no_other_configuration() -> None:
    scratch = [{"mode": "scratch", "weights": f"random:{seed}", "seed": seed} for seed in (0, 1)]
    assert [found.count for found in over_seeds(rows_of(*scratch))] == [2]
    assert over_seeds(rows_of(*({**each, "mode": "transfer"} for each in scratch))) == []


@pytest.mark.parametrize("mode", ["finetune", "scratch"])
def test_networks_trained_as_a_whole_differ_in_their_seed_only(mode: str) -> None:
    rows = [trained(mode, seed=seed) for seed in (0, 1)]
    assert [found.count for found in over_seeds(rows)] == [2]
    drawn = ", weights random:1" if mode == "scratch" else ""
    assert Leaderboard(tuple(rows)).settings(rows[1]) == f"seed 1{drawn}"


def test_mean_and_spread_over_seeds() -> None:
    rows = rows_of(
        {"seed": 0, "accuracy": 0.90, "val_accuracy": 0.8},
        SGD,
        {"seed": 1, "accuracy": 0.96, "val_accuracy": 0.8, "n_validation": 19},
        {"seed": 2, "accuracy": 0.93, "val_accuracy": 1.0},
    )
    (found,) = over_seeds(rows)
    assert (found.row, found.count) == (rows[0], 3)
    assert (found.accuracy, found.accuracy_sd) == pytest.approx((0.93, 0.03))
    assert (found.val_accuracy, found.val_accuracy_sd) == pytest.approx((2.6 / 3, 0.2 / 3**0.5))


def test_seeds_of_chosen_and_of_fitted_heads() -> None:
    logreg = FITTED | BEST | {"classifier_head": "logreg"}
    assert [found.count for found in over_seeds(rows_of(logreg, logreg | {"seed": 1}))] == [2]


def test_a_validation_share_that_was_varied_too_is_no_seed() -> None:
    more = {"n_validation": 40}
    rows = rows_of({}, {"seed": 1}, more, more | {"seed": 1})
    assert [found.row["n_validation"] for found in over_seeds(rows)] == [18, 40]


def test_configurations_of_one_seed_say_nothing() -> None:
    assert over_seeds(rows_of({}, SGD, MULTI, {"learning_rate": 0.1, "seed": 1})) == []
