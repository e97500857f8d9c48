"""The audit: on the reference study's gels it finds what eyes find, and nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cache.errors import ResultsError
from cache.progress import silent
from evaluate.audit import near_duplicates as near_duplicates_module
from evaluate.audit.audit import audit, kept_audit
from evaluate.audit.findings import (
    FINDINGS,
    Audit,
    as_json,
    audit_path,
    in_words,
    read_audit,
)
from evaluate.audit.near_duplicates import Pair, find_near_duplicates, groups, most_alike
from evaluate.audit.outliers import ODD, find_outliers
from evaluate.workspace.layout import Workspace
from extract.dataset import scan
from extract.embedding_spec import EmbeddingSpec, load_backbone
from extract.imaging.image_stats import BITS, ImageStats, signs
from extract.pipeline import RunnerOptions, extract
from heads.config import fingerprint
from tests.conftest import ROOT

Few = Callable[[int, int], Path]

# The pairs of the 46 training gels that show one photograph exported twice: all pairs whose hashes
# are nearest, each looked at; the next nearest are 16 bits apart and other gels.
TWICE = (
    *((1, 11), (2, 9), (3, 5), (4, 16), (6, 17), (7, 12), (8, 13), (10, 15), (18, 34), (19, 33)),
    *((20, 25), (24, 42), (26, 40), (27, 45), (28, 37), (29, 41), (30, 44), (31, 46), (36, 43)),
)


@pytest.fixture(scope="module")
def gels(gel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Audit]:
    """The reference study's images, embedded by real weights and audited."""
    place = Workspace(tmp_path_factory.mktemp("gels"))
    training, testing = scan(gel / "dataset"), scan(gel / "test_images")
    spec = EmbeddingSpec(
        load_backbone("efficientnet_lite0", "imagenet"), "cpu", ("openvino",), "fp32"
    )
    extract(
        [spec],
        [*training.files, *testing.files],
        place.cache,
        options=RunnerOptions(index=place.image_index),
    )
    return place, audit(training, testing, place)


def names(found: Audit, places: tuple[int, ...]) -> list[str]:
    return [Path(found.images[place].path).name for place in places]


class TestRealGels:
    def test_every_photograph_exported_twice_is_a_group_and_nothing_else(
        self, gels: tuple[Workspace, Audit]
    ) -> None:
        found = {
            tuple(sorted(int(Path(name).stem.split("_")[1]) for name in names(gels[1], group)))
            for group in gels[1].groups
        }
        assert found == set(TWICE)
        assert all(gels[1].images[group[0]].label == "gel" for group in gels[1].groups)

    def test_the_leak_is_found(self, gels: tuple[Workspace, Audit]) -> None:
        (leak,) = gels[1].leaks
        assert names(gels[1], (leak.first, leak.second)) == ["not_gel_11.jpg"] * 2
        assert leak.exact
        assert len(gels[1].leaked) == 1

    def test_there_is_nothing_else_to_find(self, gels: tuple[Workspace, Audit]) -> None:
        counts = {name: finding.count(gels[1]) for name, finding in FINDINGS.items()}
        assert counts == {
            **{"leak": 1, "duplicate": 19, "repeat": 0, "conflict": 0},
            **{"unreadable": 0, "odd": 0, "property": 0, "imbalance": 0},
        }
        assert gels[1].balance["training"] == {"gel": 46, "not_gel": 46}

    def test_pictures_alone_find_the_same(self, gel: Path, tmp_path: Path) -> None:
        found = audit(scan(gel / "dataset"), scan(gel / "test_images"), Workspace(tmp_path))
        assert found.cache is None
        assert len(found.groups) == len(TWICE)
        assert all(pair.cosine is None for pair in found.alike if not pair.exact)

    def test_it_is_read_back_as_it_was(self, gels: tuple[Workspace, Audit], gel: Path) -> None:
        place, found = gels
        assert kept_audit(scan(gel / "dataset"), scan(gel / "test_images"), place) == found
        assert kept_audit(scan(gel / "dataset"), None, place) is None

    def test_as_json_for_programs(self, gels: tuple[Workspace, Audit]) -> None:
        content = json.loads(as_json(gels[1]))
        assert len(content["groups"]) == 19
        assert all(Path(path).exists() for group in content["groups"] for path in group)
        assert len(content["leaks"]) == 1
        assert content["unreadable"] == []

    def test_in_words_for_people(self, gels: tuple[Workspace, Audit]) -> None:
        text = "\n".join(in_words(gels[1]))
        assert "training: 46 gel, 46 not_gel" in text
        assert "19 groups of training images that show the same" in text
        assert "(the same bytes)" in text


