"""A folder of classes → its images, by content; what is odd about it is said."""

import shutil
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from cache.errors import DatasetError
from extract.dataset import ImageSet, scan
from tests.killing import draw_images


def picture(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), shade).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        picture(tmp_path / "a" / f"{number}.png", number)
        picture(tmp_path / "b" / "deep er" / f"{number}.PNG", 100 + number)
    return tmp_path


def test_classes_are_the_top_folders_and_images_lie_at_any_depth(folder: Path) -> None:
    images = scan(folder)
    assert [file.label for file in images.files] == ["a"] * 3 + ["b"] * 3
    assert len(images.labels) == 6
    assert images.remarks == [
        f"{folder}: 3 image(s) are in subfolders of class folders and are included: 3 in b/deep er"
    ]


def test_moving_and_renaming_changes_no_hash(folder: Path) -> None:
    before = scan(folder).labels
    (folder / "a" / "0.png").rename(folder / "a" / "grün 1.png")
    assert scan(folder).labels == before


def test_copies_count_once_and_are_told(folder: Path) -> None:
    shutil.copy(folder / "a" / "0.png", folder / "a" / "copy.png")
    images = scan(folder)
    assert len(images.files) == 7
    assert len(images.unique) == len(images.labels) == 6
    assert "1 file(s) are exact copies" in images.remarks[-1]


def test_an_image_in_two_classes_is_left_out_of_both_and_told(folder: Path) -> None:
    shutil.copy(folder / "a" / "0.png", folder / "b" / "same.png")
    images = scan(folder)
    assert len(images.labels) == 5
    assert "2 files left out" in images.remarks[-1]
    assert "0.png" in images.remarks[-1]
    assert "same.png" in images.remarks[-1]


def test_what_is_no_image_is_told_not_swallowed(folder: Path) -> None:
    (folder / "a" / "notes.txt").write_text("hello")
    picture(folder / "loose.png", 7)
    (folder / "a" / ".DS_Store").write_text("hidden")
    images = scan(folder)
    assert {path.name for path in images.ignored} == {"notes.txt", "loose.png"}
    made, text, loose, _ = images.remarks
    assert "1 file(s) ignored because they are hidden or made by a system: 1 .DS_Store" in made
    assert "1 file(s) ignored because they are not images: 1 .txt, such as " in text
    assert f"1 image(s) ignored because they are in no class folder, such as {folder}/loo" in loose


def test_accents_are_the_same_however_they_are_written(tmp_path: Path) -> None:
    picture(tmp_path / unicodedata.normalize("NFD", "gelé") / "1.png", 1)
    assert scan(tmp_path).files[0].label == unicodedata.normalize("NFC", "gelé")


def test_a_dangling_link_costs_itself(folder: Path) -> None:
    (folder / "a" / "link.png").symlink_to(folder / "gone.png")
    images = scan(folder)
    assert len(images.files) == 6
    assert "link.png can't be opened: No such file" in images.remarks[-1]


def test_linked_folders_are_followed_and_loops_end(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    picture(elsewhere / "more.png", 50)
    (folder / "c").symlink_to(elsewhere)
    (folder / "a" / "inner").symlink_to(elsewhere / "deeper")
    picture(elsewhere / "deeper" / "most.png", 51)
    (folder / "b" / "loop").symlink_to(folder)
    images = scan(folder)
    assert {f.path.name for f in images.files if f.label == "c"} == {"more.png", "most.png"} - {
        f.path.name for f in images.files if f.label == "a"
    }
    assert len(images.labels) == 8


def test_progress_reaches_the_total(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    scan(folder, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        scan(tmp_path / "nowhere")


def test_images_without_classes(tmp_path: Path) -> None:
    picture(tmp_path / "loose.png", 7)
    with pytest.raises(DatasetError, match="no subfolders"):
        scan(tmp_path)


def test_an_empty_class_is_named(folder: Path) -> None:
    (folder / "c").mkdir()
    with pytest.raises(DatasetError, match=r"in class\(es\) c: add images"):
        scan(folder)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("dataset", "dataset"),
        ("../shared/gel/dataset", "gel/dataset"),
        ("/home/me/gels", "me/gels"),
        ("out/split/train.csv", "split/train.csv"),
        ("out/images/0123abcd.unpacked/cifar10/train", "cifar10/train"),
        ("out/images/0123abcd.unpacked/gels", "gels"),
        ("out/images/0123abcd.unpacked/gels.csv", "gels"),
        ("out/images/0123abcd.unpacked/bucket/train", "bucket/train"),
    ],
)
def test_a_set_is_named_by_the_end_of_its_path(given: str, name: str) -> None:

    assert ImageSet(Path(given), (), (), ()).name == name


class TestAtMost:
    @pytest.fixture
    def images(self, tmp_path: Path) -> ImageSet:
        return scan(draw_images(tmp_path, 40))

    def test_so_many_of_each_class(self, images: ImageSet) -> None:
        few = images.at_most(5)
        assert Counter(file.label for file in few.files) == {"a": 5, "b": 5}
        assert set(few.files) < set(images.files)
        assert (few.folder, few.name) == (images.folder, images.name)

    def test_a_class_with_fewer_keeps_all(self, images: ImageSet) -> None:
        assert images.at_most(21).files == images.files

    def test_more_of_them_contain_the_fewer(self, images: ImageSet) -> None:
        sets = [set(images.at_most(count).files) for count in range(1, 21)]
        assert all(few < more for few, more in pairwise(sets))

    def test_another_seed_draws_others(self, images: ImageSet) -> None:
        assert images.at_most(5) == images.at_most(5, seed=0)
        assert images.at_most(5).files != images.at_most(5, seed=1).files

    def test_content_decides_not_names(self, images: ImageSet) -> None:
        before = images.at_most(5).labels
        for number, file in enumerate(images.files):
            file.path.rename(file.path.with_name(f"{97 * number % 40} renamed.png"))
        assert scan(images.folder).at_most(5).labels == before

    def test_copies_and_conflicts_take_no_place(self, images: ImageSet) -> None:
        first, second = images.at_most(2).files[:2]
        shutil.copy(first.path, first.path.with_name("copy.png"))
        shutil.copy(second.path, images.folder / "b" / "conflict.png")
        few = scan(images.folder).at_most(2)
        assert len(few.files) == len(few.labels) == 4
        assert first.sha256 in few.labels
        assert second.sha256 not in few.labels
