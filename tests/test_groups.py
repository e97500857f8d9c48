"""Near duplicates stay on one side of every split, and folds without that are reported too."""

from pathlib import Path

import pandas as pd
import pytest

from cache.errors import HeadError
from cache.store import Cache
from heads.config import HeadConfig, fingerprint
from heads.search.space import SearchPlan, combinations
from heads.splits import check_trainable, split
from heads.training import TRIALS, TrainingSettings, train_heads
from tests.toy import key

ONE = SearchPlan((HeadConfig("single", "adam"),))


@pytest.fixture(scope="module")
def pairs(labels: dict[bytes, str]) -> dict[bytes, int]:
    """Twenty images of each class, taken two by two."""
    taken = [key for name in ("gel", "not_gel") for key in sorted(labels) if labels[key] == name]
    return {key: i // 2 for i, key in enumerate([*taken[:20], *taken[46:66]])}


class TestSplit:
    @pytest.mark.parametrize("fold", ["", "1/5", "2/5", "3/5", "4/5", "5/5"])
    def test_no_group_is_divided(
        self, labels: dict[bytes, str], pairs: dict[bytes, int], fold: str
    ) -> None:
        for seed in range(5):
            parts = split(labels, 0.2, seed, fold, pairs)
            sides = [
                {pairs[k] for k in side if k in pairs}
                for side in (parts.training, parts.validation)
            ]
            assert not sides[0] & sides[1]
            assert sorted([*parts.training, *parts.validation]) == sorted(labels)
            assert {labels[k] for k in parts.validation} == {"gel", "not_gel"}
            assert 12 <= len(parts.validation) <= 25

    def test_without_groups_some_are_divided(
        self, labels: dict[bytes, str], pairs: dict[bytes, int]
    ) -> None:
        parts = split(labels, 0.2, 0)
        trained = {pairs[k] for k in parts.training if k in pairs}
        assert trained & {pairs[k] for k in parts.validation if k in pairs}

    def test_folds_are_disjoint_and_whole(
        self, labels: dict[bytes, str], pairs: dict[bytes, int]
    ) -> None:
        parts = [split(labels, 0.2, 3, f"{number}/5", pairs) for number in range(1, 6)]
        assert sorted(k for part in parts for k in part.validation) == sorted(labels)

    def test_how_groups_are_numbered_changes_nothing(
        self, labels: dict[bytes, str], pairs: dict[bytes, int]
    ) -> None:
        other = {k: 100 - number for k, number in reversed(pairs.items())}
        assert split(labels, 0.2, 1, "", pairs) == split(labels, 0.2, 1, "", other)
        assert fingerprint(labels, pairs) == fingerprint(labels, other)

    def test_a_group_of_several_classes_is_of_the_one_that_most_are_of(self) -> None:
        labels = {key(i): "a" if i < 6 else "b" for i in range(12)}
        groups = {key(0): 0, key(1): 0, key(6): 0}
        for seed in range(10):
            parts = split(labels, 0.3, seed, "", groups)
            together = {key(0), key(1), key(6)}
            assert together <= set(parts.training) or together <= set(parts.validation)

    def test_a_class_of_one_photograph_is_refused(self) -> None:
        labels = {key(i): "a" if i < 3 else "b" for i in range(9)}
        groups = {key(i): 0 for i in range(3)}
        check_trainable(labels)
        with pytest.raises(HeadError, match=r"class a has a single image, near duplicates counted"):
            check_trainable(labels, 0, groups)


class TestFingerprint:
    def test_grouping_is_part_of_it_and_lonely_groups_are_not(self) -> None:
        labels = {key(1): "a", key(2): "a", key(3): "b"}
        plain = fingerprint(labels)
        assert fingerprint(labels, {}) == plain
        assert fingerprint(labels, {key(1): 0}) == plain
        assert fingerprint(labels, {key(7): 0, key(8): 0}) == plain  # of other images
        assert fingerprint(labels, {key(1): 0, key(2): 0}) != plain


class TestRun:
    def test_a_grouped_head_is_another_head_and_says_so(
        self,
        caches: dict[str, Cache],
        labels: dict[bytes, str],
        pairs: dict[bytes, int],
        tmp_path: Path,
    ) -> None:
        (plain,) = train_heads(caches["cpu"], labels, "d", ONE, tmp_path).heads
        (kept,) = train_heads(
            caches["cpu"], labels, "d", ONE, tmp_path, TrainingSettings(pairs)
        ).heads
        assert plain.info.id != kept.info.id
        assert (plain.info.n_groups, kept.info.n_groups) == (0, 20)
        assert plain.info.dataset_fingerprint == kept.info.dataset_fingerprint

    def test_folds_that_divide_groups_are_trained_for_comparison(
        self,
        caches: dict[str, Cache],
        labels: dict[bytes, str],
        pairs: dict[bytes, int],
        tmp_path: Path,
    ) -> None:
        sweep = SearchPlan(tuple(combinations({"head": ["knn"]})), cv=3)
        done = train_heads(caches["cpu"], labels, "d", sweep, tmp_path, TrainingSettings(pairs))
        (saved,) = done.heads
        assert saved.info.selection.cv_ungrouped == done.ungrouped[sweep.candidates[0]]
        trials = pd.read_csv(tmp_path / TRIALS)
        assert trials.groupby("n_groups").size().to_dict() == {0: 3, 20: 3}
        naive = trials.loc[trials["n_groups"] == 0, "validation_accuracy"].mean()
        assert saved.info.selection.cv_ungrouped == pytest.approx(naive, abs=1e-6)
        ungrouped = train_heads(caches["cpu"], labels, "d", sweep, tmp_path)
        assert ungrouped.heads[0].info.selection.cv_accuracy == pytest.approx(naive, abs=1e-6)
        assert (ungrouped.tried, ungrouped.ungrouped) == (0, {})
