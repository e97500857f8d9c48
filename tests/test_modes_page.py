"""The sections on modes, devices, other test sets, limits and groups, with answers or without."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from statsmodels.stats.proportion import confint_proportions_2indep
from torch.nn.functional import cross_entropy

from cache.segment import write_segment
from cache.store import Cache, open_cache, read_all
from evaluate.constraints import NO_LIMITS, Limits
from evaluate.leaderboard import describe_others, studies
from evaluate.predictions import Predictions, predictions_path, write_predictions
from evaluate.report.context import ReportContext, gather
from evaluate.report.page import write_report
from evaluate.report.sections.constraints import constrained
from evaluate.report.sections.devices import device_parity
from evaluate.report.sections.external_sets import on_other_images
from evaluate.report.sections.leaderboard import IN_GROUP, MAX_GROUPS, best_of_groups, short_name
from evaluate.report.sections.modes import frozen_or_whole
from evaluate.report.sections.speed import trade_off
from evaluate.result_row import scores
from evaluate.results import add_result
from evaluate.workspace.layout import Workspace
from extract.imaging.preprocessing import FITS
from heads.config import HeadConfig
from heads.search.space import SearchPlan
from tests.reported import EVIL, reported, row

pytestmark = pytest.mark.slow

IMAGES = tuple(bytes([number]) * 32 for number in range(22))
OTHER = {"also": "cinic", "test_fingerprint": "c1", "test": "cinic/test"}
FINETUNE: dict[str, Any] = {"mode": "finetune", "training_time_mins": 10.0, "val_accuracy": 0.4}


def enter(place: Workspace, head: str, right: int, answered: bool = True, **values: Any) -> None:
    """Enter a model that gets the first so many of 22 images right."""
    first, second = min(right, 11), max(right - 11, 0)
    matrix = f"[[{first}, {11 - first}], [{11 - second}, {second}]]"
    scores = {"accuracy": right / 22, "conf_mat": matrix}
    add_result(place.results, row(head, **(scores | values)))
    if answered:
        labels = np.arange(22) // 11
        said = np.where(np.arange(22) < right, labels, 1 - labels)
        answers = Predictions((Path("a.png"),) * 22, IMAGES, labels, np.eye(2)[said], said > 1)
        path = predictions_path(place.heads, head, "t1", "torch")
        path.parent.mkdir(exist_ok=True)
        write_predictions(path, answers, ["gel", EVIL])


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A workspace with one frozen model: half a minute of embedding, six seconds of training."""
    place = Workspace(tmp_path)
    times: dict[str, Any] = {"embedding_time_mins": 0.5, "training_time_mins": 0.1}
    enter(place, "frozen", 15, val_accuracy=0.9, **times)
    return place


def material(place: Workspace, limits: Limits = NO_LIMITS) -> ReportContext:
    (study,) = studies(place.results)
    return gather(study, place, limits=limits)


