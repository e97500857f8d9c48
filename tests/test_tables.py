"""CSV files: any text comes back exactly, and what a spreadsheet saved is read or refused alike."""

import csv
import os
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import Failure, ResultsError
from cache.tables import RISKY, TableError, neutral, parse_table, restored, table_text
from evaluate.leaderboard import studies
from evaluate.predict import Prediction, as_csv, find_model
from evaluate.predictions import Predictions, read_predictions, write_predictions
from evaluate.results import add_result, read_results, read_rows
from evaluate.workspace.failures import write_failures
from evaluate.workspace.layout import Workspace
from extract.sources.csv_manifest import Row, read_list, rows_of, write_list, write_rows
from extract.sources.image_file import ImageFile
from heads.config import HeadConfig
from heads.search.trials import CALIBRATED, MEASURED, add_trials, read_trials
from tests.reported import row

EVIL = ("\r", "a\r\nb", "\n", '"', '"a"', "\t", ",;", " x ", "=1+1", "+1", "-1", "@a", "\tx", "\rx",
        "'=", "''-", "-", "\u2028", "\x85", "\ufeff", os.fsdecode(b"n\xe9"), "1e10", "TRUE",
        "007", "2026-01-01", "a" * 200_000)  # fmt: skip
# Every name that a file can have: no NUL, no slash, any bytes.
names = st.one_of(
    st.sampled_from(EVIL),
    st.binary(min_size=1, max_size=12)
    .filter(lambda it: not {0, 47} & {*it} and it not in (b".", b".."))
    .map(os.fsdecode),
)


def through_results(name: str, folder: Path) -> str:
    add_result(folder / "results.csv", row("a", dataset=name))
    add_result(folder / "results.csv", row("b"))  # rewrites the first
    (first, _), table = read_rows(folder / "results.csv"), read_results(folder / "results.csv")
    assert table["dataset"][0] == first["dataset"]
    return str(first["dataset"])


def through_trials(name: str, folder: Path) -> str:
    trial = vars(HeadConfig("single", "adam")) | dict.fromkeys((*MEASURED, CALIBRATED), 0.5)
    trial |= {
        CALIBRATED: 0.4,
        "cache": "c",
        "n_groups": 0,
        "epoch": 1,
        "diverged": 0,
        "seconds": 0.1,
    }
    for number in ("1", "2"):
        add_trials(folder / "trials.csv", {number: trial | {"dataset": name}})
    (first, second) = read_trials(folder / "trials.csv")["dataset"]
    assert first == second
    return str(first)


def through_predictions(name: str, folder: Path) -> str:
    one = np.ones(1)
    said = Predictions((Path(name),), (b"h" * 32,), one.astype(int) * 0, one[:, None], one > 2)
    write_predictions(folder / "p.csv", said, [name])
    found = read_predictions(folder / "p.csv", [name])
    assert found.labels.tolist() == [0]
    return str(found.paths[0])


def through_a_list(name: str, folder: Path) -> str:
    image = folder / f"{name}.png"
    if len(os.fsencode(name)) < 250:  # blanks around a path are kept where such a file is
        image.touch()
    write_list(folder / "l.csv", [ImageFile(image, "a", b"")])
    ((_, path),) = read_list(folder / "l.csv")
    return str(Path(path).relative_to(folder)).removesuffix(".png")


def through_rows(name: str, folder: Path) -> str:
    if len(os.fsencode(name)) < 250:
        (folder / f"{name}.png").touch()
    write_rows(folder / "l.csv", [Row("a", f"{name}.png", bytes(32))])
    (found,) = rows_of(folder / "l.csv")
    return str(Path(found.path).relative_to(folder)).removesuffix(".png")


def through_answers(name: str, folder: Path) -> str:
    text = as_csv([Prediction(name, "a", {"a": 1.0})], ["a"])
    (found,) = csv.DictReader(StringIO(text, newline=""))
    return str(Path(found["path"]))


