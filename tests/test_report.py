"""The report: ranked on validation, honest, self-contained, escaped, a pure function of files."""

import json
import re
import shutil
from hashlib import sha256
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cache.errors import ResultsError
from cache.store import Cache
from evaluate.predictions import Predictions, predictions_path, write_predictions
from evaluate.report import cautions, describe_best, studies, write_report
from evaluate.results import COLUMNS, TEXT, add_result
from evaluate.terminal import ranked_table
from evaluate.workspace import Workspace
from tests.conftest import ROOT

EVIL = "<script>alert(1)</script>"


def row(head: str, **values: Any) -> dict[str, Any]:
    return {name: "x" if name in TEXT else 0.5 for name in list(COLUMNS)[1:]} | {
        "hardware_type": "cpu",
        "pretrained_model": "resnet18",
        "classifier_head": "single",
        "opt_alg": "adam",
        "accuracy": 21 / 22,
        "conf_mat": "[[10, 1], [0, 11]]",
        "classes": json.dumps(["gel", EVIL]),
        "dataset": "gel/dataset",
        "test": "gel/test_images",
        "dataset_fingerprint": "d1",
        "test_fingerprint": "t1",
        "n_training": 74,
        "n_validation": 18,
        "n_test": 22,
        "cached_difference": 1e-6,
        "n_leaked": 0,
        "n_unreadable": 0,
        "weights": "imagenet",
        "engine": "torch",
        "numeric_precision": "fp32",
        "seed": 0,
        "evaluated_at": "2026-01-01T00:00:00+00:00",
        "head_id": head,
        **values,
    }


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    place = Workspace(tmp_path)
    add_result(place.results, row("best-on-test", accuracy=1.0, val_accuracy=0.8))
    add_result(place.results, row("best-on-validation", val_accuracy=0.9, val_loss=0.1))
    add_result(place.results, row("less-sure", val_accuracy=0.9, val_loss=0.2))
    return place


def predict(place: Workspace, head: str) -> None:
    """Add the best model, tested on two images whose names try to be markup."""
    two = {"n_test": 2, "conf_mat": "[[1, 0], [1, 0]]", "val_accuracy": 0.9, "val_loss": 0.1}
    add_result(place.results, row(head, **two))
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
    )
    path = predictions_path(place.heads, head, "t1", "torch")
    write_predictions(path, predictions, ["gel", EVIL])