class TestModes:
    def test_frozen_models_alone_are_compared_with_nothing(self, place: Workspace) -> None:
        assert frozen_or_whole(material(place)) == []

    def test_the_difference_and_the_times(self, place: Workspace) -> None:
        enter(place, "whole", 22, **FINETUNE)
        (part,) = frozen_or_whole(material(place))
        (line,) = part["lines"]
        assert part["name"] == "resnet18 on cpu"
        assert part["frozen"]["head_id"] == "frozen"
        assert line["points"] == pytest.approx(7 / 22)
        assert (line["comparison"].first_only, line["comparison"].second_only) == (7, 0)
        assert line["distinct"]
        assert line["words"].startswith(
            "#2 resnet18 · single · adam · finetune over #1 resnet18 · single · adam: +31.8 points"
        )
        assert line["with_embedding"] == pytest.approx(10 / 0.6)
        assert line["head_alone"] == pytest.approx(100)
        assert "16.7 times as long" in write_report(place).read_text()

    def test_the_best_of_each_mode_and_head(self, place: Workspace) -> None:
        enter(place, "worse", 18, **FINETUNE | {"val_accuracy": 0.3})
        enter(place, "better", 17, **FINETUNE)
        enter(place, "scratch", 12, **FINETUNE | {"mode": "scratch", "weights": "random:0"})
        enter(place, "multi", 12, **FINETUNE | {"classifier_head": "multi"})
        (part,) = frozen_or_whole(material(place))
        found = {line["head_id"] for line in part["lines"]}
        assert found == {"better", "scratch", "multi"}

    def test_another_device_or_backbone_is_another_comparison(self, place: Workspace) -> None:
        enter(place, "cuda", 18, **FINETUNE | {"hardware_type": "cuda"})
        enter(place, "vgg16", 18, **FINETUNE | {"pretrained_model": "vgg16"})
        assert frozen_or_whole(material(place)) == []

    def test_without_answers_there_is_a_difference_and_no_interval(self, place: Workspace) -> None:
        enter(place, "whole", 22, answered=False, **FINETUNE)
        ((line,),) = [part["lines"] for part in frozen_or_whole(material(place))]
        assert line["points"] == pytest.approx(7 / 22)
        assert (line["comparison"], line["bar"], line["words"]) == (None, None, "")
        write_report(place)

    def test_a_network_trained_from_scratch_is_not_an_untrained_one(self, place: Workspace) -> None:
        random = {"weights": "random:0", "val_accuracy": 1.0}
        enter(place, "scratch", 22, **FINETUNE | random | {"mode": "scratch"})
        enter(place, "lucky", 22, **FINETUNE | random | {"mode": "transfer"})
        (study,) = studies(place.results)
        assert [r["head_id"] for r in study.rows] == ["scratch", "frozen", "lucky"]
        html = write_report(place).read_text()
        assert html.count('<td class="bad">random:0</td>') == 1

    def test_the_mode_is_named_and_filtered_by(self, place: Workspace) -> None:
        frozen_alone = write_report(place).read_text()
        assert '<th class="w">mode</th>' not in frozen_alone
        enter(place, "whole", 22, **FINETUNE)
        found = material(place)
        assert [short_name(found, r) for r in found.study.rows] == [
            "resnet18 · single · adam",
            "resnet18 · single · adam · finetune",
        ]
        html = write_report(place).read_text()
        assert '<th class="w">mode</th>' in html
        assert 'data-mode="finetune"' in html


def test_devices_are_compared_for_each_way_to_fit_an_image(
    caches: dict[str, Cache], tmp_path: Path
) -> None:
    padded = []
    for cache in caches.values():
        other = open_cache(tmp_path / "padded", replace(cache.key, fit=FITS["pad"]))
        write_segment(other.folder, other.key, read_all(cache), [], {"weights": "imagenet"})
        padded.append(other)
    sweep = SearchPlan((HeadConfig("single", "adam"),))
    both = reported(tmp_path / "both", [*caches.values(), *padded], sweep)
    found = device_parity(material(both))
    assert [(line["devices"], line["heads"]) for line in found] == [("cpu, xla-cpu", 1)] * 2


class TestElsewhere:
    def test_rows_on_another_set_are_no_study_and_no_model(self, place: Workspace) -> None:
        enter(place, "frozen", 11, answered=False, **OTHER)
        (study,) = studies(place.results)
        assert [r["head_id"] for r in study.rows] == ["frozen"]
        assert [r["also"] for r in study.others] == ["cinic"]

    def test_the_change_and_its_interval(self, place: Workspace) -> None:
        enter(place, "frozen", 4, answered=False, **OTHER)
        (part,) = on_other_images(material(place))
        (line,) = part["rows"]
        assert (part["name"], part["images"]) == ("cinic", 22)
        assert line["change"] == pytest.approx(-11 / 22)
        expected = confint_proportions_2indep(4, 22, 15, 22, method="newcomb")
        assert line["change_interval"] == pytest.approx(expected, abs=1e-9)
        assert line["distinct"]
        assert part["words"].replace("\N{MINUS SIGN}", "-") == (
            "On cinic (22 images), model 1 gets 18.2% right: -50.0 points against gel/test_images "
            "(68.2%), 95 % interval [-69, -21]: more than chance"
        )

    def test_in_the_order_of_the_ranking_and_by_set(self, place: Workspace) -> None:
        enter(place, "second", 20, val_accuracy=0.8)
        for head in ("second", "frozen", "gone"):
            enter(place, head, 15, answered=False, **OTHER)
        enter(place, "second", 15, answered=False, **OTHER | {"also": "a, <b>"})
        first, second = on_other_images(material(place))
        assert (first["name"], [r["head_id"] for r in first["rows"]]) == ("a, <b>", ["second"])
        assert [r["head_id"] for r in second["rows"]] == ["frozen", "second"]
        assert "which chance alone can do" in second["words"]
        assert "a, &lt;b&gt;" in write_report(place).read_text()

    def test_a_line_per_set_for_the_best_model_measured_there(self, place: Workspace) -> None:
        enter(place, "second", 20, val_accuracy=0.8)
        enter(place, "second", 20, answered=False, **OTHER)
        enter(place, "frozen", 15, answered=False, **OTHER | {"also": "a"})
        (study,) = studies(place.results)
        lines = [line.split(" gets ")[0] for line in describe_others(study)]
        assert lines == ["On a (22 images), model 1", "On cinic (22 images), model 2"]
        assert describe_others(study)[0].endswith(
            "68.2% right: no difference against gel/test_images (68.2%), 95 % interval "
            "[\N{MINUS SIGN}26, 26] points, which chance alone can do"
        )

    def test_sets_of_another_training_set_stay_there(self, place: Workspace) -> None:
        enter(place, "frozen", 11, answered=False, **OTHER | {"dataset_fingerprint": "d2"})
        assert on_other_images(material(place)) == []


