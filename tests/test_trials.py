"""Candidates are judged on validation, once; the chosen are kept and say why."""

import dataclasses
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest

from cache.errors import HeadError
from cache.store import Cache
from extract.dataset import scan
from heads.config import HeadConfig
from heads.search.space import SearchPlan, combinations
from heads.search.trials import effects, rank, read_trials
from heads.store import find_heads
from heads.training import TRIALS, HeadsRun, TrainingSettings, train_heads
from tests.conftest import ROOT

RATES = (1e-4, 1e-2, 1e30)
LABELS = scan(ROOT / "dataset").labels


def candidates(head: str = "multi", optimizer: str = "sgd") -> tuple[HeadConfig, ...]:
    return tuple(
        HeadConfig(head, optimizer, learning_rate=lr, weight_decay=decay, epochs=3)
        for lr in RATES
        for decay in (0.0, 0.1)
    )


def result(accuracy: float, loss: float, diverged: int = 0, raw: float = 0.5) -> dict[Any, Any]:
    """A trial; loss: after temperature scaling. raw: before."""
    return {
        "validation_accuracy": accuracy,
        "validation_loss": raw,
        "validation_calibrated_loss": loss,
        "diverged": diverged,
    }


def ranked_candidates(
    candidates: tuple[HeadConfig, ...], found: list[dict[Any, Any]]
) -> list[HeadConfig]:
    trials = dict(zip(candidates, found, strict=True))
    return [each.candidate for each in rank(SearchPlan(candidates), trials)]


class TestRank:
    def test_by_accuracy_then_calibrated_loss_and_never_a_diverged_one(self) -> None:
        sweep = SearchPlan(candidates()[:4])
        found = [result(0.8, 0.3), result(0.9, 0.5), result(0.9, 0.4), result(1.0, 0.1, 1)]
        ranked = rank(sweep, dict(zip(sweep.candidates, found, strict=True)))
        order = [sweep.candidates.index(each.candidate) for each in ranked]
        assert order == [2, 1, 0, 3]
        assert [each.chosen for each in ranked] == [True, False, False, False]

    def test_overconfidence_wins_nothing(self) -> None:
        """Both are always right; the first is surer, and less so where it should be."""
        sure, modest = candidates()[0], candidates()[2]
        found = [result(1.0, 0.08, raw=0.0), result(1.0, 0.05, raw=0.3)]
        assert ranked_candidates((sure, modest), found) == [modest, sure]

    def test_equal_losses_leave_the_choice_to_regularisation_then_simplicity(self) -> None:
        weak, strong = (HeadConfig("logreg", "none", weight_decay=w) for w in (1e-4, 10))
        assert ranked_candidates((weak, strong), [result(1, 0.051), result(1, 0.053)]) == [
            strong,
            weak,
        ]
        large, small = (HeadConfig(head, "adam") for head in ("multi", "single"))
        assert ranked_candidates((large, small), [result(1, 0.05)] * 2) == [small, large]
        first, second = (HeadConfig("single", o) for o in ("sgd", "adam"))
        assert ranked_candidates((first, second), [result(1, 0.05)] * 2) == [first, second]

    def test_equal_shares_are_equal_whatever_their_last_digit(self) -> None:
        """Two seeds of 13 and 11 of 14 images equal twice 12: the loss decides."""
        sweep = SearchPlan(candidates()[:2], seeds=2)
        cv_fits = [judge for c in sweep.candidates for judge in sweep.cv_fits(c)]
        scores = (13 / 14, 11 / 14, 12 / 14, 12 / 14)
        losses = (0.1, 0.1, 0.2, 0.2)
        found = [result(*pair) for pair in zip(scores, losses, strict=True)]
        ranked = rank(sweep, dict(zip(cv_fits, found, strict=True)))
        assert ranked[0].candidate == sweep.candidates[0]

    def test_over_folds_and_seeds_by_the_mean(self) -> None:
        sweep = SearchPlan(candidates()[:2], cv=2)
        scores = iter((0.5, 1.0, 0.7, 0.7))
        cv_fits = [judge for c in sweep.candidates for judge in sweep.cv_fits(c)]
        ranked = rank(sweep, {judge: result(next(scores), 0.1) for judge in cv_fits})
        assert ranked[0].score.accuracy == pytest.approx(0.75)
        assert ranked[0].score.spread == pytest.approx(0.35355, rel=1e-4)
        assert (ranked[0].candidate, ranked[0].score.cv_fits) == (sweep.candidates[0], 2)

    def test_each_head_and_optimizer_has_its_own_choice(self) -> None:
        sweep = SearchPlan((*candidates()[:2], *candidates("single", "adam")[:2]))
        found = {c: result(0.5 + i / 10, 0.1) for i, c in enumerate(sweep.candidates)}
        chosen = [each.candidate for each in rank(sweep, found) if each.chosen]
        assert chosen == [sweep.candidates[3], sweep.candidates[1]]


