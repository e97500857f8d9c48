"""A list of images as CSV: read as it was written, and refused with the line that is wrong."""

import os
import re
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as given_any
from hypothesis import strategies as st

from cache.errors import DatasetError
from extract.dataset import scan
from extract.sources.csv_manifest import (
    Row,
    list_remarks,
    read_list,
    rows_of,
    write_list,
    write_rows,
)
from extract.sources.hash_index import known_files
from extract.sources.image_file import ImageFile, to_path
from tests.killing import draw_images

pytestmark = pytest.mark.slow

OLD = 10**18  # ns; long before any test


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = draw_images(tmp_path / "images", 6)
    for path in images.glob("*/*"):
        os.utime(path, ns=(OLD, OLD))
    return images


def given(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_list_is_a_set_of_images_like_the_folder(folder: Path, tmp_path: Path) -> None:
    images = scan(folder)
    write_list(tmp_path / "lists" / "all.csv", images.files)
    listed = scan(tmp_path / "lists" / "all.csv")
    assert listed.labels == images.labels
    assert [f.path.resolve() for f in listed.files] == [f.path.resolve() for f in images.files]
    assert (listed.name, listed.remarks) == ("lists/all.csv", [])


def test_paths_are_relative_so_that_all_can_be_moved(folder: Path, tmp_path: Path) -> None:
    write_list(tmp_path / "lists" / "all.csv", scan(folder).files)
    assert "../images/a/0.png,a\n" in (tmp_path / "lists" / "all.csv").read_text()
    before = scan(folder).labels
    (tmp_path / "elsewhere").mkdir()
    for name in ("images", "lists"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    assert scan(tmp_path / "elsewhere" / "lists" / "all.csv").labels == before


def test_a_list_in_a_linked_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    write_list(tmp_path / "link" / "all.csv", scan(folder).files)
    assert len(scan(tmp_path / "link" / "all.csv").files) == 6


def test_absolute_paths_other_columns_in_any_order_and_excels_bom(
    folder: Path, tmp_path: Path
) -> None:
    text = f"\ufefflabel,seen,path\r\na,x,{folder}/a/0.png\r\n\r\nb,,images/b/1.png\r\n"
    images = scan(given(tmp_path / "l.CSV", text))
    assert [(f.label, f.path.name) for f in images.files] == [("a", "0.png"), ("b", "1.png")]


def test_names_of_any_kind_come_back(tmp_path: Path) -> None:
    names = ("a,b.png", 'quo"ted.png', "two\nlines.png", " é.png", os.fsdecode(b"n\xe9.png"))
    files = [ImageFile(tmp_path / name, "die Klasse, gel", b"") for name in names]
    write_list(tmp_path / "l.csv", files)
    listed = [("die Klasse, gel", str(tmp_path / name)) for name in names]
    assert read_list(tmp_path / "l.csv") == listed


def test_remarks_are_those_of_folders(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "a" / "0.png", folder / "a" / "copy.png")
    (folder / "notes.txt").write_text("x")
    rows = ("a/0.png,a", "a/copy.png,a", "a/2.png,a", "a/2.png,b", "b/1.png,b", "notes.txt,b",
            "b/gone.png,b")  # fmt: skip
    images = scan(given(folder / "l.csv", "path,label\n" + "\n".join(rows)))
    assert {file.path.name for file in images.unique} == {"0.png", "1.png"}
    ignored, gone, conflict, copies = images.remarks
    assert "1 file(s) ignored because they are not images: 1 .txt" in ignored
    assert "gone.png can't be opened: No such file or directory (line 8)" in gone
    assert "2 files left out, the same image lying in two classes" in conflict
    assert "1 file(s) are exact copies" in copies


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column path and label"),
        ("path,class\na.png,a\n", "line 1: no column label: found path, class. Name the col"),
        ("x/1.png,a\nx/2.png,a\n", "line 1: no column .*found an image instead, x/1.png, a. Add"),
        ("path,label,Path\na.png,a,b\n", "line 1: there are several columns path. Rename"),
        ("path,label\na.png,a\nb,c.png,a\n", "line 3: it has 3 cells, but the first line names 2"),
        ("path,label\na.png,\u200b\n", "line 2: the label has blanks only"),
        ('path,label\na.png,"a\nb.png,a\n', "line 3: unexpected end of data"),
        ("path,label\na.png,gel\xe9\n".encode("cp1252"), "line 2: .* Windows-1252 .* 'gelé'"),
        ("path,label\na.png,a\n".encode("utf-16-le"), "line 1: .* as UTF-16 has"),
        (b"\xff\xfep\0a", "line 1: no column"),
        (b"\xff\xfep\0\0\xd8\0\xd8", "it is not UTF-16 text"),
        ("path,label\n", "lists no image"),
        ("path,label\na.png,a\nb.png\n", "line 3: no label"),
        ('path,label\n"two\nlines.png",\n', "line 3: no label"),
        ("path,label\n,a\n", "line 2: no path"),
        ("path,label\na\0.png,a\n", "line 2: no path"),
        ("path,label,sha256\na.png,a,00\n", "line 2: sha256 must be 64 hexadecimal digits"),
        (f"path,label,sha256\na.png,a,\nb.png,a,{'g' * 64}\n", "line 3: sha256 must be 64 hex"),
        ("path,label\n\ngone.png,a\n", "of 1 file.* in line 3: 'gone.png', looked for at /.*gone"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(DatasetError, match=f"(?s)l.csv.*{message}"):
        scan(given(tmp_path / "l.csv", text))


def test_a_hash_is_believed_and_the_file_is_neither_opened_nor_looked_at(tmp_path: Path) -> None:
    digits = "AB" * 32
    path = given(tmp_path / "l.csv", f"path,label,sha256\ngone.png,a,{digits}\n")
    table = tmp_path / "scan.sqlite"
    images = scan(path, table=table)
    assert images.labels == {bytes.fromhex(digits): "a"}
    assert images.remarks == []
    assert not table.exists()


def test_hashes_may_be_empty_or_missing_in_a_line(folder: Path, tmp_path: Path) -> None:
    text = f"path,label,sha256\nimages/a/0.png,a,\nimages/b/1.png,b\ngone.png,a,{'00' * 32}\n"
    listed = scan(given(tmp_path / "l.csv", text)).files
    assert [file.sha256 for file in listed] == [
        *(sha256((folder / name).read_bytes()).digest() for name in ("a/0.png", "b/1.png")),
        bytes(32),
    ]


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        Row("a", f"{tmp_path}/x,\n.png", None),
        Row("gelé", "s3://bucket/é ö.png", bytes(range(32))),
        Row("a", os.fsdecode(b"/n\xe9.png"), None),
    ]
    write_rows(tmp_path / "l.csv", iter(rows))
    assert list(rows_of(tmp_path / "l.csv")) == rows


def test_images_behind_urls_are_listed_as_they_are(tmp_path: Path) -> None:
    files = [ImageFile(to_path("s3://bucket/a/1.png"), "a", bytes(32))]
    write_list(tmp_path / "l.csv", files)
    assert read_list(tmp_path / "l.csv") == [("a", "s3://bucket/a/1.png")]


def test_a_path_may_be_a_file_url(tmp_path: Path) -> None:
    path = given(tmp_path / "l.csv", "path,label\nfile:///x/1.png,a\n")
    assert read_list(path) == [("a", "/x/1.png")]


def test_a_missing_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.csv is not a folder"):
        scan(tmp_path / "gone.csv")


def test_hashes_are_remembered_for_lists_and_folders_alike(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.sources.hash_index.SETTLED_NS", -1)
    table, one = tmp_path / "scan.sqlite", given(folder / "l.csv", "path,label\na/0.png,a\n")
    scan(folder, table=table)
    first = folder / "a" / "0.png"
    first.write_bytes(bytes(len(first.read_bytes())))
    os.utime(first, ns=(OLD, OLD))
    assert scan(one, table=table).files[0].sha256 == scan(folder, table=table).files[0].sha256
    assert len(known_files(table)) == 6  # a list of some forgets none of the others


SPREADSHEETS = {
    "semicolons": "path;label\na/0.png;a\nb/1.png;b\n",
    "tabs": "path\tlabel\na/0.png\ta\nb/1.png\tb\n",
    "Excel's separator": "sep=;\r\npath;label\r\na/0.png;a\r\nb/1.png;b\r\n",
    "backslashes": "path,label\na\\0.png,a\n.\\b\\1.png,b\n",
    "blanks in the first line": " Path , LABEL\na/0.png,a\nb/1.png,b\n",
    "blanks after separators": 'path, label\na/0.png, "a"\n b/1.png, b\n',
    "separators at the end": "path,label,\na/0.png,a,\nb/1.png,b,,\n,,\n",
    "everything quoted": '"path","label"\r\n"a/0.png","a"\r\n\r\n"b/1.png","b"\r\n',
    "comments": "# gels of May\npath,label\n# the first, and others\na/0.png,a\nb/1.png,b\n",
    "an old Mac": "path,label\ra/0.png,a\rb/1.png,b\r",
}


@pytest.mark.parametrize("kind", SPREADSHEETS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_what_spreadsheets_make_of_a_list_is_read(kind: str, encoding: str, folder: Path) -> None:
    found = scan(given(folder / "l.csv", SPREADSHEETS[kind].encode(encoding)))
    assert [(f.label, f.path.name) for f in found.files] == [("a", "0.png"), ("b", "1.png")]
    assert found.remarks == []


@pytest.mark.parametrize(
    ("names", "remark"),
    [
        ("patient,split", "columns not used: patient, split. Groups and given splits are not"),
        (
            ",SHA-256",
            r"columns not used: column 3 \(without a name\), SHA-256.* call the column sha",
        ),
        (",".join(f"c{n}" for n in range(9)), "columns not used: c0, c1, c2, c3, c4 and 4 more"),
    ],
)
def test_columns_that_are_not_used_are_named(names: str, remark: str, folder: Path) -> None:
    (line,) = scan(given(folder / "l.csv", f"path,label,{names}\na/0.png,a,x\nb/1.png,b\n")).remarks
    assert re.search(remark, line)
    assert list_remarks(folder / "l.csv") == [line]


@pytest.mark.parametrize("gone", [4, 1])
def test_most_files_gone_stop_with_the_first_and_one_costs_itself(gone: int, folder: Path) -> None:
    lost = "".join(f"C:\\gels\\{number}.png,a\n" for number in range(gone))
    path = given(folder / "l.csv", f"path,label\n{lost}a/0.png,a\nb/1.png,b\n")
    if gone == 1:
        assert [f.reason for f in scan(path).unopened] == ["No such file or directory (line 2)"]
        return
    with pytest.raises(
        DatasetError, match=r"4 of 6 file.* in line 2: 'C:\\gels\\0.png', looked for"
    ):
        scan(path)


def test_machine_made_files_in_a_list_are_left_out(folder: Path) -> None:
    path = given(folder / "l.csv", "path,label\na/0.png,a\na/@eaDir/0.png/T.jpg,a\n.x/1.png,a\n")
    found = scan(path)
    assert (
        "1 file(s) ignored because they are hidden or made by a system: 1 @eaDir" in found.notes[0]
    )
    assert [Path(f.path).parent.name for f in found.unopened] == [".x"]  # given by a user


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given_any(
    st.one_of(
        st.binary(max_size=200),
        st.text(alphabet=st.sampled_from('path,label;\t\n\r"\\# \0é\ufeff'), max_size=60).map(
            lambda text: b"path,label\n" + text.encode()
        ),
        st.tuples(
            st.sampled_from([b"", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xff\xfe\0\0"]),
            st.text(max_size=60),
            st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "utf-32-le"]),
        ).map(lambda it: it[0] + f"path,label\n{it[1]}".encode(it[2], "replace")),
    )
)
def test_any_bytes_are_rows_or_an_error_of_ours(tmp_path: Path, content: bytes) -> None:
    path = given(tmp_path / "l.csv", content)
    try:
        rows = list(rows_of(path))
    except DatasetError as error:
        assert str(error).startswith(str(path))
    else:
        assert all(row.path and row.label.strip() for row in rows)
        list_remarks(path)
