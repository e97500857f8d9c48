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
def artifact(tmp_path: Path) -> Artifact:
    return ArtifactStore(tmp_path / "engines").artifact("toy", weights="ab", version=1)


def write(folder: Path) -> None:
    (folder / "graph.bin").write_bytes(b"weights")


def test_what_is_kept_is_found(artifact: Artifact) -> None:
    assert artifact.read(Checked) is None
    artifact.fill(write, deviation=0.5)
    note = artifact.read(Checked)
    assert note and note.deviation == 0.5
    assert (artifact.folder / "graph.bin").read_bytes() == b"weights"


def test_any_difference_is_another_place(tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path)
    assert artifacts.artifact("toy", weights="ab") == artifacts.artifact("toy", weights="ab")
    assert (
        len({artifacts.artifact("toy", weights=w, n=n) for w in ("ab", "cd") for n in (1, 2)}) == 4
    )


@pytest.mark.parametrize("name", ["graph.bin", NOTE])
@pytest.mark.parametrize("damage", [b"", b"{}", b"weighty"])
def test_what_is_damaged_is_removed_and_made_again(
    artifact: Artifact, name: str, damage: bytes
) -> None:
    artifact.fill(write)
    (artifact.folder / name).write_bytes(damage)
    assert artifact.read(Note) is None
    assert not artifact.folder.exists()
    artifact.fill(write)
    assert artifact.read(Note) is not None


def test_an_interrupted_builder_leaves_nothing(artifact: Artifact) -> None:
    def interrupted(folder: Path) -> None:
        write(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        artifact.fill(interrupted)
    assert artifact.read(Note) is None
    assert [path.name for path in artifact.folder.parent.iterdir()] == [".lock"]


def test_a_killed_builder_is_cleaned_up_after(artifact: Artifact) -> None:
    leftover = artifact.folder.parent / f".{'0' * 32}.tmp"
    leftover.mkdir(parents=True)
    write(leftover)
    artifact.fill(write)
    assert not leftover.exists()


def test_of_two_builders_the_first_stays(artifact: Artifact) -> None:
    artifact.fill(write, deviation=1)
    artifact.fill(write, deviation=2)
    note = artifact.read(Checked)
    assert note and note.deviation == 1


def test_every_flipped_bit_of_a_note_is_noticed(artifact: Artifact) -> None:
    artifact.fill(write, deviation=3e-06)
    path = artifact.folder / NOTE
    whole = path.read_bytes()
    for place in range(len(whole)):
        artifact.remove()
        artifact.fill(write, deviation=3e-06)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert artifact.read(Checked) is None


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
    text: str, artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    artifact.fill(write, deviation=1)
    (artifact.folder / NOTE).write_text(text, errors="surrogateescape")
    assert artifact.read(Checked) is None and not artifact.folder.exists()
    assert (
        f"{artifact.folder} is damaged, or of an earlier version. It is made again." in caplog.text
    )


def test_a_graph_whose_note_is_missing_is_not_used(artifact: Artifact) -> None:
    artifact.fill(write, deviation=1)
    (artifact.folder / NOTE).unlink()
    assert artifact.read(Checked) is None
    artifact.fill(write, deviation=2)
    assert (note := artifact.read(Checked)) and note.deviation == 2


def test_a_note_with_the_new_hash_of_another_file_is_not_believed(artifact: Artifact) -> None:
    artifact.fill(write, deviation=1)
    (artifact.folder / "graph.bin").write_bytes(b"others")
    note = json.loads((artifact.folder / NOTE).read_text())
    note["files"]["graph.bin"] = sha256(b"others").hexdigest()
    (artifact.folder / NOTE).write_text(json.dumps(note))
    assert artifact.read(Checked) is None
