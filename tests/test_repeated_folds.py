"""Copies of test images make nobody surer of an accuracy."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluate import result_row
from evaluate.audit.audit import audit
from evaluate.leaderboard import cautions, describe_best, interval_of, studies
from evaluate.predictions import Predictions
from evaluate.results import add_result
from evaluate.statistics.comparison import accuracy_interval
from evaluate.workspace.layout import Workspace
from extract.dataset import scan
from tests.conftest import ROOT
from tests.reported import row

COPIES: dict[str, dict[str, Any]] = {"other.png": {}, "smaller.jpg": {"quality": 70}}


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our test images, some of them three times: as a smaller JPEG and as a PNG too."""
    folder = tmp_path_factory.mktemp("repeated")
    for label in ("gel", "not_gel"):
        (folder / label).mkdir()
        for number, path in enumerate(sorted((ROOT / "test_images" / label).iterdir())[:6]):
            with Image.open(path) as image:
                gray = image.convert("L")
            (folder / label / path.name).write_bytes(path.read_bytes())
            for name, how in COPIES.items() if number < 4 else ():
                size = (180, 170) if "smaller" in name else gray.size
                gray.resize(size).save(folder / label / f"{path.stem}_{name}", **how)
    return folder


def test_the_audit_finds_re_encoded_copies_within_the_test_set(
    repeated: Path, tmp_path: Path
) -> None:
    training, testing = scan(ROOT / "dataset"), scan(repeated)
    found = audit(training, testing, Workspace(tmp_path))
    groups: dict[int, set[str]] = {}
    for file in testing.files:
        if file.sha256 in found.repeat_of:
            name = file.path.stem.removesuffix("_other").removesuffix("_smaller")
            groups.setdefault(found.repeat_of[file.sha256], set()).add(f"{file.label}/{name}")
    assert len(groups) == 8
    assert all(len(names) == 1 for names in groups.values())
    assert len(found.repeat_of) == 24
    assert result_row.distinct([f.sha256 for f in testing.files], found.repeat_of) == 12


def answers(right: list[bool], copies: int) -> tuple[Predictions, dict[bytes, int]]:
    """Answers to so many images, each there so many times; and their groups."""
    once = np.array([[0.9, 0.1] if good else [0.2, 0.8] for good in right])
    chances = np.repeat(once, copies, axis=0)
    hashes = tuple(number.to_bytes(32, "big") for number in range(len(chances)))
    groups = {key: place // copies for place, key in enumerate(hashes)} if copies > 1 else {}
    none = np.zeros(len(chances), np.bool_)
    paths = tuple(Path(f"{number}.png") for number in range(len(chances)))
    labels = np.zeros(len(chances), np.int64)
    labels[-copies:] = 1  # both classes
    chances[-copies:] = chances[-copies:, ::-1]
    return Predictions(paths, hashes, labels, chances, none), groups


@pytest.mark.parametrize("right", [[True] * 22, [True] * 19 + [False] + [True] * 2])
def test_copies_change_neither_end_of_the_interval(right: list[bool]) -> None:
    expected = accuracy_interval(sum(right), len(right))
    for copies in (1, 3):
        predictions, groups = answers(right, copies)
        scored = result_row.scores(predictions, 1.0, groups)
        assert (scored["n_test"], scored["n_test_groups"]) == (22 * copies, 22)
        assert interval_of(row("a", **scored)) == pytest.approx(expected, abs=1e-5)


def test_a_group_of_which_half_is_right_is_half_right() -> None:
    predictions, _ = answers([True, True, False, True], 1)
    groups = {predictions.hashes[1]: 0, predictions.hashes[2]: 0}
    scored = result_row.scores(predictions, 1.0, groups)
    assert scored["n_test_groups"] == 3
    assert scored["accuracy_of_groups"] == pytest.approx(2.5 / 3, abs=1e-6)


def test_leaked_images_are_in_no_group() -> None:
    predictions, groups = answers([True] * 10, 2)
    leaked = np.arange(20) < 2
    scored = result_row.scores(replace(predictions, leaked=leaked), 1.0, groups)
    assert (scored["n_test"], scored["n_test_groups"]) == (18, 9)


def test_it_is_said_beside_the_accuracy(tmp_path: Path) -> None:
    predictions, groups = answers([True] * 22, 3)
    place = Workspace(tmp_path)
    add_result(place.results, row("a", **result_row.scores(predictions, 1.0, groups)))
    (study,) = studies(place.results)
    assert "66 of 66 test images right" in describe_best(study)
    assert "interval 85% to 100%; 66 images in 22 groups of near dup" in describe_best(study)
    assert any("counts each group once" in caution for caution in cautions(study))
