"""Small classes are filled up with augmented views of their images."""

import dataclasses
from collections import Counter

import pytest
import torch

from heads.batched.fit import TrainingData, head_group
from heads.batched.oversampling import filled
from heads.config import HeadConfig
from heads.embedding_dataset import EmbeddingDataset
from tests.toy import key

UNEVEN = [0] * 10 + [1] * 3 + [2] + [3] * 7 + [1]  # 10, 4, 1 and 7 images
AUGMENT = HeadConfig("single", "sgd", balance="augment", views=4)


@pytest.fixture
def data() -> TrainingData:
    """30 images of one class, 12 of another and 6 of a third, with four views of each."""
    labels = torch.tensor([0] * 30 + [1] * 12 + [2] * 6)
    named = {key(i): f"class {label}" for i, label in enumerate(labels.tolist())}
    return TrainingData(named, EmbeddingDataset(torch.zeros(5, 48, 0), labels, 3))


def of_class(pairs: list[tuple[int, int]]) -> dict[int, int]:
    """How many pairs each class is given."""
    return Counter(UNEVEN[row] for row, _ in pairs)


def test_every_class_becomes_as_large_as_the_largest() -> None:
    assert of_class(filled(UNEVEN, 9, seed=0)) == {1: 6, 2: 9, 3: 3}


def test_a_very_small_class_gets_every_view_and_stays_smaller() -> None:
    pairs = filled(UNEVEN, 4, seed=0)
    assert of_class(pairs) == {1: 6, 2: 4, 3: 3}
    assert sorted(view for row, view in pairs if row == 13) == [1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(5))
def test_no_pair_twice_and_evenly(seed: int) -> None:
    pairs = filled(UNEVEN, 4, seed)
    assert len(set(pairs)) == len(pairs)
    assert {view for _, view in pairs} == {1, 2, 3, 4}
    each = Counter(row for row, _ in pairs)
    assert sorted(each[row] for row in (10, 11, 12, 21)) == [1, 1, 2, 2]
    assert sorted(each[row] for row in range(14, 21)) == [0, 0, 0, 0, 1, 1, 1]


def test_by_seed_alone() -> None:
    assert filled(UNEVEN, 4, seed=1) == filled(torch.tensor(UNEVEN).numpy(), 4, seed=1)
    assert filled(UNEVEN, 4, seed=1) != filled(UNEVEN, 4, seed=2)


@pytest.mark.parametrize("labels", [[], [1, 1, 1], [0, 1, 1, 0]])
def test_even_classes_need_nothing(labels: list[int]) -> None:
    assert filled(labels, 4, seed=0) == []


def test_without_views_there_is_nothing_to_fill_with() -> None:
    assert filled(UNEVEN, 0, seed=0) == []


def test_only_training_images_are_drawn_on(data: TrainingData) -> None:
    these = head_group([AUGMENT], data)
    mine, held_out = these.training[0], these.validation[0]
    assert mine.sum() == len(these.pool) == 3 * 24
    assert not held_out[these.extra[:, 0]].any()
    assert not mine[:48][held_out].any()
    assert set(these.pool.tolist()) == set(mine.nonzero()[:, 0].tolist())
    assert these.batch_size == AUGMENT.batch_size


def test_near_duplicates_stay_on_one_side(data: TrainingData) -> None:
    grouped = TrainingData(data.labels, data.rows, {key(i): i // 3 for i in range(48)})
    these = head_group([AUGMENT], grouped)
    held_out = {i // 3 for i in these.validation[0].nonzero()[:, 0].tolist()}
    assert held_out.isdisjoint({i // 3 for i in these.extra[:, 0].tolist()})


def test_each_fold_is_filled_up_by_itself(data: TrainingData) -> None:
    folds = [dataclasses.replace(AUGMENT, fold=f"{n}/3") for n in (1, 2, 3)]
    these = head_group(folds, data)
    assert len(set(map(tuple, these.extra.tolist()))) == len(these.extra)
    for training, held_out in zip(these.training, these.validation, strict=True):
        own = these.extra[training[48:]]
        assert Counter(data.rows.labels[own[:, 0]].tolist()) == {1: 12, 2: 16}
        assert not held_out[own[:, 0]].any()
    seen = these.training[:, these.pool].double().mean() * these.batch_size
    assert seen == pytest.approx(AUGMENT.batch_size, abs=0.5)


def test_a_folds_batches_do_not_depend_on_its_company(data: TrainingData) -> None:
    """Some folds may have been judged before."""
    folds = [dataclasses.replace(AUGMENT, fold=f"{n}/3") for n in (1, 2, 3)]
    whole, some = head_group(folds, data), head_group(folds[1:2], data)
    for name in ("pool", "batch_size", "extra"):
        assert torch.equal(*(torch.as_tensor(getattr(p, name)) for p in (whole, some)))
    assert torch.equal(whole.training[1], some.training[0])