class TestFindings:
    def test_conflicts_copies_leaks_and_broken_files(self, few: Few, tmp_path: Path) -> None:
        data = few(4, 2)
        gel, other = data / "dataset" / "gel", data / "dataset" / "not_gel"
        image = Image.open(min(gel.iterdir())).convert("L")
        image.save(gel / "again.bmp")
        image.save(other / "mislabelled.jpg", quality=80)
        image.resize((200, 190)).save(data / "test_images" / "gel" / "leaked.png")
        (data / "test_images" / "gel" / "broken.png").write_bytes(b"x")
        place = Workspace(tmp_path / "out")
        found = audit(scan(data / "dataset"), scan(data / "test_images"), place)
        (group,) = found.groups
        assert len(group) == 3
        assert {found.images[place].label for place in group} == {"gel", "not_gel"}
        assert len(found.conflicts) >= 1
        leaked = {Path(found.images[pair.second].path).name for pair in found.leaks}
        assert leaked == {"leaked.png"}
        ((path, reason),) = found.unreadable
        assert (Path(path).name, reason) == ("broken.png", "not an image of a known format")

    def test_an_audit_of_other_files_is_stale(self, few: Few, tmp_path: Path) -> None:
        data, place = few(3, 2), Workspace(tmp_path / "out")
        audit(scan(data / "dataset"), scan(data / "test_images"), place)
        first = min((data / "dataset" / "gel").iterdir())
        shutil.copy(first, first.with_name("copy.png"))  # of the same fingerprint
        assert kept_audit(scan(data / "dataset"), scan(data / "test_images"), place) is None

    def test_test_images_that_show_the_same_are_told(self, few: Few, tmp_path: Path) -> None:
        data = few(3, 2)
        first = min((data / "test_images" / "gel").iterdir())
        Image.open(first).convert("L").save(first.with_name("again.bmp"))
        found = audit(scan(data / "dataset"), scan(data / "test_images"), Workspace(tmp_path / "o"))
        assert (FINDINGS["repeat"].count(found), found.leaks) == (1, [])

    def test_embeddings_that_test_images_lack_change_no_group(
        self, gel: Path, gels: tuple[Workspace, Audit], few: Few
    ) -> None:
        found = audit(scan(gel / "dataset"), scan(few(2, 1) / "test_images"), gels[0])
        assert found.cache == gels[1].cache
        assert found.group_of == gels[1].group_of

    def test_an_exact_copy_in_a_class_is_one_group_of_files(self, few: Few, tmp_path: Path) -> None:
        data = few(3, 1)
        first = min((data / "dataset" / "gel").iterdir())
        shutil.copy(first, first.with_name("copy.png"))
        found = audit(scan(data / "dataset"), None, Workspace(tmp_path / "out"))
        assert [names(found, group) for group in found.groups] == [["copy.png", first.name]]
        assert (found.test, found.leaks) == (None, [])

    def test_a_class_without_a_test_image_is_told(self, few: Few, tmp_path: Path) -> None:
        data, place = few(3, 2), Workspace(tmp_path / "out")
        shutil.rmtree(data / "test_images" / "gel")
        found = audit(scan(data / "dataset"), scan(data / "test_images"), place)
        assert found.untested == ["gel"]
        assert "no test image of gel: nothing will be known about it" in in_words(found)
        assert audit(scan(data / "dataset"), None, place).untested == []

    def test_imbalance(self, few: Few, tmp_path: Path) -> None:
        data = few(8, 1)
        for path in sorted((data / "dataset" / "gel").iterdir())[2:]:
            path.unlink()
        found = audit(scan(data / "dataset"), None, Workspace(tmp_path / "out"))
        assert found.imbalanced == ["gel"]

    def test_a_damaged_audit_is_named(self, few: Few, tmp_path: Path) -> None:
        images, place = scan(few(2, 1) / "dataset"), Workspace(tmp_path / "out")
        audit(images, None, place)
        path = audit_path(place, fingerprint(images.labels), None)
        path.write_text(path.read_text()[:-30])
        with pytest.raises(ResultsError, match=r"\.json can't be used: .* audit` again"):
            read_audit(path)


def stats(**values: object) -> ImageStats:
    usual = {"width": 400, "height": 300, "mode": "L", "brightness": 100.0, "contrast": 40.0}
    return ImageStats(**{"bits": bytes(8)} | usual | values)  # type: ignore[arg-type]


ODD_LOOKS = {
    "blank": stats(contrast=0.5),
    "small": stats(width=20, height=15),
    "size": stats(width=4000, height=3000),
    "shape": stats(width=1600, height=75),
    "mode": stats(mode="CMYK"),
    "brightness": stats(brightness=250.0),
}


