"""The report: ranked on validation, honest, self-contained, escaped, a pure function of files."""

import json
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cache.errors import ResultsError
from cache.store import Cache
from cache.tables import write_checksum
from evaluate.constraints import Limits
from evaluate.leaderboard import cautions, confusions, describe_best, describe_confusions, studies
from evaluate.predictions import Predictions, predictions_path, write_predictions
from evaluate.report.context import DRAWN
from evaluate.report.page import SECTIONS, write_report
from evaluate.report.sections.leaderboard import MAX_ROWS
from evaluate.results import add_result, read_results
from evaluate.workspace.layout import Workspace
from frostline.cli.console import ranked_table
from tests.conftest import ROOT
from tests.reported import EVIL, enter_whole, reported, row

pytestmark = pytest.mark.slow

LIMITS = Limits(max_latency_ms=8, max_size_mb=15)
WITH_RESULTS_ALONE = [
    *("ranking", "tradeoff", "modes", "elsewhere", "quality", "costs", "provenance"),
]


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A workspace of which only `results.csv` was handed on."""
    place = Workspace(tmp_path)
    add_result(place.results, row("best-on-test", accuracy=1.0, val_accuracy=0.8))
    add_result(place.results, row("best-on-validation", val_accuracy=0.9, val_calibrated_loss=0.1))
    add_result(place.results, row("less-sure", val_accuracy=0.9, val_calibrated_loss=0.2))
    return place


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, caches: dict[str, Cache]) -> Workspace:
    place = reported(tmp_path_factory.mktemp("made"), caches.values())
    enter_whole(place)
    return place


@pytest.fixture(scope="module")
def html(made: Workspace, gel: Path) -> str:
    return write_report(made, gel / "published_results.csv", LIMITS).read_text()


@pytest.fixture
def whole(made: Workspace, tmp_path: Path) -> Workspace:
    """A workspace with everything that a report is made of, to be damaged."""
    shutil.copytree(made.root, tmp_path / "whole")
    return Workspace(tmp_path / "whole")


class Page(HTMLParser):
    """Gathers a page's tags, links, ids and the rows of its table of models."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    @property
    def sections(self) -> list[str]:
        """The sections of the first study."""
        named = [name.removeprefix("s1-") for name in self.ids if name.startswith("s1-")]
        return [name for name in named if name in SECTIONS]


class TestRanking:
    def test_by_validation_never_by_test(self, place: Workspace) -> None:
        (study,) = studies(place.results)
        ids = [r["head_id"] for r in study.rows]
        assert ids == ["best-on-validation", "less-sure", "best-on-test"]
        assert describe_best(study) == (
            "Model 2, resnet18 on cpu, single head, adam: 21 of 22 test images right "
            "(95.5%, 95% interval 78% to 99%)"
        )

    def test_an_untrained_backbone_is_never_the_best_of_trained_ones(
        self, place: Workspace
    ) -> None:
        add_result(place.results, row("lucky", val_accuracy=1.0, weights="random:0"))
        (study,) = studies(place.results)
        assert study.best["head_id"] == "best-on-validation"
        assert study.rows[-1]["head_id"] == "lucky"

    def test_the_data_set_measured_last_comes_first(self, place: Workspace) -> None:
        late = {"dataset_fingerprint": "d2", "evaluated_at": "2026-02-01T00:00:00+00:00"}
        add_result(place.results, row("late", **late))
        found = [s.best["head_id"] for s in studies(place.results)]
        assert found == ["late", "best-on-validation"]
        assert Page(write_report(place).read_text()).ids.count("s2-ranking") == 1

    def test_rows_that_look_alike_say_in_what_they_differ(self, place: Workspace) -> None:
        add_result(place.results, row("other", learning_rate=0.01, seed=3, val_accuracy=1.0))
        (study,) = studies(place.results)
        assert [study.settings(r) for r in study.rows[:2]] == ["lr 0.01, seed 3", "lr 0.5, seed 0"]
        assert "Not all models were validated on the same images" in "".join(cautions(study))
        assert "lr 0.01, seed 3" in write_report(place).read_text()

    def test_rows_of_another_kind_say_nothing_of_what_these_have_not(
        self, place: Workspace
    ) -> None:
        none = dict.fromkeys(("learning_rate", "momentum", "epochs"), float("nan"))
        fitted = {"classifier_head": "ridge", "opt_alg": "none", **none}
        add_result(place.results, row("fitted", **fitted))
        add_result(place.results, row("stronger", weight_decay=10.0, **fitted))
        (study,) = studies(place.results)
        said = {r["head_id"]: study.settings(r) for r in study.rows}
        assert said["best-on-validation"] == ""
        assert said["stronger"] == "decay 10"

    @pytest.mark.parametrize(("width", "shown"), [(80, 7), (200, 12)])
    @pytest.mark.parametrize("mode", ["frozen", "finetune"])
    def test_the_table_fits_the_terminal(
        self, place: Workspace, width: int, shown: int, mode: str
    ) -> None:
        add_result(place.results, row("other", mode=mode))
        shown += mode != "frozen"
        table = ranked_table(studies(place.results)[0], width)
        assert len(table.columns) == shown
        text = StringIO()
        Console(width=width, file=text).print(table)
        assert "resnet18" in text.getvalue()
        assert "…" not in text.getvalue()


