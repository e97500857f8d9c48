"""What the report's sections are made of: the same images for all, the same choice every time."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.store import Cache, read, summarize
from evaluate.predictions import Predictions
from evaluate.report.sections.comparison import bar, on_the_same_images
from evaluate.report.sections.embedding_map import (
    HEIGHT,
    ROOM,
    WIDTH,
    Place,
    chosen,
    fitted,
    layouts,
)
from evaluate.report.sections.samples import mistakes_first
from evaluate.report.thumbnails import ACROSS, pixels_of, sheet
from evaluate.workspace.image_files import ImageFiles
from tests.reported import row


def answers(keys: str, right: str, leaked: str = "", sure: float = 0.9) -> Predictions:
    """Return answers to images called by letters; the capital letters of `right` are right."""
    hashes = tuple(key.encode() * 32 for key in keys)
    labels = np.zeros(len(keys), np.int64)
    chances = np.array([[sure, 1 - sure] if key in right else [1 - sure, sure] for key in keys])
    return Predictions(
        tuple(Path(f"{key}.png") for key in keys),
        hashes,
        labels,
        chances,
        np.array([key in leaked for key in keys]),
    )


def right(first: str, of_these: str, second: str, of_those: str, leaked: str = "") -> Any:
    """Which answers two models got right, on the images that both have."""
    both = [answers(first, of_these), answers(second, of_those, leaked=leaked)]
    labels, chances = on_the_same_images(both)
    return [(of_model.argmax(1) == labels).tolist() for of_model in chances]


class TestSameImages:
    def test_whatever_their_order(self) -> None:
        assert right("abc", "a", "cab", "a") == [[True, False, False]] * 2

    def test_what_one_has_not_or_calls_leaked_is_left_out_for_all(self) -> None:
        assert right("abcd", "ab", "abc", "abc", leaked="c") == [[True, True], [True, True]]

    def test_none(self) -> None:
        assert right("ab", "a", "cd", "c") == [[], []]


def places(count: int, wrong: int, test: int) -> list[Place]:
    return [
        Place(Path(f"{i}.png"), bytes([i * 37 % 256, i // 256]) * 16, 0,
              None if i >= test else int(i < wrong))
        for i in range(count)
    ]  # fmt: skip


class TestChoice:
    def test_all_mistakes_and_half_of_the_rest_test_images(self) -> None:
        found = chosen(places(300, wrong=5, test=100), 60)
        assert len(found) == 60
        assert all(place.wrong for place in found[:5])
        assert sum(place.predicted is not None for place in found) == 30

    def test_few_training_images_leave_room_for_test_images(self) -> None:
        found = chosen(places(110, wrong=0, test=100), 60)
        assert sum(place.predicted is None for place in found) == 10
        assert len(found) == 60

    def test_it_goes_by_content_not_by_order(self) -> None:
        every = places(300, wrong=5, test=100)
        assert chosen(every, 60) == chosen(every[::-1], 60)


class TestLayouts:
    def test_the_same_rows_give_the_same_places(self, caches: dict[str, Cache]) -> None:
        rows = read(caches["cpu"], sorted(summarize(caches["cpu"]).stored)[:60])
        first, second = layouts(rows), layouts(rows.copy())
        assert first[1] == second[1]
        for one, other in zip((first[0], first[2]), (second[0], second[2]), strict=True):
            np.testing.assert_array_equal(one, other)
        assert 0 < first[1][1] < first[1][0] < 1

    @pytest.mark.parametrize("count", [4, 5, 9])
    def test_few_images_have_a_place_too(self, count: int) -> None:
        rows = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
        principal, _, neighbours = layouts(rows)
        assert principal.shape == neighbours.shape == (count, 2)

    def test_a_layout_fills_the_map_and_keeps_its_shape(self) -> None:
        points = np.random.default_rng(0).normal(size=(50, 2)) @ np.array([[1, 1], [-9, 9]])
        shown = np.array(fitted(points))
        low, high = shown.min(0), shown.max(0)
        assert (low >= ROOM - 0.1).all()
        assert high[0] <= WIDTH - ROOM + 0.1
        assert high[1] <= HEIGHT - ROOM + 0.1
        assert high[0] - low[0] == pytest.approx(WIDTH - 2 * ROOM, abs=0.2)

        far, near = (np.linalg.norm(of[1:] - of[0], axis=1) for of in (shown, points))
        ratio = far / near
        np.testing.assert_allclose(ratio, ratio.mean(), rtol=0.05)

    def test_images_that_are_all_alike_lie_in_one_place(self) -> None:
        principal, explained, neighbours = layouts(np.ones((5, 8), np.float32))
        assert explained == (0, 0)
        for layout in (principal, neighbours):
            assert set(fitted(layout)) == {(WIDTH / 2, HEIGHT / 2)}


def test_mistakes_come_first_then_doubts_and_leaked_last() -> None:
    found = answers("abcd", "abd", leaked="d")
    found.probabilities[0] = [0.6, 0.4]
    order, confidence = mistakes_first(found, row("a", temperature=2.0))
    assert [found.paths[i].stem for i in order] == ["c", "a", "b", "d"]
    assert confidence[1] == pytest.approx(0.75)  # of 0.9, at temperature 2


def test_a_bar_is_cut_off_at_the_limit() -> None:
    assert bar(0.1, (-0.1, 0.5), 0.2) == {"middle": 75, "low": 25, "high": 100}


def test_a_sheet_keeps_the_place_of_what_is_gone(gel: Path) -> None:

    path = gel / "test_images" / "gel" / "gel_1.jpg"
    key = sha256(path.read_bytes()).digest()
    assert sheet(ImageFiles(), [(path, b"x" * 32)], 8) is None
    whole = sheet(ImageFiles(), [(path, b"x" * 32)] * ACROSS + [(path, key)], 8)
    assert whole is not None
    assert whole.startswith("data:image/webp;base64,")
    assert pixels_of(ImageFiles(), path, b"x" * 32) is None
    assert pixels_of(ImageFiles(), gel / "absent.jpg", key) is None
    seen = pixels_of(ImageFiles(), path, key)
    assert seen is not None
    assert seen.shape == (224, 224)