class TestOdd:
    @pytest.mark.parametrize("rule", ODD)
    def test_each_rule_finds_its_image_among_usual_ones(self, rule: str) -> None:
        random = np.random.default_rng(0)
        usual = [stats(brightness=100 + float(random.normal(0, 10))) for _ in range(40)]
        found, common = find_outliers([*usual, ODD_LOOKS[rule]])
        assert (40, rule) in {(place, name) for place, name, _ in found}
        assert ({place for place, _, _ in found}, common) == ({40}, [])

    def test_of_few_images_only_the_blank_is_odd(self) -> None:
        found, _ = find_outliers([stats(), stats(mode="CMYK"), stats(contrast=0.0)])
        assert [(place, name) for place, name, _ in found] == [(2, "blank")]

    def test_images_that_are_all_small_are_usual(self) -> None:
        assert find_outliers([stats(width=32, height=28)] * 20) == ([], [])


def alike_in_details(places: NDArray[np.int64]) -> NDArray[np.float32]:
    """Give every image the same picture."""
    picture = np.random.default_rng(1).uniform(0, 255, (1, 32, 32)).astype(np.float32)
    return np.repeat(picture, len(places), axis=0)


class TestPairs:
    def some(self, count: int, copies: int) -> tuple[list[ImageStats], NDArray[np.float32]]:
        """Random pictures, of which the last are the first ones with up to 10 bits changed."""
        random = np.random.default_rng(0)
        bits = random.integers(0, 2, (count, 64), dtype=np.uint8)
        bits[:, BITS:] = 0
        for number in range(copies):
            bits[-1 - number] = bits[number]
            flipped = random.choice(BITS, random.integers(0, 11), replace=False)
            bits[-1 - number, flipped] ^= 1
        rows = random.normal(size=(count, 16)).astype(np.float32)
        rows[-copies:] = rows[:copies][::-1] + 0.1
        return [stats(bits=np.packbits(row).tobytes()) for row in bits], rows

    def test_blocks_find_what_all_pairs_would(self, monkeypatch: pytest.MonkeyPatch) -> None:
        image_stats, rows = self.some(300, 20)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        apart = (BITS - signs(image_stats) @ signs(image_stats).T) / 2
        near = np.triu(40 * (1 - unit @ unit.T) + apart <= 12, 1)
        expected = set(zip(*(places.tolist() for places in np.nonzero(near)), strict=True))
        assert len(expected) > 10
        monkeypatch.setattr(near_duplicates_module, "AT_ONCE", 300 * 7)  # seven rows at a time
        monkeypatch.setattr(near_duplicates_module, "PAIRS_AT_ONCE", 3)
        told: list[tuple[int, int]] = []
        found = find_near_duplicates(
            image_stats, rows.__getitem__, alike_in_details, lambda *n: told.append(n)
        )
        assert {(pair.first, pair.second) for pair in found} == expected
        assert told[-1] == (300, 300)
        assert len(told) > 40

    def test_nothing_can_be_said_of_pictures_without_contrast(self) -> None:
        flat = [stats(contrast=1.0)] * 3
        assert find_near_duplicates(flat, None, alike_in_details, silent) == []
        assert len(find_near_duplicates([stats()] * 3, None, alike_in_details, silent)) == 3

    def test_what_a_backbone_finds_unlike_must_look_more_alike(self) -> None:
        first, second = np.zeros(64, np.uint8), np.zeros(64, np.uint8)
        second[:6] = 1  # six bits apart
        image_stats = [stats(bits=np.packbits(bits).tobytes()) for bits in (first, second)]
        for cosine, found in ((0.95, 1), (0.5, 0)):
            rows = np.array([[1, 0], [cosine, (1 - cosine**2) ** 0.5]], np.float32)
            pairs = find_near_duplicates(image_stats, rows.__getitem__, alike_in_details, silent)
            assert len(pairs) == found

    def test_pictures_cut_otherwise_by_a_pixel_are_the_same_and_others_are_not(self) -> None:
        random = np.random.default_rng(0)
        large = random.uniform(0, 255, (2, 34, 34)).astype(np.float32)
        pictures = np.stack([large[0, :32, :32], large[0, 1:33, 2:34], large[1, :32, :32]])
        found = find_near_duplicates([stats()] * 3, None, pictures.__getitem__, silent)
        assert [(pair.first, pair.second) for pair in found] == [(0, 1)]

    def test_groups_connect_who_is_like_one_of_them(self) -> None:
        assert groups([(0, 2), (2, 4), (5, 6)], 8) == [0, -1, 0, -1, 0, 1, 1, -1]
        assert groups([], 2) == [-1, -1]

    def test_pairs_that_follow_from_others_are_left_out(self) -> None:
        pairs = [Pair(0, 1, 0.9, 1), Pair(0, 2, 0.9, 8), Pair(1, 2, 0.9, 2), Pair(4, 5, None, 0)]
        assert most_alike(pairs, 6) == [pairs[0], pairs[2], pairs[3]]
        assert most_alike([], 3) == []


def test_our_own_samples_are_clean(tmp_path: Path) -> None:
    found = audit(scan(ROOT / "dataset"), scan(ROOT / "test_images"), Workspace(tmp_path))
    assert (found.groups, found.leaks, found.unreadable) == ([], [], ())