class TestCautions:
    def test_what_must_be_known_is_said(self, place: Workspace) -> None:
        worse = {"n_leaked": 1, "accuracy_with_leaked": 0.957, "n_unreadable": 2}
        add_result(place.results, row("worse", val_accuracy=1.0, **worse))
        add_result(place.results, row("random", weights="random:0"))
        text = "\n".join(cautions(studies(place.results)[0]))
        for part in (
            "RANDOM weights",
            "being copies or near duplicates of training images: 1 of 23 test images",
            "(with them, accuracy would be 95.7%)",
            "2 test images could",
        ):
            assert part in text
        assert "no evidence that one model is better" in text

    def test_a_class_without_test_images(self, place: Workspace) -> None:
        absent = {"conf_mat": "[[22, 0], [0, 0]]", "val_accuracy": 1.0, "roc_auc": float("nan")}
        add_result(place.results, row("absent", **absent))
        assert "There is no test image of <script>" in cautions(studies(place.results)[0])[0]
        write_report(place)

    def test_a_model_that_left_its_embeddings_is_named(self, place: Workspace) -> None:
        add_result(place.results, row("off", cached_difference=0.098))
        text = "".join(cautions(studies(place.results)[0]))
        assert "Model 4 answers otherwise than on its cached embeddings" in text


class TestConfusions:
    def test_the_most_frequent_mistakes_are_named(self) -> None:
        matrix = [[90, 4, 6, 0], [33, 160, 0, 7], [1, 0, 9, 0], [0, 41, 0, 1159]]
        animals = {"classes": '["ape", "cat", "<b>", "dog"]', "conf_mat": json.dumps(matrix)}
        assert describe_confusions(row("a", **animals)) == (
            "Most confused: 41 of 1,200 dog taken for cat; 33 of 200 cat taken for ape; "
            "7 of 200 cat taken for dog"
        )
        assert [each[2] for each in confusions(row("a", **animals))] == [41, 33, 7, 6, 4, 1]

    def test_of_two_classes_and_of_none(self, place: Workspace) -> None:
        (study,) = studies(place.results)
        assert describe_confusions(study.best) == f"Most confused: 1 of 11 gel taken for {EVIL}"
        assert (
            "Most confused: 1 of 11 gel taken for &lt;script&gt;" in write_report(place).read_text()
        )
        assert describe_confusions(row("a", conf_mat="[[11, 0], [0, 11]]")) == ""


