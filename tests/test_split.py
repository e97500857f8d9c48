"""One set of images → training and test: each image once, near duplicates on one side."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from cache.errors import DatasetError
from evaluate.audit.audit import audit
from evaluate.audit.findings import Audit
from evaluate.audit.split import (
    NOTE,
    SplitOptions,
    SplitResult,
    divide,
    divided_before,
    sides,
    table_of,
    write_division,
)
from evaluate.workspace.layout import Workspace
from extract.dataset import ImageSet, scan
from extract.sources.csv_manifest import write_list
from tests.conftest import ROOT
from tests.killing import draw_images
from tests.test_audit import TWICE

CUT = SplitOptions(0.2, 0)
Written = Callable[..., tuple[ImageSet, ImageSet]]


def looked_at(images: ImageSet, place: Path) -> Audit:
    return audit(images, None, Workspace(place))


@pytest.fixture(scope="module")
def gels(gel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageSet, Audit]:
    images = scan(gel / "dataset")
    return images, looked_at(images, tmp_path_factory.mktemp("gels"))


@pytest.fixture
def drawn(tmp_path: Path) -> ImageSet:
    return scan(draw_images(tmp_path / "images", 20))


@pytest.fixture
def cut_to(tmp_path: Path) -> Written:
    """Divide images into tmp_path/out, and scan both sides."""

    def cut_to(images: ImageSet, cut: SplitOptions = CUT) -> tuple[ImageSet, ImageSet]:
        out = tmp_path / "out"
        write_division(divide(images, looked_at(images, tmp_path / "place"), cut), images, out)
        train, test = (scan(side) for side in sides(out, cut))
        return train, test

    return cut_to


def content(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


class TestRealGels:
    @pytest.mark.parametrize("seed", range(5))
    def test_photographs_exported_twice_lie_on_one_side(
        self, gels: tuple[ImageSet, Audit], seed: int
    ) -> None:
        done = divide(*gels, SplitOptions(0.2, seed))
        side = {file.path.stem: name for name, files in done.sides.items() for file in files}
        assert len(side) == 92
        assert len(TWICE) == 19
        for first, second in TWICE:
            assert side[f"gel_{first}"] == side[f"gel_{second}"]

    def test_without_groups_some_lie_on_both(self, gels: tuple[ImageSet, Audit]) -> None:
        done = divide(*gels, SplitOptions(0.2, 0, group=False))
        test = {file.path.stem for file in done.test}
        assert any((f"gel_{a}" in test) != (f"gel_{b}" in test) for a, b in TWICE)
        assert done.remarks == []

    def test_no_side_leaks_into_the_other(
        self, gels: tuple[ImageSet, Audit], tmp_path: Path
    ) -> None:
        write_division(divide(*gels, CUT), gels[0], tmp_path)
        train, test = (scan(side) for side in sides(tmp_path, CUT))
        assert audit(train, test, Workspace(tmp_path)).leaks == []

    def test_it_is_stratified_and_told_in_a_table(self, gels: tuple[ImageSet, Audit]) -> None:
        done = divide(*gels, CUT)
        assert Counter(file.label for file in done.test)["not_gel"] == 9  # a fifth of 46
        with (console := Console(width=80)).capture() as shown:
            console.print(table_of(done))
        rows = [line.split("│")[1:-1] for line in shown.get().splitlines() if "│" in line]
        gel, other, both = ([cell.strip() for cell in row] for row in rows)
        train, test = len(done.training), len(done.test)
        assert gel == ["gel", str(train - 37), str(test - 9), "19"]
        assert other == ["not_gel", "37", "9", "0"]
        assert both == ["all", str(train), str(test), "19"]

    def test_that_pictures_alone_were_compared_is_told(self, gels: tuple[ImageSet, Audit]) -> None:
        (remark,) = divide(*gels, CUT).remarks
        assert "cli.py extract" in remark


class TestWhatIsDivided:
    def test_each_image_once_whatever_the_order_and_place(
        self, drawn: ImageSet, tmp_path: Path
    ) -> None:
        shutil.copytree(drawn.folder, tmp_path / "moved")
        (tmp_path / "moved" / "a" / "0.png").rename(tmp_path / "moved" / "a" / "last.png")
        moved = scan(tmp_path / "moved")
        here, there = (
            divide(images, looked_at(images, tmp_path / "place"), CUT) for images in (drawn, moved)
        )
        assert {f.sha256 for f in here.test} == {f.sha256 for f in there.test}
        assert {*here.training, *here.test} == {*drawn.files}
        assert (len(here.training), len(here.test)) == (16, 4)

    def test_another_seed_divides_otherwise(self, drawn: ImageSet, tmp_path: Path) -> None:
        found = looked_at(drawn, tmp_path)
        tests = {frozenset(divide(drawn, found, SplitOptions(0.2, seed)).test) for seed in range(5)}
        assert len(tests) > 1

    def test_conflicts_copies_and_broken_files_are_on_no_side(
        self, drawn: ImageSet, tmp_path: Path
    ) -> None:
        shutil.copy(drawn.folder / "a" / "0.png", drawn.folder / "b" / "conflict.png")
        shutil.copy(drawn.folder / "a" / "2.png", drawn.folder / "a" / "2copy.png")
        (drawn.folder / "a" / "broken.png").write_bytes(b"x")
        images = scan(drawn.folder)
        done = divide(images, looked_at(images, tmp_path), CUT)
        names = Counter(file.path.name for files in done.sides.values() for file in files)
        assert names.total() == 19
        assert not {"0.png", "conflict.png", "2copy.png", "broken.png"} & names.keys()
        assert "1 file(s) that can't be read are on neither side" in done.remarks[0]
        assert "broken.png" in done.remarks[0]

    def test_a_class_that_can_not_be_on_both_sides(self, tmp_path: Path) -> None:
        draw_images(tmp_path / "images", 3)
        images = scan(tmp_path / "images")
        with pytest.raises(DatasetError, match="images can't be divided: class b has a single"):
            divide(images, looked_at(images, tmp_path), CUT)
        shutil.rmtree(tmp_path / "images" / "b")
        images = scan(tmp_path / "images")
        with pytest.raises(DatasetError, match="one class only"):
            divide(images, looked_at(images, tmp_path), CUT)


@pytest.mark.parametrize("copy", [False, True], ids=["list", "copy"])
class TestWriting:
    def test_both_sides_are_sets_of_images(
        self, drawn: ImageSet, cut_to: Written, copy: bool
    ) -> None:
        train, test = cut_to(drawn, SplitOptions(0.2, 0, copy=copy))
        assert (len(train.files), len(test.files)) == (16, 4)
        assert train.labels | test.labels == drawn.labels
        assert train.remarks == test.remarks == []

    def test_twice_changes_nothing(
        self, drawn: ImageSet, cut_to: Written, tmp_path: Path, copy: bool
    ) -> None:
        cut = SplitOptions(0.2, 0, copy=copy)
        assert not divided_before(drawn, cut, tmp_path / "out")
        cut_to(drawn, cut)
        before = content(tmp_path / "out")
        cut_to(drawn, cut)
        assert content(tmp_path / "out") == before
        assert divided_before(drawn, cut, tmp_path / "out")

    def test_killed_midway_it_goes_on(
        self, drawn: ImageSet, cut_to: Written, tmp_path: Path, copy: bool
    ) -> None:
        cut, out = SplitOptions(0.2, 0, copy=copy), tmp_path / "out"
        cut_to(drawn, cut)
        before = content(out)
        for name in [*list(before)[::2], NOTE]:
            if name != ".lock":
                (out / name).unlink(missing_ok=True)
        (out / f".{'0' * 32}.tmp").write_bytes(b"half")
        assert not divided_before(drawn, cut, out)
        cut_to(drawn, cut)
        assert content(out) == before

    def test_another_division_is_never_written_over(
        self, drawn: ImageSet, cut_to: Written, tmp_path: Path, copy: bool
    ) -> None:
        out, other = tmp_path / "out", SplitOptions(0.2, 1, copy=copy)
        cut_to(drawn, SplitOptions(0.2, 0, copy=copy))
        before = content(out)
        with pytest.raises(DatasetError, match=r"out holds another division.*: choose another"):
            divided_before(drawn, other, out)
        (out / NOTE).unlink()
        with pytest.raises(DatasetError, match=r"is there, and is .*: choose another"):
            cut_to(drawn, other)
        assert content(out).items() <= before.items()

    def test_images_added_since_are_told_and_the_test_set_stays(
        self, drawn: ImageSet, cut_to: Written, tmp_path: Path, copy: bool
    ) -> None:
        cut = SplitOptions(0.2, 0, copy=copy)
        cut_to(drawn, cut)
        assert json.loads((tmp_path / "out" / NOTE).read_text())["near_duplicates_by"] is None
        draw_images(drawn.folder, 22)
        with pytest.raises(DatasetError, match="or of other images"):
            divided_before(scan(drawn.folder), cut, tmp_path / "out")

    def test_a_damaged_note_is_told(self, drawn: ImageSet, tmp_path: Path, copy: bool) -> None:
        (tmp_path / NOTE).write_text("{")
        with pytest.raises(DatasetError, match=r"split\.json can't be used"):
            divided_before(drawn, SplitOptions(0.2, 0, copy=copy), tmp_path)


class TestLists:
    def test_a_list_whose_images_are_gone_counts_as_not_done(
        self, drawn: ImageSet, cut_to: Written, tmp_path: Path
    ) -> None:
        cut_to(drawn)
        drawn.files[0].path.unlink()
        assert not divided_before(drawn, CUT, tmp_path / "out")


class TestCopies:
    def test_names_and_folders_are_kept(
        self, drawn: ImageSet, cut_to: Written, tmp_path: Path
    ) -> None:
        (drawn.folder / "a" / "deep").mkdir()
        (drawn.folder / "a" / "0.png").rename(drawn.folder / "a" / "deep" / "2.png")
        images = scan(drawn.folder)
        train, test = cut_to(images, SplitOptions(0.2, 0, copy=True))
        found = {
            file.path.relative_to(side.folder) for side in (train, test) for file in side.files
        }
        assert found == {file.path.relative_to(images.folder) for file in images.files}

    def test_the_same_name_twice_in_a_list_is_told_apart_by_content(
        self, drawn: ImageSet, cut_to: Written, tmp_path: Path
    ) -> None:
        draw_images(tmp_path / "more", 4, seed=1)
        write_list(tmp_path / "l.csv", [*drawn.files, *scan(tmp_path / "more").files])
        listed = scan(tmp_path / "l.csv")
        train, test = cut_to(listed, SplitOptions(0.2, 0, copy=True))
        assert train.labels | test.labels == listed.labels
        (first,) = (f for f in listed.files if f.path.match("images/a/0.png"))
        names = {file.path.name for side in (train, test) for file in side.files}
        assert f"0-{first.sha256.hex()[:8]}.png" in names

    def test_a_class_that_can_not_be_a_folder(
        self, drawn: ImageSet, cut_to: Written, tmp_path: Path
    ) -> None:
        for label in ("../b", ".b", "b/c", "b\\c"):
            rows = [f"{f.path},{f.label if f.label == 'a' else label}\n" for f in drawn.files]
            (tmp_path / "l.csv").write_text("path,label\n" + "".join(rows))
            with pytest.raises(DatasetError, match="can't be a folder: rename it, or use --list"):
                cut_to(scan(tmp_path / "l.csv"), SplitOptions(0.2, 0, copy=True))

    def test_other_files_there_are_never_mixed_in(
        self, drawn: ImageSet, cut_to: Written, tmp_path: Path
    ) -> None:
        (tmp_path / "out" / "train" / "a").mkdir(parents=True)
        (tmp_path / "out" / "train" / "a" / "mine.png").write_bytes(b"x")
        with pytest.raises(DatasetError, match=r"mine\.png is there, and is not of this division"):
            cut_to(drawn, SplitOptions(0.2, 0, copy=True))

    def test_not_into_the_images_themselves(self, drawn: ImageSet, tmp_path: Path) -> None:
        done = divide(drawn, looked_at(drawn, tmp_path / "place"), SplitOptions(0.2, 0, copy=True))
        with pytest.raises(DatasetError, match="inside"):
            write_division(done, drawn, drawn.folder)

    def test_an_image_that_changes_meanwhile(self, drawn: ImageSet, tmp_path: Path) -> None:
        done = divide(drawn, looked_at(drawn, tmp_path / "place"), SplitOptions(0.2, 0, copy=True))
        drawn.files[0].path.write_bytes(b"other")
        with pytest.raises(DatasetError, match=r"0\.png has changed"):
            write_division(done, drawn, tmp_path / "out")


def test_samples_divide_too(cut_to: Written) -> None:
    train, test = cut_to(scan(ROOT / "dataset"))
    assert set(train.labels.values()) == set(test.labels.values()) == {"gel", "not_gel"}


def test_a_division_says_nothing_where_a_trained_backbone_has_looked(drawn: ImageSet) -> None:
    done = SplitResult(CUT, drawn.files[:16], drawn.files[16:], {}, (), "resnet18-cpu-fp32-0")
    assert done.remarks == []