class TestLimits:
    def test_without_limits_nothing_is_said(self, place: Workspace) -> None:
        assert constrained(material(place)) is None

    def test_the_choice_against_the_best(self, place: Workspace) -> None:
        enter(place, "fast", 14, val_accuracy=0.8, latency_p50_ms=0.1)
        found = constrained(material(place, Limits(max_latency_ms=0.2)))
        assert found is not None
        assert [(r["which"], r["head_id"]) for r in found["rows"]] == [
            ("chosen", "fast"),
            ("best of all", "frozen"),
        ]
        assert "not distinguishable with 22 images" in found["words"]
        html = write_report(place, limits=Limits(max_latency_ms=0.2)).read_text()
        assert "Within 0.2 ms: model 2" in html

    def test_what_comes_nearest(self, place: Workspace) -> None:
        found = constrained(material(place, Limits(0.01, 0.01)))
        assert found is not None
        assert [r["which"] for r in found["rows"]] == ["fastest", "smallest", "best of all"]
        assert found["words"].startswith("No model fits within 0.01 ms and 0.01 MB")


class TestGroups:
    def test_the_first_five_of_each(self, place: Workspace) -> None:
        for number in range(7):
            for head in ("single", "multi"):
                values = {"classifier_head": head, "val_accuracy": number / 10}
                enter(place, f"{head}{number}", 12, answered=False, **values)
        found = best_of_groups(material(place))
        assert found is not None
        assert (found["names"], found["left_out"]) == (["head"], 0)
        assert [line["key"] for line in found["rows"]] == [("single",)] * 5 + [("multi",)] * 5
        ids = [line["row"]["head_id"] for line in found["rows"]]
        assert ids[:2] == ["frozen", "single6"]
        assert ids[IN_GROUP:] == ["multi6", "multi5", "multi4", "multi3", "multi2"]

    def test_few_models_or_one_group_need_none(self, place: Workspace) -> None:
        enter(place, "multi", 12, answered=False, classifier_head="multi")
        assert best_of_groups(material(place)) is None
        for number in range(12):
            enter(place, f"multi{number}", 12, answered=False, classifier_head="multi")
        assert best_of_groups(material(place)) is not None

    def test_many_groups_are_cut(self, place: Workspace) -> None:
        for number in range(30):
            enter(place, f"head{number}", 12, answered=False, classifier_head=f"h{number}")
        found = best_of_groups(material(place))
        assert found is not None
        assert found["left_out"] == 31 - MAX_GROUPS


def test_one_table_has_every_cost(place: Workspace) -> None:
    enter(place, "frozen", 15, val_accuracy=0.9, loss=0.4321, throughput='{"1": 50, "16": 400}')
    enter(place, "no-batches", 15, val_accuracy=0.8, loss=math.nan)
    found = trade_off(material(place))
    assert found is not None
    assert [(r["batch"], r["batch_ms"]) for r in found["rows"]] == [(16, 2.5), (None, None)]
    assert '<td class="n">0.4321</td>' in write_report(place).read_text()


def test_the_loss_is_the_cross_entropy_of_images_that_are_not_leaked() -> None:
    logits = np.random.default_rng(0).normal(size=(9, 3))
    labels, leaked = np.arange(9) % 2, np.arange(9) == 4
    keys = tuple(bytes([number]) * 32 for number in range(9))
    found = Predictions((Path("a.png"),) * 9, keys, labels, softmax(logits, axis=1), leaked)
    some = torch.tensor(logits[~leaked]), torch.tensor(labels[~leaked])
    assert scores(found, 1.0)["loss"] == round(cross_entropy(*some).item(), 6)