class TestWhole:
    def test_every_section_is_there(self, html: str) -> None:
        assert Page(html).sections == list(SECTIONS)
        for words in (
            "not distinguishable with 21 images",
            "What each choice is worth",
            "left out as leaked",
            "Over seeds",
            "What contributed to the prediction",
            "efficientnet_lite0, cpu and xla-cpu: embeddings of 22 images differ by at most",
            "how far the nearest training image is",
            "It flags 80% of the errors and 5% of the right answers",
            "Expected calibration error",
            "groups of training images that show the same",
            "114 images by openvino",
            "compute-bound",
            "mobilenet_v3_large",
            "Within 8 ms and 15 MB: model",
            "Most confused: 1 of ",
            "On old scanner (21 images), model",
            "The 5 best of each group, by head, optimizer, mode, device",
            "Training took 31.0 minutes, against",
        ):
            assert words in html, words

    def test_a_results_file_alone_is_enough(self, whole: Workspace) -> None:
        for folder in (whole.cache, whole.heads, whole.audits):
            shutil.rmtree(folder)
        html = write_report(whole).read_text()
        assert Page(html).sections == WITH_RESULTS_ALONE
        assert "data:image" not in html

    def test_what_was_not_measured_is_left_out(self, place: Workspace) -> None:
        nan = float("nan")
        for head in ("best-on-test", "best-on-validation", "less-sure"):
            add_result(place.results, row(head, latency_p50_ms=nan, size_mib=nan, ece=nan))
        assert Page(write_report(place).read_text()).sections == [
            "ranking",
            "quality",
            "provenance",
        ]

    def test_the_same_files_give_the_same_bytes(
        self, html: str, made: Workspace, gel: Path
    ) -> None:
        assert write_report(made, gel / "published_results.csv", LIMITS).read_text() == html
        code = (
            "import sys; from pathlib import Path; from evaluate.constraints import Limits; "
            "from evaluate.report.page import write_report; "
            "from evaluate.workspace.layout import Workspace; "
            "write_report(Workspace(Path(sys.argv[1])), Path(sys.argv[2]), Limits(8, 15))"
        )
        subprocess.run(
            [sys.executable, "-c", code, made.root, gel / "published_results.csv"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1", "TZ": "Asia/Tokyo"},
            check=True,
        )
        assert made.report.read_text() == html

    def test_nothing_is_fetched_and_only_our_script_runs(self, html: str) -> None:
        page = Page(html)
        assert page.tags.count("script") == 1
        assert len(page.links) > 50
        assert all(link.startswith(("data:", "#")) for link in page.links)
        assert not re.search(r"@import|url\(|https?://", html)
        assert len(page.ids) == len(set(page.ids))
        assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))

    def test_paths_stay_at_home(self, html: str, made: Workspace) -> None:
        assert str(ROOT) not in html
        assert str(made.root) not in html

    def test_it_stays_small(self, html: str) -> None:
        assert len(html) < 1_000_000


@pytest.mark.parametrize(
    "pattern",
    [
        *("heads/*.csv", "heads/*.safetensors", "heads/*.maps.npz", "heads/*.doubt.json"),
        *("heads/*.doubt.npz", "audit/*.json", "cache/*-xla-cpu-*/*.h5"),
    ],
)
def test_files_that_can_t_be_used_are_named_and_left_out(pattern: str, whole: Workspace) -> None:
    damaged = [path for path in whole.root.glob(pattern) if path.name != "trials.csv"]
    for path in damaged:
        path.write_bytes(b"x")
    told = list[str]()
    html = write_report(whole, remark=told.append).read_text()
    assert told
    assert all(any(str(path) in line for path in damaged) for line in told)
    assert Page(html).sections[0] == "ranking"
    assert html.count("Left out: ") >= min(len(told), 5)
    assert str(whole.root) not in html


def test_damaged_results_stop_it(whole: Workspace) -> None:
    whole.results.write_bytes(b"x")
    with pytest.raises(ResultsError, match=r"results\.csv"):
        write_report(whole)


def test_predictions_cut_short_are_not_believed(whole: Workspace) -> None:
    for path in whole.heads.glob("*.openvino.csv"):
        path.write_text("\n".join(path.read_text().splitlines()[:-1]))
        write_checksum(path)
    told = list[str]()
    write_report(whole, remark=told.append)
    assert told
    assert all("it is cut short. Run evaluate again." in line for line in told)


