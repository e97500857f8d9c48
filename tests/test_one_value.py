"""One figure has one value: in results.csv, on the terminal, on the page, on the model card."""

import re
from html import unescape

import pytest

from cache.store import Cache
from evaluate.export.model_card import Check, ModelFile, model_card
from evaluate.leaderboard import describe_best, studies
from evaluate.predict import find_model
from evaluate.ranking import ranked
from evaluate.report.context import gather, read_answers
from evaluate.report.page import write_report
from evaluate.report.sections.metrics import quality
from evaluate.results import Row
from evaluate.statistics.calibration import calibrated
from evaluate.workspace.layout import Workspace
from heads.store import head_path, read_head
from tests.reported import reported
from tests.test_calibration import reference_ece
from tests.test_model_card import FACTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, caches: dict[str, Cache]) -> Workspace:
    return reported(tmp_path_factory.mktemp("one"), [caches["cpu"]])


@pytest.fixture(scope="module")
def row(place: Workspace) -> Row:
    (study,) = studies(place.results)
    return study.best


@pytest.fixture(scope="module")
def page(place: Workspace) -> str:
    text = re.sub(r"<[^>]+>", "", write_report(place).read_text())
    return re.sub(r"\s+", " ", unescape(text))


@pytest.fixture(scope="module")
def card(place: Workspace, row: Row) -> str:
    answers = read_answers(row, place)
    assert answers
    info = read_head(head_path(place.heads, row["head_id"])).info
    return model_card(
        info, row, answers.clean, ModelFile("m.onnx", FACTS, Check(0, 8), "import x\nFILE")
    )


def test_calibration_error(place: Workspace, row: Row, page: str, card: str) -> None:
    """Before and after: by the reference, in the row, the text, the page's table, the card."""
    answers = read_answers(row, place)
    assert answers
    clean = answers.clean
    after = calibrated(clean.probabilities, row["temperature"])
    expected = [reference_ece(clean.labels, p) for p in (clean.probabilities, after)]
    assert [row["ece"], row["ece_calibrated"]] == pytest.approx(expected, abs=2e-6)
    (study,) = studies(place.results)
    shown = quality(gather(study, place))["calibration"]
    of_tables = [
        sum(b.count * abs(b.accuracy - b.confidence) for b in table["bins"]) / row["n_test"]
        for table in shown["tables"]
    ]
    assert of_tables == pytest.approx(expected, abs=1e-9)
    before, calibrated_error = (f"{100 * error:.1f}%" for error in expected)
    assert f"Expected calibration error {before}; {calibrated_error} after division" in page
    assert f"error is {expected[1]:.3f}; without it, {expected[0]:.3f}" in card


def test_accuracy_and_its_interval(place: Workspace, row: Row, page: str, card: str) -> None:
    (study,) = studies(place.results)
    low, high = study_interval(describe_best(study))
    assert f"{low} to {high}" in page
    found = re.search(r"\| accuracy \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|", card)
    assert found
    assert [f"{float(end):.0%}" for end in found.groups()[1:]] == [low, high]
    assert found[1] == f"{row['accuracy']:.3f}"
    assert f"{row['accuracy']:.1%}" in page


def study_interval(sentence: str) -> tuple[str, str]:
    found = re.search(r"95% interval (\d+%) to (\d+%)", sentence)
    assert found
    return found[1], found[2]


def test_other_scores(row: Row, page: str, card: str) -> None:
    for name in ("precision", "recall", "f1", "roc_auc"):
        assert f"| {name} | {row[name]:.3f} |" in card
        assert f"{row[name]:.3f}" in page


def test_the_first_model_is_the_same_everywhere(place: Workspace, row: Row, page: str) -> None:
    (study,) = studies(place.results)
    assert find_model(place, "best")[0] == str(row["model_id"])
    assert ranked(study.rows[::-1])[0]["model_id"] == row["model_id"]
    assert f"model #{row['model_id']}" in page
    assert f"Model {row['model_id']}," in describe_best(study)


def test_a_latency_is_its_median(place: Workspace) -> None:
    """Beside the bar of its stages too, whose medians add up to something else."""
    page = write_report(place).read_text()
    beside_bars = re.findall(r'<span class="value">([\d.]+) ms</span>', page)
    assert beside_bars
    for latency in beside_bars:
        assert f'<td class="n">{latency}</td>' in page