class TestEffects:
    def test_of_matched_candidates_only(self) -> None:
        """A level that diverged in one place leaves that place out for all levels."""
        sweep = SearchPlan(candidates())
        scores = [0.5, 0.6, 0.8, 0.7, nan, nan]
        found = [result(score, 0.1, int(isnan(score))) for score in scores]
        ranked = rank(sweep, dict(zip(sweep.candidates, found, strict=True)))
        of_decay = [e for e in effects(ranked) if e.factor == "weight_decay"]
        assert [(e.level, e.candidates) for e in of_decay] == [(0.0, 2), (0.1, 2)]
        assert [e.accuracy for e in of_decay] == pytest.approx([0.65, 0.65])
        assert not [e for e in effects(ranked) if e.factor == "learning_rate"]

    def test_a_schedule_that_follows_from_its_gamma_is_no_factor(self) -> None:
        sweep = SearchPlan(tuple(combinations({
            "head": ["single"], "optimizer": ["sgd"], "gamma": [1.0, 0.9, 0.5],
            "learning_rate": [0.1, 0.01],
        })))  # fmt: skip
        scores = iter((0.5, 0.6, 0.7, 0.8, 0.9, 1.0))
        ranked = rank(sweep, {c: result(next(scores), 0.1) for c in sweep.candidates})
        found = effects(ranked)
        assert {effect.factor for effect in found} == {"learning_rate", "gamma"}
        of_gamma = [(e.level, e.candidates) for e in found if e.factor == "gamma"]
        assert of_gamma == [(0.5, 2), (0.9, 2), (1.0, 2)]

    def test_what_means_nothing_is_no_level(self) -> None:
        """Adam's missing momentum is none, nor the learning rate of what has none."""
        sweep = SearchPlan(tuple(combinations({
            "head": ["single", "ridge"], "optimizer": ["sgd", "adam"],
            "learning_rate": [0.1, 0.01], "weight_decay": [0.1, 0.2],
        })))  # fmt: skip
        scores = iter(range(100))
        ranked = rank(sweep, {c: result(next(scores) / 100, 0.1) for c in sweep.candidates})
        levels = [(e.factor, e.level, e.candidates) for e in effects(ranked)]
        assert ("learning_rate", 0.001) not in [level[:2] for level in levels]
        assert "momentum" not in {factor for factor, *_ in levels}
        assert [level for level in levels if level[0] == "learning_rate"] == [
            ("learning_rate", 0.01, 4), ("learning_rate", 0.1, 4),
        ]  # fmt: skip

    def test_nothing_varies(self) -> None:
        sweep = SearchPlan(candidates()[:1], cv=2)
        judged = {judge: result(0.5, 0.1) for judge in sweep.cv_fits(sweep.candidates[0])}
        assert effects(rank(sweep, judged)) == []


