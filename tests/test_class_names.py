"""Names of classes: one spelling each, and no two that people read as one."""

import shutil
from pathlib import Path

import pytest

from cache.errors import DatasetError
from evaluate.test_set import check_classes
from extract.dataset import scan
from extract.distributed.shards import list_shards
from extract.sources.class_names import class_name, look_alikes
from extract.sources.local_copy import make_local
from tests.killing import draw_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_images(tmp_path / "images", 6)


@pytest.mark.parametrize(
    "raw", ["intact ", "\tintact\n", "\u00a0intact", "\ufeffintact", "intact\u200b", "\u3000intact"]
)
def test_blanks_around_a_name_are_removed(raw: str) -> None:
    assert class_name(raw) == "intact"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        *(
            ("intact", "Intact"),
            ("not gel", "not  gel"),
            ("not_gel", "not gel"),
            ("a-b", "a\u2013b"),
        ),
        *(("intact", "int\u0430ct"), ("Hot", "\u041dot"), ("\u03bfk", "ok"), ("gel", "\uff47el")),
        *(("in\u00adtact", "intact"), ("Intact", "lntact"), ("grade 10", "grade 1O")),
        *(
            ("STRASSE", "stra\u00dfe"),
            ("\u041d\u041e\u0420\u041c\u0410", "\u043d\u043e\u0440\u043c\u0430"),
        ),
    ],
)
def test_names_that_look_alike(a: str, b: str) -> None:
    assert look_alikes({a, b, "other"}) == [tuple(sorted((a, b)))]


@pytest.mark.parametrize(
    ("a", "b"),
    [("1-2", "12"), ("-1", "1"), ("1.0", "10"), ("gel +", "gel -"), ("gelé", "gele"), ("0", "O"),
     ("gel", "not_gel"), ("type I", "type II"), ("1 2", "12"), ("score -1", "score 1")],
)  # fmt: skip
def test_names_that_do_not(a: str, b: str) -> None:
    assert look_alikes({a, b}) == []


def rename(images: Path, name: str) -> None:
    """Give one image of class a another spelling of it."""
    (images / name).mkdir()
    shutil.move(images / "a" / "0.png", images / name / "0.png")


@pytest.mark.parametrize("form", ["folder", "list", "zip", "tar", "shards", "listed shards"])
def test_every_reader_stops_and_says_how_many_have_which(form: str, images: Path) -> None:
    if "list" in form:
        rows = "".join(f"{p.parent.name}/{p.name},{p.parent.name}\n" for p in images.glob("*/*"))
        path = images / "l.csv"
        path.write_text("path,label\n" + rows.replace("a/0.png,a", "a/0.png,A"))
    else:
        rename(images, "A")
        path = images
    if form in ("zip", "tar"):
        path = Path(shutil.make_archive(str(images), form, images))
    message = (
        r"'a' \(2 image\(s\)\) and 'A' \(1 image\(s\), first: .*\) differ only by upper and low"
    )
    with pytest.raises(DatasetError, match=message):
        next(list_shards(path, 4)) if "shards" in form else scan(
            make_local(path, images.parent / "out")
        )


def test_folders_that_differ_by_blanks_around_are_one_class_and_it_is_said(images: Path) -> None:
    rename(images, "a ")
    found = scan(images)
    assert {file.label for file in found.files} == {"a", "b"}
    assert "1 image(s) have a class with blanks around its name ('a ')" in found.remarks[0]


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "b"), ("validation", "training")])
def test_parts_of_a_data_set_are_no_classes(names: tuple[str, str], images: Path) -> None:
    for old, new in zip("ab", names, strict=True):
        (images / old).rename(images / new) if old != new else None
    if "b" in names:  # one such name may be a class
        assert {file.label for file in scan(images).files} == set(names)
        return
    with pytest.raises(DatasetError, match=f"--dataset {images}/train.* --test {images}/"):
        scan(images)


def test_a_test_class_under_another_spelling_is_named(images: Path) -> None:
    with pytest.raises(DatasetError, match="'a' is probably the class 'A' of the training images"):
        check_classes(["A", "b"], scan(images))
