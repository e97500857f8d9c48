"""What is to be trained: every combination, once; and a wrong file is named with line and key."""

from pathlib import Path
from typing import Any

import pytest

from cache.errors import GridError
from heads.architectures import HEADS
from heads.config import HeadConfig
from heads.search.space import SearchPlan, combinations, plan_from_options, read_grid
from tests.conftest import ROOT

NOTHING: dict[str, Any] = dict.fromkeys(HeadConfig.__dataclass_fields__) | {
    "seed": 0, "seeds": 1, "cv": None, "repeats": 1, "grid": None,
}  # fmt: skip
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
GRIDS = [path for path in RECIPES if "[grid]" in path.read_text("utf-8")]


def test_the_default_is_the_reference_studys_four() -> None:
    names = [(c.head, c.optimizer) for c in combinations({})]
    assert names == [("single", "adam"), ("single", "sgd"), ("multi", "adam"), ("multi", "sgd")]
    assert set(combinations({})) == set(read_grid(ROOT / "recipes" / "gel24.toml").candidates)


def test_the_studys_1040() -> None:
    sweep = read_grid(ROOT / "recipes" / "sweep1040.toml")
    cv_fits = [judge for candidate in sweep.candidates for judge in sweep.cv_fits(candidate)]
    assert len(sweep.candidates) == 80
    assert len(set(cv_fits)) == 1040


@pytest.mark.parametrize("path", GRIDS, ids=lambda p: p.name)
def test_every_grid_among_the_recipes_can_be_read(path: Path) -> None:
    assert read_grid(path).candidates


def test_every_combination_once() -> None:
    found = combinations(
        {"head": ["single"], "optimizer": ["adam", "sgd"], "momentum": [0.5, 0.9], "epochs": [1, 2]}
    )
    assert len(found) == len(set(found)) == 2 + 4  # momentum has no effect with adam


def test_a_gamma_acts() -> None:
    (found,) = combinations({"head": ["single"], "optimizer": ["sgd"], "gamma": [0.5]})
    assert (found.schedule, found.gamma) == ("exponential", 0.5)


def test_fitted_heads_bring_their_strengths_and_take_no_optimizer() -> None:
    found = combinations(
        {"head": ["single", "ridge", "knn"], "optimizer": ["sgd"], "learning_rate": [1, 2]}
    )
    assert sum(c.head == "single" for c in found) == 2
    ridge = [c for c in found if c.head == "ridge"]
    assert tuple(c.weight_decay for c in ridge) == HEADS["ridge"].strengths
    assert [c for c in found if c.head == "knn"] == [HeadConfig("knn", "none")]
    (one,) = combinations({"head": ["logreg"], "weight_decay": [0.5]})
    assert one.weight_decay == 0.5


def test_filling_up_needs_views() -> None:
    with pytest.raises(GridError, match=r"balance = augment .*--views"):
        combinations({"balance": ["none", "augment"]})
    found = combinations({"balance": ["augment"], "views": [6], "head": ["single", "ridge"]})
    assert {(c.head, c.balance, c.views) for c in found} == {
        ("single", "augment", 6), ("ridge", "none", 0),
    }  # fmt: skip


