"""Built engines are kept whole or not at all, and never believed unseen."""

from pathlib import Path

import pytest

from extract.kept import NOTE, Shelf, Slot


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    return Shelf(tmp_path / "engines").slot("toy", weights="ab", version=1)


def write(folder: Path) -> None:
    (folder / "graph.bin").write_bytes(b"weights")


def test_what_is_kept_is_found(slot: Slot) -> None:
    assert slot.read() is None
    slot.fill(write, deviation=0.5)
    note = slot.read()
    assert note and note["deviation"] == 0.5
    assert (slot.folder / "graph.bin").read_bytes() == b"weights"


def test_any_difference_is_another_place(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    assert shelf.slot("toy", weights="ab") == shelf.slot("toy", weights="ab")
    assert len({shelf.slot("toy", weights=w, n=n) for w in ("ab", "cd") for n in (1, 2)}) == 4


@pytest.mark.parametrize("name", ["graph.bin", NOTE])
@pytest.mark.parametrize("damage", [b"", b"{}", b"weighty"])
def test_what_is_damaged_is_removed_and_made_again(slot: Slot, name: str, damage: bytes) -> None:
    slot.fill(write)
    (slot.folder / name).write_bytes(damage)
    assert slot.read() is None
    assert not slot.folder.exists()
    slot.fill(write)
    assert slot.read() is not None


def test_an_interrupted_builder_leaves_nothing(slot: Slot) -> None:
    def interrupted(folder: Path) -> None:
        write(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slot.fill(interrupted)
    assert slot.read() is None
    assert [path.name for path in slot.folder.parent.iterdir()] == [".lock"]


def test_a_killed_builder_is_cleaned_up_after(slot: Slot) -> None:
    leftover = slot.folder.parent / f".{'0' * 32}.tmp"
    leftover.mkdir(parents=True)
    write(leftover)
    slot.fill(write)
    assert not leftover.exists()


def test_of_two_builders_the_first_stays(slot: Slot) -> None:
    slot.fill(write, who=1)
    slot.fill(write, who=2)
    note = slot.read()
    assert note and note["who"] == 1