class TestRun:
    sweep = SearchPlan(candidates(), seeds=2)

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("heads")

    @pytest.fixture(scope="class")
    @classmethod
    def done(cls, caches: dict[str, Cache], folder: Path) -> HeadsRun:
        return train_heads(caches["cpu"], LABELS, "dataset", cls.sweep, folder)

    def test_the_best_is_saved_from_every_seed_and_says_why(
        self, done: HeadsRun, folder: Path
    ) -> None:
        assert (done.tried, done.trained, len(done.ranked)) == (12, 2, 6)
        best = next(each.candidate for each in done.ranked if each.chosen)
        kept = [saved.info for saved in find_heads(folder)[0]]
        assert {info.configuration for info in kept} == set(self.sweep.final_fits(best))
        assert best.learning_rate == 1e-2
        assert {info.selection.rule for info in kept} == {
            "best of 6 by validation accuracy, 2 seed(s)"
        }

    def test_trials_are_recorded(self, done: HeadsRun, folder: Path) -> None:
        """Diverged ones are marked; saved heads did as well as their trials."""
        table = read_trials(folder / TRIALS)
        assert (table["diverged"] == (table["learning_rate"] == 1e30)).all()
        assert len(table) == 12
        for saved in done.heads:
            trial = table.loc[saved.info.id]
            loss = saved.info.curves["validation_loss"][saved.info.epoch]
            assert loss == pytest.approx(trial["validation_loss"], rel=1e-4)

    def test_the_order_of_the_images_means_nothing(
        self, caches: dict[str, Cache], tmp_path: Path
    ) -> None:
        """Nor where they lie: heads of one id are one head."""
        sweep = SearchPlan((HeadConfig("multi", "sgd", epochs=3),), cv=3)
        found = []
        for name, labels in (("a", LABELS), ("b", dict(reversed(LABELS.items())))):
            done = train_heads(caches["cpu"], labels, "dataset", sweep, tmp_path / name)
            found.append((done.ranked, [saved.info.curves for saved in done.heads]))
        assert found[0] == found[1]

    def test_again_nothing_is_trained(
        self, done: HeadsRun, caches: dict[str, Cache], folder: Path
    ) -> None:
        again = train_heads(caches["cpu"], LABELS, "dataset", self.sweep, folder)
        assert (again.tried, again.trained) == (0, 0)
        assert (again.heads, again.ranked) == (done.heads, done.ranked)
        winner = SearchPlan((done.heads[0].info.configuration,))
        alone = train_heads(caches["cpu"], LABELS, "dataset", winner, folder)
        assert alone.heads[0].info.selection == done.heads[0].info.selection  # of so many

    def test_progress_ends_at_its_total(self, caches: dict[str, Cache], tmp_path: Path) -> None:
        told: list[tuple[int, int]] = []
        values: dict[str, list[Any]] = {"head": ["single", "ridge"], "epochs": [3, 7]}
        sweep = SearchPlan((*combinations(values), HeadConfig("multi", "sgd", patience=1)))
        train_heads(
            caches["cpu"], LABELS, "dataset", sweep, tmp_path,
            TrainingSettings(progress=lambda *pair: told.append(pair)),
        )  # fmt: skip
        done, total = told[-1]
        assert done == total
        assert [pair[0] for pair in told] == sorted(pair[0] for pair in told)

    def test_more_candidates_train_these_only(
        self, done: HeadsRun, caches: dict[str, Cache], folder: Path
    ) -> None:
        more = tuple(dataclasses.replace(c, weight_decay=0.01) for c in candidates()[::2])
        wider = dataclasses.replace(self.sweep, candidates=(*self.sweep.candidates, *more))
        assert train_heads(caches["cpu"], LABELS, "dataset", wider, folder).tried == 6

    def test_folds_judge_but_are_not_kept(self, caches: dict[str, Cache], tmp_path: Path) -> None:
        one = HeadConfig("single", "sgd", epochs=3)
        sweep = SearchPlan((one,), cv=5, repeats=2)
        done = train_heads(caches["cpu"], LABELS, "dataset", sweep, tmp_path)
        assert (done.tried, done.trained, len(find_heads(tmp_path)[0])) == (10, 1, 1)
        selection = done.heads[0].info.selection
        assert selection.rule == "the only candidate"
        assert selection.cv_accuracy == pytest.approx(done.ranked[0].score.accuracy, abs=1e-6)
        plain = train_heads(caches["cpu"], LABELS, "dataset", SearchPlan((one,)), tmp_path)
        assert plain.trained == 0
        # What folds said stays said, as long as nothing else is chosen from.
        assert plain.heads[0].info.selection == selection

    def test_all_diverged_leaves_nothing_and_is_told(
        self, caches: dict[str, Cache], tmp_path: Path
    ) -> None:
        wild = SearchPlan((HeadConfig("multi", "sgd", 1e30), HeadConfig("single", "adam")))
        done = train_heads(caches["cpu"], LABELS, "dataset", wild, tmp_path)
        assert [c.head for c in done.diverged] == ["multi"]
        assert [saved.info.configuration.head for saved in done.heads] == ["single"]
        again = train_heads(caches["cpu"], LABELS, "dataset", wild, tmp_path)
        assert (again.trained, again.diverged) == (0, done.diverged)

    @pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "\xff\xfe"])
    def test_a_damaged_table_is_named(
        self, content: str, caches: dict[str, Cache], tmp_path: Path
    ) -> None:
        (tmp_path / TRIALS).write_text(content, encoding="latin-1")
        with pytest.raises(HeadError, match=rf"{TRIALS} can't be read .* Delete it"):
            train_heads(caches["cpu"], LABELS, "dataset", SearchPlan(candidates()), tmp_path)
