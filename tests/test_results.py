"""`results.csv` and the predictions beside the heads: replaced, never doubled, never lost."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cache.errors import ResultsError
from evaluate.metrics import METRICS
from evaluate.predictions import Predictions, predictions_path, read_predictions, write_predictions
from evaluate.results import COLUMNS, add_result, matching, read_results
from tests import reported

pytestmark = pytest.mark.slow

REFERENCE = [
    "model_id",
    "hardware_type",
    "pretrained_model",
    "classifier_head",
    "opt_alg",
    "training_time_mins",
    "inference_time_secs",
    "accuracy",
    "precision",
    "recall",
    "conf_mat",
    "roc_auc",
]


def row(head: str, test: str = "t1", **values: Any) -> dict[str, Any]:
    return reported.row(head) | {
        "classes": '["gel", "NA"]',
        "accuracy": 0.5,
        "n_groups": 0,
        "test_fingerprint": test,
        **values,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "workspace" / "results.csv"


def test_the_reference_studys_twelve_columns_come_first(gel: Path) -> None:
    published = pd.read_csv(gel / "published_results.csv")
    assert list(COLUMNS)[:12] == REFERENCE == list(published.columns)


def test_every_metric_is_a_column() -> None:
    assert set(METRICS) <= set(COLUMNS)


def test_another_head_adds_and_the_same_replaces_under_its_number(path: Path) -> None:
    assert [add_result(path, row(head)) for head in ("a", "b", "c")] == [1, 2, 3]
    assert add_result(path, row("b", accuracy=0.9)) == 2
    table = read_results(path)
    assert table["model_id"].tolist() == [1, 2, 3]
    assert table["head_id"].tolist() == ["a", "b", "c"]
    assert table["accuracy"].tolist() == [0.5, 0.9, 0.5]


def test_another_test_set_adds_rows(path: Path) -> None:
    assert [add_result(path, row("a", test)) for test in ("t1", "t2", "t1")] == [1, 2, 1]
    assert matching(read_results(path), "a", "t2", "torch").tolist() == [False, True]


def test_an_independent_set_adds_a_row_even_of_the_same_images(path: Path) -> None:
    sets = ("-", "cinic", "scans", "cinic", "-")
    assert [add_result(path, row("a", also=also)) for also in sets] == [1, 2, 3, 2, 1]
    table = read_results(path)
    assert matching(table, "a", "t1", "torch").tolist() == [True, False, False]
    assert matching(table, "a", "t1", "torch", "scans").tolist() == [False, False, True]


def test_another_engine_adds_a_row(path: Path) -> None:
    engines = ("torch", "openvino", "torch")
    assert [add_result(path, row("a", engine=engine)) for engine in engines] == [1, 2, 1]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (",0.5,", ",66%,", "line 2: training_time_mins: '66%' is not a number"),
        ("[[10, 1], [0, 11]]", "[[10, 1", "line 2: conf_mat: Expecting"),
        (",imagenet,", ",,", "line 2: weights is empty"),
    ],
)
def test_what_was_edited_or_cut_short_is_named(path: Path, old: str, new: str, fault: str) -> None:
    add_result(path, row("a"))
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ResultsError, match=fault):
        read_results(path)


def test_numbers_come_back_as_numbers_and_names_as_names(path: Path) -> None:
    add_result(path, row("a", roc_auc=float("nan"), cached_difference=None, accuracy=21 / 22))
    table = read_results(path)
    assert table["accuracy"][0] == 21 / 22
    assert pd.isna(table["roc_auc"][0])
    assert pd.isna(table["cached_difference"][0])
    assert table["classes"][0] == '["gel", "NA"]'
    add_result(path, row("b"))
    assert read_results(path)["accuracy"][0] == 21 / 22


def test_a_fingerprint_of_digits_stays_text(path: Path) -> None:
    digits = "12345678901234e5"
    assert [add_result(path, row("a", digits)) for _ in range(3)] == [1, 1, 1]
    assert read_results(path)["test_fingerprint"].tolist() == [digits]


def test_a_column_that_the_user_added_stays(path: Path) -> None:
    add_result(path, row("a"))
    table = pd.read_csv(path)
    table["note"] = "the good one"
    table.to_csv(path, index=False)
    add_result(path, row("b"))
    assert pd.read_csv(path)["note"].tolist()[0] == "the good one"


def test_no_file_is_an_empty_table(path: Path) -> None:
    assert read_results(path).empty


@pytest.mark.parametrize("content", ["", "model_id,accuracy\n1,81.82%\n", '"open,\n1,2,3\n4'])
def test_a_foreign_or_damaged_file_is_left_alone(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ResultsError, match=r"results.csv.*Move it away"):
        add_result(path, row("a"))
    assert path.read_text() == content


def add_many(path: Path, name: str) -> None:
    for number in range(5):
        add_result(path, row(f"{name}{number}"))


def test_four_processes_at_once_lose_nothing(path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        list(pool.map(add_many, [path] * 4, "abcd"))
    table = read_results(path)
    assert sorted(table["model_id"]) == list(range(1, 21))
    assert table["head_id"].is_unique


class TestPredictions:
    CLASSES = ("gel", "not, gel", "NA")

    @pytest.fixture
    def written(self, tmp_path: Path) -> tuple[Path, Predictions]:
        predictions = Predictions(
            (Path("test/gel/a b.png"), Path('test/NA/ü".png')),
            (b"\0" * 32, b"\xff" * 32),
            np.array([0, 2]),
            np.array([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]]),
            np.array([False, True]),
        )
        path = predictions_path(tmp_path, "head", "test", "torch")
        write_predictions(path, predictions, self.CLASSES)
        return path, predictions

    def test_survive_the_file(self, written: tuple[Path, Predictions]) -> None:
        found = read_predictions(written[0], self.CLASSES)
        assert (found.paths, found.hashes) == (written[1].paths, written[1].hashes)
        assert np.array_equal(found.labels, written[1].labels)
        assert np.array_equal(found.probabilities, written[1].probabilities)
        assert found.leaked.tolist() == [False, True]
        assert found.clean.paths == written[1].paths[:1]

    def test_of_other_classes_are_refused(self, written: tuple[Path, Predictions]) -> None:
        with pytest.raises(ResultsError, match="Run evaluate again"):
            read_predictions(written[0], ("gel", "cat"))
