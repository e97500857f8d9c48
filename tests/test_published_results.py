"""Published results, read as they are published, and what of them can be compared."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from cache.errors import ResultsError
from evaluate.report.published_results import comparable, ours, read_published, with_leaked
from tests.reported import row


@pytest.fixture
def table(gel: Path) -> pd.DataFrame:
    return pd.read_csv(gel / "published_results.csv", dtype=str)


def written(table: pd.DataFrame, folder: Path) -> Path:
    table.to_csv(folder / "published.csv", index=False)
    return folder / "published.csv"


def test_the_reference_studys_table_is_read_by_our_names(gel: Path) -> None:
    found = read_published(gel / "published_results.csv")
    assert len(found) == 24
    assert {each.device for each in found} == {"cpu", "cuda"}
    assert {each.backbone for each in found} == {"resnet18", "vgg16", "mobilenet_v3_large"}
    assert found[0].accuracy == pytest.approx(0.8182)
    assert found[0].training_mins == pytest.approx(5.8778, abs=1e-4)
    for each in found:
        assert each.images == 22
        assert each.accuracy == pytest.approx(each.right / 22, abs=5e-5)


def test_shares_may_be_fractions(table: pd.DataFrame, tmp_path: Path) -> None:
    table["accuracy"] = "0.5"
    assert read_published(written(table, tmp_path))[3].accuracy == 0.5


def test_a_file_that_is_no_such_table_is_named(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"absent\.csv does not exist"):
        read_published(tmp_path / "absent.csv")
    with pytest.raises(ResultsError, match=r"published\.csv is no table .* lacks .*accuracy, conf"):
        read_published(written(table.drop(columns=["accuracy", "conf_mat"]), tmp_path))
    with pytest.raises(ResultsError, match=r"published\.csv has no row"):
        read_published(written(table[:0], tmp_path))


@pytest.mark.parametrize(
    ("column", "value"),
    [("accuracy", "good"), ("conf_mat", "[[1, 2], [3]]"), ("conf_mat", "7"), ("conf_mat", "x")],
)
def test_a_damaged_row_is_named(
    column: str, value: str, table: pd.DataFrame, tmp_path: Path
) -> None:
    table.loc[2, column] = value
    with pytest.raises(ResultsError, match=r"published\.csv, row 3: "):
        read_published(written(table, tmp_path))


def test_ours_is_of_the_same_kind_and_the_first_ranked(gel: Path) -> None:
    published = read_published(gel / "published_results.csv")
    rows = [row("a", classifier_head="multi"), row("b"), row("c"), row("d", opt_alg="sgd")]
    found = [ours(each, rows) for each in published[:4]]
    assert [each and each["head_id"] for each in found] == ["b", "d", "a", None]
    assert ours(published[12], rows) is None  # on a GPU


def test_what_cannot_be_compared_is_said(gel: Path) -> None:
    published = read_published(gel / "published_results.csv")
    same = "\n".join(comparable(published, [row("a", n_test=21, n_leaked=1)]))
    assert "both were tested on 22 images" in same
    assert "1 of 22" in same
    assert "ROC AUC: not comparable" in same
    other = "\n".join(comparable([replace(published[0], roc_auc=0.9)], [row("a", n_test=50)]))
    assert "tested on 22 images, ours on 50: they are not the same" in other
    assert "ROC AUC" not in other
    assert "Left out" not in other


def test_accuracy_with_leaked_is_known_or_not() -> None:
    nan = float("nan")
    assert with_leaked(row("a", accuracy_with_leaked=0.9, n_leaked=1)) == 0.9
    assert with_leaked(row("a", accuracy_with_leaked=nan, accuracy=0.8)) == 0.8
    assert with_leaked(row("a", accuracy_with_leaked=nan, n_leaked=1)) is None