@pytest.fixture
def pictured(place: Workspace) -> Workspace:
    """Add the best model, tested on two images whose names try to be markup."""
    two = {"n_test": 2, "conf_mat": "[[1, 0], [1, 0]]", "val_accuracy": 0.9}
    add_result(place.results, row("best-on-validation", val_calibrated_loss=0.1, **two))
    folder = place.root / "images"
    folder.mkdir()
    paths = (folder / f"a{EVIL.replace('/', '')}.png", folder / "b.png")
    for path in paths:
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    predictions = Predictions(
        paths,
        tuple(sha256(path.read_bytes()).digest() for path in paths),
        np.array([0, 1]),
        np.array([[0.9, 0.1], [0.6, 0.4]]),
        np.array([False, False]),
    )
    path = predictions_path(place.heads, "best-on-validation", "t1", "torch")
    path.parent.mkdir()
    write_predictions(path, predictions, ["gel", EVIL])
    return place


def test_names_are_text_never_markup(pictured: Workspace) -> None:
    html = write_report(pictured).read_text()
    assert EVIL not in html
    assert "&lt;script&gt;" in html
    assert Page(html).tags.count("script") == 1


def test_an_image_that_is_gone_leaves_its_words(pictured: Workspace) -> None:
    assert "moved or changed since" not in write_report(pictured).read_text()
    shutil.rmtree(pictured.root / "images")
    assert write_report(pictured).read_text().count("moved or changed since") == 2


def test_an_image_that_was_replaced_is_not_shown_for_the_old_one(pictured: Workspace) -> None:
    Image.new("L", (9, 9), 200).save(pictured.root / "images" / "b.png")
    assert "moved or changed since" in write_report(pictured).read_text()


def test_many_classes_with_odd_names_make_a_report(place: Workspace) -> None:
    classes = [f"${number}$ 50% _^{{" for number in range(120)]
    matrix = np.eye(120, dtype=int)
    matrix[7] = np.roll(matrix[7], 1)
    many = {"classes": json.dumps(classes), "conf_mat": json.dumps(matrix.tolist()), "n_test": 120}
    add_result(place.results, row("many", val_accuracy=1.0, **many))
    path = predictions_path(place.heads, "many", "t1", "torch")
    path.parent.mkdir()
    hashes = tuple(bytes([n]) * 32 for n in range(120))
    answers = Predictions(
        (place.root / "a.png",) * 120,
        hashes,
        np.arange(120),
        matrix.astype(float),
        np.zeros(120, bool),
    )
    write_predictions(path, answers, classes)
    html = write_report(place).read_text()
    assert "119 of 120 test images right" in html
    assert "The 8 classes of the smallest area, of 120" in html
    assert ">$8$ 50% _^{: area 0.996</li>" in html
    assert "<td>$7$ 50% _^{</td><td>$8$ 50% _^{</td>" in html


def test_many_models_are_all_in_the_table_and_few_in_the_charts(place: Workspace) -> None:
    table = read_results(place.results)
    some = table.loc[table.index.repeat(100)].reset_index(drop=True)
    some["model_id"] = range(1, 301)
    some["checksum"] = ""
    some.to_csv(place.results, index=False)
    html = write_report(place).read_text()
    assert html.count("<tr data-backbone") + html.count('<tr class="best" data-backbone') == 300
    assert html.count('<i class="fill') == DRAWN
    assert f"The first {DRAWN} models; {300 - DRAWN} further" in html
    assert f"The first {MAX_ROWS} models; {300 - MAX_ROWS} further" in html
    assert len(html) < 1_000_000


def test_published_results_of_other_classes_stand_beside_nothing(
    place: Workspace, gel: Path
) -> None:
    three = {"classes": '["a", "b", "c"]', "conf_mat": "[[22, 0, 0], [0, 0, 0], [0, 0, 0]]"}
    for head in ("best-on-test", "best-on-validation", "less-sure"):
        add_result(place.results, row(head, **three))
    assert "published" not in Page(write_report(place).read_text()).sections
    (place.root / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ResultsError, match=r"other\.csv is no table of published results"):
        write_report(place, place.root / "other.csv")


def test_no_results_yet(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no results yet: run evaluate"):
        write_report(Workspace(tmp_path))


def test_the_committed_results_make_a_report(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    shutil.copy(ROOT / "results.csv", place.results)
    assert Page(write_report(place).read_text()).sections[0] == "ranking"