def through_failures(name: str, folder: Path) -> str:
    write_failures(folder / "f.csv", [Failure(bytes(32), name, "broken")])
    table = parse_table((folder / "f.csv").read_bytes(), ("path",))
    return str(Path(table.rows[0]["path"]))


PAIRS = [through_results, through_trials, through_predictions, through_a_list, through_rows,
         through_answers, through_failures]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.__name__)
@settings(max_examples=25, deadline=None)
@given(names)
def test_any_file_name_comes_back_from_every_table(
    pair: Callable[[str, Path], str], name: str
) -> None:
    with TemporaryDirectory() as folder:
        assert pair(name, Path(folder).resolve()) == name


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.__name__)
def test_evil_names_come_back(pair: Callable[[str, Path], str], tmp_path: Path) -> None:
    found = {}
    for number, name in enumerate(EVIL):
        (tmp_path / str(number)).mkdir()
        found[name] = pair(name, tmp_path / str(number))
    assert found == dict(zip(EVIL, EVIL, strict=True))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(names, min_size=2, max_size=2), min_size=1))
def test_any_cells_come_back(rows: list[list[str]]) -> None:
    content = table_text(("a", "b"), rows).encode("utf-8", "surrogateescape")
    assert [[*it.values()] for it in parse_table(content, ("a", "b")).rows] == rows


@settings(deadline=None)
@given(st.one_of(names, st.text()))
def test_what_a_spreadsheet_would_execute_is_neutralised_and_comes_back(text: str) -> None:
    assert restored(neutral(text)) == text
    assert neutral(text) == "-" or not neutral(text).startswith(tuple(RISKY))


def test_nothing_in_answers_and_failures_is_a_formula_and_numbers_stay(tmp_path: Path) -> None:
    bad = '=HYPERLINK("http://x")'
    said = [Prediction(bad, bad, {bad: 1.0}, True, -0.5), Prediction("-x.png", error=bad)]
    write_failures(tmp_path / "failures.csv", [Failure(bytes(32), bad, "@bad")])
    for text in (as_csv(said, [bad]), (tmp_path / "failures.csv").read_text()):
        cells = [cell for line in csv.reader(StringIO(text)) for cell in line]
        risky = [cell for cell in cells if cell.startswith(tuple(RISKY))]
        assert set(risky) <= {"-0.5"}
    first, second = csv.DictReader(StringIO(as_csv(said, [bad])))
    assert (first["path"], first["label"], first["doubt_score"]) == (f"./{bad}", f"'{bad}", "-0.5")
    assert (second["path"], second["error"]) == ("./-x.png", f"'{bad}")


def test_a_confusion_matrix_of_many_classes_is_no_damage(tmp_path: Path) -> None:
    n = 400
    matrix = str([[int(i == j) for j in range(n)] for i in range(n)])
    labels = str([f"c{i}" for i in range(n)]).replace("'", '"')
    add_result(tmp_path / "results.csv", row("a", conf_mat=matrix, classes=labels, n_test=n))
    assert len(read_rows(tmp_path / "results.csv")[0]["conf_mat"]) > 400_000


