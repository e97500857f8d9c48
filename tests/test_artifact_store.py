"""Built engines are kept whole or not at all, and never believed unseen."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from extract.artifact_store import NOTE, Artifact, ArtifactStore, Note


@dataclass(frozen=True)
class Checked(Note):
    deviation: float


@pytest.fixture
def slot(tmp_path: Path) -> Artifact:
    return ArtifactStore(tmp_path / "engines").slot("toy", weights="ab", version=1)


def write(folder: Path) -> None:
    (folder / "graph.bin").write_bytes(b"weights")


def test_what_is_kept_is_found(slot: Artifact) -> None:
    assert slot.read(Checked) is None
    slot.fill(write, deviation=0.5)
    note = slot.read(Checked)
    assert note and note.deviation == 0.5
    assert (slot.folder / "graph.bin").read_bytes() == b"weights"


def test_any_difference_is_another_place(tmp_path: Path) -> None:
    shelf = ArtifactStore(tmp_path)
    assert shelf.slot("toy", weights="ab") == shelf.slot("toy", weights="ab")
    assert len({shelf.slot("toy", weights=w, n=n) for w in ("ab", "cd") for n in (1, 2)}) == 4


@pytest.mark.parametrize("name", ["graph.bin", NOTE])
@pytest.mark.parametrize("damage", [b"", b"{}", b"weighty"])
def test_what_is_damaged_is_removed_and_made_again(
    slot: Artifact, name: str, damage: bytes
) -> None:
    slot.fill(write)
    (slot.folder / name).write_bytes(damage)
    assert slot.read(Note) is None
    assert not slot.folder.exists()
    slot.fill(write)
    assert slot.read(Note) is not None


def test_an_interrupted_builder_leaves_nothing(slot: Artifact) -> None:
    def interrupted(folder: Path) -> None:
        write(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slot.fill(interrupted)
    assert slot.read(Note) is None
    assert [path.name for path in slot.folder.parent.iterdir()] == [".lock"]


def test_a_killed_builder_is_cleaned_up_after(slot: Artifact) -> None:
    leftover = slot.folder.parent / f".{'0' * 32}.tmp"
    leftover.mkdir(parents=True)
    write(leftover)
    slot.fill(write)
    assert not leftover.exists()


def test_of_two_builders_the_first_stays(slot: Artifact) -> None:
    slot.fill(write, deviation=1)
    slot.fill(write, deviation=2)
    note = slot.read(Checked)
    assert note and note.deviation == 1


def test_every_flipped_bit_of_a_note_is_noticed(slot: Artifact) -> None:
    slot.fill(write, deviation=3e-06)
    path = slot.folder / NOTE
    whole = path.read_bytes()
    for place in range(len(whole)):
        slot.remove()
        slot.fill(write, deviation=3e-06)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert slot.read(Checked) is None


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"files": 1}',
        '{"files": {"graph.bin": 2}}',
        '{"files": {"a\\u0000b": "x"}, "deviation": 1}',
        '{"files": {}, "deviation": "small"}',
        "null",
        "\udc80",
    ],
)
def test_a_note_of_any_content_is_made_again_and_told(
    text: str, slot: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    slot.fill(write, deviation=1)
    (slot.folder / NOTE).write_text(text, errors="surrogateescape")
    assert slot.read(Checked) is None and not slot.folder.exists()
    assert f"{slot.folder} is damaged, or of an earlier version. It is made again." in caplog.text


def test_a_graph_whose_note_is_missing_is_not_used(slot: Artifact) -> None:
    slot.fill(write, deviation=1)
    (slot.folder / NOTE).unlink()
    assert slot.read(Checked) is None
    slot.fill(write, deviation=2)
    assert (note := slot.read(Checked)) and note.deviation == 2


def test_a_note_with_the_new_hash_of_another_file_is_not_believed(slot: Artifact) -> None:
    slot.fill(write, deviation=1)
    (slot.folder / "graph.bin").write_bytes(b"others")
    note = json.loads((slot.folder / NOTE).read_text())
    note["files"]["graph.bin"] = sha256(b"others").hexdigest()
    (slot.folder / NOTE).write_text(json.dumps(note))
    assert slot.read(Checked) is None
