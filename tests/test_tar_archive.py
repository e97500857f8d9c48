"""Tar archives of samples → images with classes; nothing dangerous is unpacked, nothing is lost."""

import io
import json
import random
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import fsspec
import pytest

from cache.errors import DatasetError
from extract.dataset import scan
from extract.sources import zip_archive
from extract.sources.image_file import to_path
from extract.sources.local_copy import make_local
from extract.sources.tar_archive import unpack_images
from tests.conftest import ROOT
from tests.killing import draw_images

Packed = Callable[..., Path]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_images(tmp_path / "images", 6)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "out" / "images"


@pytest.fixture
def packed(tmp_path: Path) -> Packed:
    """Pack members, by name and content, into an archive."""

    def pack(
        members: Iterable[tuple[str | tarfile.TarInfo, bytes]],
        name: str = "gels.tar",
        mode: str = "w",
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
            for given, content in members:
                info = given if isinstance(given, tarfile.TarInfo) else tarfile.TarInfo(given)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
        return path

    return pack


def of_folder(images: Path) -> list[tuple[str, bytes]]:
    """Return members of an archive with a folder per class."""
    return [
        (path.relative_to(images).as_posix(), path.read_bytes())
        for path in sorted(images.glob("*/*"))
    ]


def samples(images: Path, label: Callable[[str], tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Return members as WebDataset writes them: per image one more that says its class."""
    found = []
    for number, (name, content) in enumerate(of_folder(images)):
        suffix, said = label(name[0])
        found += [(f"{number:06}.png", content), (f"{number:06}{suffix}", said)]
    return found


def labels_of(tar: Path, into: Path) -> dict[str, str]:
    return {
        image.name: image.label or image.reason for image in unpack_images(tar, into.joinpath)[0]
    }


@pytest.mark.parametrize(
    "label",
    [
        lambda name: (".cls", f" {name}\n".encode()),
        lambda name: (".json", json.dumps({"label": name, "width": 3}).encode()),
        lambda name: (".json", json.dumps({"class": name}).encode()),
    ],
)
def test_samples_with_their_classes(
    images: Path, packed: Packed, root: Path, label: Callable[[str], tuple[str, bytes]]
) -> None:
    told: list[str] = []
    found = scan(make_local(packed(samples(images, label)), root, report=told.append))
    assert found.labels == scan(images).labels
    assert (found.name, found.remarks, told) == ("gels", [], [])


@pytest.mark.parametrize(
    ("name", "mode"), [("gels.tar", "w"), ("gels.tar.gz", "w:gz"), ("gels.TGZ", "w:gz")]
)
def test_folders_of_classes_compressed_or_not(
    images: Path, packed: Packed, root: Path, name: str, mode: str
) -> None:
    members = [(f"./train/{at}", content) for at, content in of_folder(images)]
    found = scan(make_local(packed(members, name, mode), root))
    assert found.labels == scan(images).labels
    assert found.name == "gels"


def test_real_images_in_a_folder_of_archives(packed: Packed, root: Path) -> None:
    members = of_folder(ROOT / "test_images")
    for number in range(3):
        path = packed(members[number::3], f"shards/test-{number:03}.tar")
    seen: list[tuple[int, int]] = []
    found = scan(make_local(path.parent, root, lambda *at: seen.append(at)))
    assert found.labels == scan(ROOT / "test_images").labels
    assert found.name == "shards"
    assert seen[-1] == (22, 22)


def test_a_folder_of_archives_behind_a_url(images: Path, packed: Packed, root: Path) -> None:
    files = fsspec.filesystem("memory")
    members = of_folder(images)
    for number in range(2):
        tar = packed(members[number::2], "gels.tgz", "w:gz")
        files.pipe(f"/of-tars/gels/{number}.tgz", tar.read_bytes())
    found = scan(make_local(to_path("memory://of-tars/gels"), root))
    assert found.labels == scan(images).labels
    assert found.name == "gels"
    files.rm("/of-tars", recursive=True)


def test_it_is_unpacked_once_and_anew_when_it_changes(
    images: Path, packed: Packed, root: Path
) -> None:
    members = of_folder(images)
    first = make_local(packed(members), root)
    before = first.stat().st_ino
    assert make_local(root.parents[1] / "gels.tar", root).stat().st_ino == before
    assert make_local(packed(members[:-1]), root) != first


def test_which_class_comes_first(tmp_path: Path, packed: Packed) -> None:
    """A .cls, a .json, the folder; a class may be a number, or have any name."""
    members = [
        ("x/1.png", b"1"), ("x/1.cls", b"T-shirt/top"), ("x/1.json", b'{"label": "no"}'),
        ("x/2.json", b'{"label": 7}'), ("x/2.png", b"2"),
        ("x/3.png", b"3"), ("x/3.json", b'{"caption": "a gel"}'),
        ("x/4.v1.png", b"4"), ("x/4.v2.png", b"5"),
        ("x/5.png", b"5"), ("x/5.cls", "gele\u0301".encode()),
    ]  # fmt: skip
    assert labels_of(packed(members), tmp_path / "in") == {
        "x/1.png": "T-shirt/top", "x/2.png": "7", "x/3.png": "x", "x/4.v1.png": "x",
        "x/4.v2.png": "x", "x/5.png": "gelé",
    }  # fmt: skip


def test_an_image_without_a_class_costs_itself_and_is_told(
    images: Path, packed: Packed, root: Path
) -> None:
    members = [
        *of_folder(images), ("loose.png", b"x"), ("a/both.in.png", b"x"), ("a/both.out.png", b"x"),
        ("a/both.cls", b"a"), ("a/bad.png", b"x"), ("a/bad.json", b"{"), ("readme.md", b"x"),
        ("a/._0.png", b"x"),
    ]  # fmt: skip
    told: list[str] = []
    tar = packed(members)
    found = scan(make_local(tar, root, report=told.append))
    assert found.labels == scan(images).labels
    assert told[0] == f"{tar}: 4 image(s) left out"
    assert f"{tar}/loose.png: no class: add a .cls" in told[1]
    assert f"{tar}/a/both.in.png: is one of 2 images of a sample" in told[2]
    assert "cannot be read (Expecting property name" in told[4]
    assert told[5:] == [
        f"{tar}: 1 file(s) ignored because they are hidden or made by a system: 1 ._* (macOS)",
        f"{tar}: 1 file(s) ignored because they are not images: 1 .md, such as readme.md",
    ]
    assert {path.name for path in found.folder.parent.rglob("*.png")} == {
        f"{number}.png" for number in range(6)
    }


@pytest.mark.parametrize("members", [[], [("readme.md", b"x")], [("loose.png", b"x")]])
def test_no_image_with_a_class(
    packed: Packed, root: Path, members: list[tuple[str, bytes]]
) -> None:
    with pytest.raises(DatasetError, match=r"gels\.tar has no image with a class in it"):
        make_local(packed(members), root)
    assert {path.name for path in root.iterdir()} == {".lock"}


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("a/../../../evil.png", "would be unpacked elsewhere"),
        ("/a/evil.png", "would be unpacked elsewhere"),
        ("a/C:/evil.png", "would be unpacked elsewhere"),
        (special("a/x.png", tarfile.SYMTYPE), r"x\.png is a link"),
        (special("a/x.png", tarfile.LNKTYPE), r"x\.png is a link"),
        (special("a/x.png", tarfile.FIFOTYPE), "is no ordinary file"),
        (special("a/x.png", tarfile.CHRTYPE), "is no ordinary file"),
        ("a/./0.png", "in it twice"),
        ("a/0.png/1.png", "a name that is taken"),
    ],
)
def test_what_is_dangerous_or_twice_is_refused_and_nothing_is_left(
    images: Path, packed: Packed, root: Path, member: str | tarfile.TarInfo, message: str
) -> None:
    with pytest.raises(DatasetError, match=rf"gels\.tar: .*{message}"):
        make_local(packed([*of_folder(images), (member, b"")]), root)
    assert {path.name for path in root.iterdir()} == {".lock"}
    assert list(root.parents[1].rglob("evil.png")) == []


def test_a_bomb_is_refused_before_it_grows(
    packed: Packed, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed([("a/b.png", bytes(2_000_000))], "gels.tar.gz", "w:gz")
    monkeypatch.setattr(zip_archive, "HARMLESS_BYTES", 10**6)
    with pytest.raises(DatasetError, match="would become 2,000,000"):
        make_local(path, root)
    assert {path.name for path in root.iterdir()} == {".lock"}


@pytest.mark.parametrize(("name", "mode"), [("gels.tar", "w"), ("gels.tgz", "w:gz")])
def test_damage_anywhere_is_an_error_and_loses_no_image_quietly(
    images: Path, packed: Packed, tmp_path: Path, name: str, mode: str
) -> None:
    """Bytes changed and ends cut off: every member comes out, or the archive is refused.

    A tar archive that is not compressed has no checksum of its members' contents.
    """
    path = packed(of_folder(images), name, mode)
    whole, pick = path.read_bytes(), random.Random(0)
    right = {content for _, content in of_folder(images)}
    last = 12 * tarfile.BLOCKSIZE if mode == "w" else len(whole)  # beyond are zeros
    refused = 0
    for trial in range(120):
        content = bytearray(whole)
        if trial % 10 == 0:
            del content[pick.randrange(last) :]
        else:
            content[pick.randrange(last)] ^= 1 << pick.randrange(8)
        path.write_bytes(content)
        try:
            found = unpack_images(path, (tmp_path / f"{trial}").joinpath)[0]
        except DatasetError as error:
            refused += name in str(error)
        else:
            assert len(found) == 6
            contents = {image.path.read_bytes() for image in found if image.path}
            assert contents == right or mode == "w"
    assert refused > 10


def test_archives_joined_or_cut_between_members_are_refused(
    images: Path, packed: Packed, tmp_path: Path
) -> None:
    path = packed(of_folder(images))
    whole = path.read_bytes()
    for content in (whole + whole, whole[: 4 * tarfile.BLOCKSIZE]):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match="is no tar archive or is damaged"):
            unpack_images(path, (tmp_path / f"{len(content)}").joinpath)