class TestSpreadsheets:
    """A results.csv as LibreOffice or Excel saves it. What loses nothing is read."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Workspace:
        for number, fingerprint in enumerate(("1e10000000000000", "0012345678901234")):
            values = {"test_fingerprint": fingerprint, "accuracy": 21 / 22, "nesterov": 1}
            add_result(tmp_path / "results.csv", row(f"h{number}", dataset="gelé", **values))
        return Workspace(tmp_path)

    @pytest.mark.parametrize(
        "style",
        [
            {"lineterminator": "\r\n"},
            {"lineterminator": "\r\n", "delimiter": ";"},
            {"lineterminator": "\r\n", "delimiter": "\t"},
            {"lineterminator": "\r"},
            {"lineterminator": "\n", "quoting": csv.QUOTE_ALL},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("bom", ["", "\ufeff"], ids=["", "bom"])
    def test_that_kept_every_value_is_read(
        self, place: Workspace, style: dict[str, Any], bom: str
    ) -> None:
        before = read_rows(place.results)
        cells = [*csv.reader(StringIO(place.results.read_text("utf-8"), newline=""))]
        text = StringIO(bom, newline="")
        text.seek(0, 2)
        csv.writer(text, **style).writerows(cells)
        place.results.write_bytes(text.getvalue().encode())
        assert read_rows(place.results) == before
        assert add_result(place.results, row("new")) == 3

    def test_empty_columns_and_rows_at_the_end_are_nothing(self, place: Workspace) -> None:
        before = read_rows(place.results)
        lines = place.results.read_text("utf-8").splitlines()
        ends = "".join(f"{line},,,\r\n" for line in [*lines, "," * lines[0].count(",")])
        place.results.write_text(ends + "\r\n", "utf-8", newline="")
        assert read_rows(place.results) == before

    @pytest.mark.parametrize(
        "change",
        [
            lambda cell: cell.replace(".", ","),  # decimal commas
            lambda cell: "1,00E+16" if cell == "1e10000000000000" else cell,
            lambda cell: "12345678901234" if cell == "0012345678901234" else cell,
            lambda cell: cell[:12] if cell.startswith("0.95") else cell,  # digits as shown
            lambda cell: "TRUE" if cell == "1" else cell,
            lambda cell: "01.01.26 00:00" if cell.startswith("2026-") else cell,
            lambda cell: cell.replace("é", "?"),
            lambda cell: cell.replace("é", "\udce9"),  # cp1252
            lambda cell: "########" if cell.startswith("0.95") else cell,
            lambda cell: "#NAME?" if cell == "-" else cell,
        ],
    )
    def test_that_changed_a_value_is_refused_by_all_alike(
        self, place: Workspace, change: Callable[[str], str]
    ) -> None:
        cells = [*csv.reader(StringIO(place.results.read_text("utf-8"), newline=""))]
        text = table_text([*map(change, cells[0])], [[*map(change, line)] for line in cells[1:]])
        place.results.write_bytes(text.encode("utf-8", "surrogateescape"))
        content = place.results.read_bytes()
        told = set()
        readers: list[Callable[[], object]] = [
            lambda: studies(place.results),
            lambda: find_model(place, "best"),
            lambda: find_model(place, "1"),
            lambda: add_result(place.results, row("new")),
        ]
        for reader in readers:
            with pytest.raises(ResultsError) as raised:
                reader()
            told.add(str(raised.value))
        assert len(told) == 1
        assert re.search("line [23]: .*saved by a spreadsheet program", told.pop())
        assert place.results.read_bytes() == content

    def test_utf_16_is_named(self, place: Workspace) -> None:
        place.results.write_bytes(place.results.read_text("utf-8").encode("utf-16"))
        with pytest.raises(ResultsError, match="UTF-16"):
            studies(place.results)

    def test_what_was_changed_on_purpose_is_read_without_its_checksum(
        self, place: Workspace
    ) -> None:
        text = place.results.read_text("utf-8").replace("gelé", "gels")
        place.results.write_text(text, "utf-8")
        with pytest.raises(ResultsError, match="empty its checksum"):
            read_rows(place.results)
        crc = {row["checksum"] for row in csv.DictReader(StringIO(text))}
        for each in crc:
            text = text.replace(each, "")
        place.results.write_text(text, "utf-8")
        assert {row["dataset"] for row in read_rows(place.results)} == {"gels"}


def test_no_flipped_bit_of_the_results_gives_another_answer(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    add_result(path, row("a", accuracy=21 / 22))
    content, (before,) = path.read_bytes(), read_rows(path)
    ours = {name: before[name] for name in before if name != "checksum"}
    for place in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            rows = read_rows(path)
        except ResultsError:
            continue
        assert [{name: it[name] for name in ours} for it in rows] == [ours]


def test_a_cut_table_is_refused() -> None:
    for text in ("a,b\n1\n", 'a,b\n1,"2\n', "a,b\n1,2,3\n", "", "a\n1\n", "a,b,a\n1,2,3\n"):
        with pytest.raises(TableError):
            parse_table(text.encode(), ("a", "b"))