class Page(HTMLParser):
    """Gathers a page's tags, links and table rows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_ranked_on_validation_never_on_test(place: Workspace) -> None:
    (study,) = studies(place.results)
    assert [r["head_id"] for r in study.rows] == ["best-on-validation", "less-sure", "best-on-test"]
    assert describe_best(study) == (
        "Model 2, resnet18 on cpu, single head, adam: 21 of 22 test images right "
        "(95.5%, 95% interval 78% to 99%)"
    )


def test_an_untrained_backbone_is_never_the_best_of_trained_ones(place: Workspace) -> None:
    add_result(place.results, row("lucky", val_accuracy=1.0, weights="random:0"))
    (study,) = studies(place.results)
    assert study.best["head_id"] == "best-on-validation"
    assert study.rows[-1]["head_id"] == "lucky"


def test_the_data_set_measured_last_comes_first(place: Workspace) -> None:
    late = {"dataset_fingerprint": "d2", "evaluated_at": "2026-02-01T00:00:00+00:00"}
    add_result(place.results, row("late", **late))
    assert [s.best["head_id"] for s in studies(place.results)] == ["late", "best-on-validation"]


def test_what_must_be_known_is_said(place: Workspace) -> None:
    add_result(place.results, row("worse", n_leaked=1, n_unreadable=2, val_accuracy=1.0))
    add_result(place.results, row("random", weights="random:0"))
    text = "\n".join(cautions(studies(place.results)[0]))
    for part in (
        "RANDOM weights",
        "1 of 22 test images lie in the training",
        "2 test images could",
    ):
        assert part in text
    assert "no evidence that one model is better" in text


def test_a_class_without_test_images_is_said(place: Workspace) -> None:
    absent = {"conf_mat": "[[22, 0], [0, 0]]", "val_accuracy": 1.0, "roc_auc": float("nan")}
    add_result(place.results, row("absent", **absent))
    assert "There is no test image of <script>" in cautions(studies(place.results)[0])[0]
    write_report(place)


def test_many_classes_with_odd_names_make_a_report(place: Workspace) -> None:
    classes = [f"${number}$ 50% _^{{" for number in range(120)]
    matrix = np.eye(120, dtype=int).tolist()
    many = {"classes": json.dumps(classes), "conf_mat": json.dumps(matrix), "n_test": 120}
    add_result(place.results, row("many", val_accuracy=1.0, **many))
    path = predictions_path(place.heads, "many", "t1", "torch")
    picture = place.root / "a.png"
    hashes = tuple(bytes([n]) * 32 for n in range(120))
    write_predictions(
        path, Predictions((picture,) * 120, hashes, np.arange(120), np.eye(120)), classes
    )
    assert "120 of 120 test images right" in write_report(place).read_text()


def test_predictions_cut_short_are_not_believed(place: Workspace) -> None:
    predict(place, "best-on-validation")
    path = predictions_path(place.heads, "best-on-validation", "t1", "torch")
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(ResultsError, match="cut short: run evaluate again"):
        write_report(place)


def test_rows_that_look_alike_say_in_what_they_differ(place: Workspace) -> None:
    add_result(place.results, row("other", learning_rate=0.01, seed=3, val_accuracy=1.0))
    (study,) = studies(place.results)
    assert [study.settings(r) for r in study.rows[:2]] == ["lr 0.01, seed 3", "lr 0.5, seed 0"]
    assert "Not all models were validated on the same images" in "".join(cautions(study))
    assert "lr 0.01, seed 3" in write_report(place).read_text()


def test_a_model_that_left_its_embeddings_is_named(place: Workspace) -> None:
    add_result(place.results, row("off", cached_difference=0.098))
    text = "".join(cautions(studies(place.results)[0]))
    assert "Model 4 answers otherwise than on its cached embeddings" in text


@pytest.mark.parametrize(("width", "shown"), [(80, 7), (200, 12)])
def test_the_table_fits_the_terminal(place: Workspace, width: int, shown: int) -> None:
    table = ranked_table(studies(place.results)[0], width)
    assert len(table.columns) == shown
    text = StringIO()
    Console(width=width, file=text).print(table)
    assert "resnet18" in text.getvalue()
    assert "…" not in text.getvalue()


def test_nothing_is_fetched_and_nothing_runs(place: Workspace) -> None:
    predict(place, "best-on-validation")
    html = write_report(place).read_text()
    page = Page(html)
    assert "script" not in page.tags
    assert page.links
    assert all(link.startswith("data:") for link in page.links)
    assert not re.search(r"@import|url\(", html)
    assert EVIL not in html
    assert "&lt;script&gt;" in html


def test_every_section_is_there(place: Workspace) -> None:
    predict(place, "best-on-validation")
    page = Page(write_report(place).read_text())
    assert page.tags.count("tr") == 4
    assert sum(link.startswith("data:image/svg") for link in page.links) == 3
    assert sum(link.startswith("data:image/webp") for link in page.links) == 2


def test_the_same_files_give_the_same_bytes(place: Workspace) -> None:
    predict(place, "best-on-validation")
    first = write_report(place).read_bytes()
    place.report.unlink()
    assert write_report(place).read_bytes() == first


def test_a_results_file_alone_is_enough(place: Workspace) -> None:
    assert "What it said" not in write_report(place).read_text()


def test_an_image_that_is_gone_leaves_its_words(place: Workspace) -> None:
    predict(place, "best-on-validation")
    shutil.rmtree(place.root / "images")
    assert "moved or changed since" in write_report(place).read_text()


def test_an_image_that_was_replaced_is_not_shown_for_the_old_one(place: Workspace) -> None:
    predict(place, "best-on-validation")
    Image.new("L", (9, 9), 200).save(place.root / "images" / "b.png")
    assert write_report(place).read_text().count("moved or changed since") == 1


def test_it_says_what_the_embeddings_cost(place: Workspace, caches: dict[str, Cache]) -> None:
    folder = caches["cpu"].folder
    shutil.copytree(folder, place.cache / folder.name)
    html = write_report(place).read_text()
    assert f"{folder.name}: 114 images by openvino, " in html
    assert "compute-bound" in html
    (segment,) = (place.cache / folder.name).glob("*.h5")
    segment.write_bytes(b"x")
    assert f"{segment.name} can&#39;t be used" in write_report(place).read_text()


def test_no_results_yet(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no results yet: run evaluate"):
        write_report(Workspace(tmp_path))


def test_the_committed_results_make_a_report(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    shutil.copy(ROOT / "results.csv", place.results)
    assert Page(write_report(place).read_text()).tags.count("tr") == 33