def test_folds_judge_and_seeds_are_kept() -> None:
    candidate = HeadConfig("single", "sgd")
    sweep = SearchPlan((candidate,), seed=7, seeds=2, cv=3, repeats=2)
    assert [c.seed for c in sweep.final_fits(candidate)] == [7, 8]
    assert [(c.seed, c.fold) for c in sweep.cv_fits(candidate)] == [
        (7, "1/3"), (7, "2/3"), (7, "3/3"), (8, "1/3"), (8, "2/3"), (8, "3/3"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no [grid]"),
        ("[grid]\n", "has no [grid]"),
        ("grid = 3\n", "has no [grid]"),
        ("[grid\n", "at line 1"),
        ("[grid]\nhead = 'single'\nlr = 0.1\n", "line 3: lr is not a known key"),
        ("[grid]\nhead = 'single'\nlearning_rate = []\n", "line 3: learning_rate is an empty list"),
        ("[grid]\nlearning_rate = [0.1, 0]\n", "line 2: learning_rate = 0: it must be a number"),
        ("[grid]\nlearning_rate = [nan]\n", "line 2: learning_rate = nan"),
        ("[grid]\nepochs = 2.5\n", "line 2: epochs = 2.5: it must be a whole number from 1"),
        ("[grid]\nepochs = true\n", "line 2: epochs = True"),
        ("[grid]\nhead = 'triple'\n", "line 2: head = 'triple': choose from single, multi"),
        ("[grid]\nnesterov = 1\n", "line 2: nesterov = 1: it must be true or false"),
        ("seeds = 0\n[grid]\nhead = 'knn'\n", "line 1: seeds = 0: it must be a whole number"),
        ("repeats = 2\n[grid]\nhead = 'knn'\n", "line 1: repeats needs cv"),
        ("colour = 'red'\n[grid]\nhead = 'knn'\n", "line 1: colour is not a known key"),
        (
            "[[grid]]\nhead = 'single'\nepochs = 3\n[[grid]]\nhead = 'multi'\nepochs = 0\n",
            "line 6: epochs = 0",
        ),
        (
            "[[grid]]\nhead = 'single'\n[[grid]]\nepochs = 0\n[[grid]]\nepochs = 1\n",
            "line 4: epochs = 0",
        ),
        (
            "[[grid]]\nval_fraction = 0.1\n[[grid]]\nval_fraction = 0.5\n",
            "line 4: val_fraction: heads validated on different",
        ),
        ("[grid]\npatience = [0, 3]\n", "line 2: patience: it chooses the epoch"),
        ("[grid]\nwarmup = 20\n", "line 2: warmup = 20 of 20 epochs"),
        ("[grid]\nhead = 'ridge'\nviews = 2\n", "line 3: views = 2 has no effect"),
        ("[grid]\nhead = 'knn'\nweight_decay = 0.1\n", "line 3: weight_decay = 0.1 has no"),
        ("[grid]\nhead = 'logreg'\nepochs = 9\n", "line 3: epochs = 9 has no effect"),
        (
            "[grid]\noptimizer = 'adam'\nmomentum = 0.5\n",
            "line 3: momentum = 0.5 has no effect on",
        ),
        (
            "[grid]\nschedule = 'cosine'\ngamma = [0.5]\n",
            "line 3: gamma = 0.5 has no effect on",
        ),
        (
            "[grid]\nval_fraction = [0.1, 0.2]\n",
            "line 2: val_fraction: heads validated on different",
        ),
        ("[grid]\nhead = 'logreg'\nweight_decay = 0\n", "line 3: weight_decay: logreg needs"),
        ("[grid]\nviews = [0, 2]\nbalance = 'augment'\n", "line 3: balance = augment oversamples"),
    ],
)
def test_a_wrong_file_is_named_with_line_and_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(GridError) as caught:
        read_grid(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)


def test_options_beside_a_file_contradict_it() -> None:
    path = ROOT / "recipes" / "gel24.toml"
    assert plan_from_options(NOTHING | {"grid": path, "seed": 3}).seed == 3
    for given in ({"learning_rate": [0.1]}, {"cv": 5}, {"seeds": 2}, {"nesterov": True}):
        with pytest.raises(GridError, match=rf"leave out {next(iter(given))}"):
            plan_from_options(NOTHING | {"grid": path} | given)


def test_the_last_seed_is_one() -> None:
    with pytest.raises(GridError, match="goes beyond"):
        SearchPlan((HeadConfig("single", "sgd"),), seed=2**32 - 1, seeds=2)


def test_repeats_without_folds_mean_nothing() -> None:
    with pytest.raises(GridError, match="give --cv too"):
        plan_from_options(NOTHING | {"repeats": 2})
