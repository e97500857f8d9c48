"""`cli.py cache …`, and what extraction says about images and to signals."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cache.embedding_key import EmbeddingKey
from cache.segment import write_segment
from cache.store import Cache, find_caches, open_cache, read_all, summarize
from extract.embedding_spec import LoadedBackbone
from frostline.cli.main import cli
from tests.conftest import ROOT
from tests.odd_images import huge, saved
from tests.test_cache import NOTE

pytestmark = pytest.mark.slow

Few = Callable[[int, int], Path]


def frostline(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def spoken(*arguments: object) -> str:
    done = frostline(*arguments)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: object) -> str:
    done = frostline(*arguments)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit), done.exception
    return done.output


@pytest.fixture
def place(toy: LoadedBackbone, few: Few, tmp_path: Path) -> list[object]:
    """Options that name the toy's few images and workspace; its two caches are there."""
    data, out = few(3, 1), tmp_path / "out"
    options = ["--dataset", data / "dataset", "--test", data / "test_images", "--workspace", out]
    for precision in ("fp32", "bf16"):
        spoken("extract", *TOY, "--precision", precision, *options)
    return options


# The command line's choices were made before the toy was in the table: it goes by another's name.
TOY = ("--arch", "resnet18", "--device", "cpu", "--weights", "random")


@pytest.fixture(autouse=True)
def toy_as_resnet18(toy: LoadedBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    from extract.backbones import BACKBONES

    monkeypatch.setitem(BACKBONES, "resnet18", BACKBONES["toy"])


def workspace(place: list[object]) -> Path:
    return Path(str(place[-1]))


def found(place: list[object]) -> list[Cache]:
    return find_caches(workspace(place) / "cache")


def test_ls_says_what_is_there(place: list[object]) -> None:
    text = spoken("cache", "ls", *place[-2:])
    for cache in found(place):
        assert str(cache.folder) in text
        assert f"weights_sha256: {cache.key.weights_sha256}" in text
    assert "8 rows of 8 numbers" in text
    assert "gray: JPEG: luma as stored" in text
    assert "weights from: random:0" in text
    assert "engine: openvino" in text


def test_verify_names_every_damaged_segment_and_no_other(place: list[object]) -> None:
    assert "2 segment(s)" in spoken("cache", "verify", *place[-2:])
    damaged = found(place)[0].segments[0]
    data = bytearray(damaged.read_bytes())
    data[-100] ^= 1
    damaged.write_bytes(data)
    text = refused("cache", "verify", *place[-2:])
    assert damaged.name in text
    assert "Delete this file and run extract again" in text
    assert "1 of 2 segments are damaged" in text


def test_verify_finds_a_segment_in_the_wrong_folder(place: list[object]) -> None:
    first, second = found(place)
    shutil.copy(first.segments[0], second.folder)
    assert f"move it to the folder {first.folder.name}" in refused("cache", "verify", *place[-2:])


def test_compact_makes_one_mapped_file_of_each(place: list[object]) -> None:
    before = [read_all(cache).embeddings for cache in found(place)]
    text = spoken("cache", "compact", *place[-2:])
    for cache, rows_before in zip(found(place), before, strict=True):
        assert str(cache.segments[0]) in text
        assert np.array_equal(read_all(cache).embeddings, rows_before)
    assert "compacted" in spoken("cache", "ls", *place[-2:])
    assert "0 image(s) computed" in spoken("extract", *TOY, *place)


def test_prune_asks_first_and_drops_what_is_gone(place: list[object]) -> None:
    assert "0 image(s) are gone" in spoken("cache", "prune", *place)
    next(Path(str(place[1]), "gel").iterdir()).unlink()
    asked = CliRunner().invoke(cli, [str(a) for a in ("cache", "prune", *place)], input="n\n")
    assert "1 image(s) are gone" in asked.output
    assert asked.exit_code == 1
    assert [len(summarize(cache).stored) for cache in found(place)] == [8, 8]
    spoken("cache", "prune", "--yes", *place)
    assert [len(summarize(cache).stored) for cache in found(place)] == [7, 7]


def rows_left(place: list[object]) -> list[int]:
    return [len(summarize(cache).stored) for cache in found(place)]


@pytest.mark.parametrize("harm", ["future", "table deleted", "table damaged"])
def test_prune_spares_images_that_exist_whatever_is_remembered(
    harm: str, place: list[object]
) -> None:
    """The table of hashes only saves time: what exists is read."""
    other, table = workspace(place).parent / "other", workspace(place) / "cache" / "scan.sqlite"
    for label in ("x", "y"):
        (other / label).mkdir(parents=True)
        Image.new("L", (9, 9), ord(label)).save(other / label / "1.png")
        if harm == "future":
            os.utime(other / label / "1.png", ns=(4 * 10**18, 4 * 10**18))
    spoken("extract", *TOY, "--dataset", other, "--workspace", workspace(place), *place[2:4])
    before = rows_left(place)
    if harm == "table deleted":
        table.unlink(missing_ok=True)
    elif harm == "table damaged":
        table.write_bytes(b"no database" * 1000)
    assert "0 image(s) are gone" in spoken("cache", "prune", "--yes", *place)
    assert rows_left(place) == before


@pytest.mark.parametrize("harm", ["renamed", "a class gone", "a link to nowhere", "not to be read"])
def test_prune_refuses_where_images_may_exist(harm: str, place: list[object]) -> None:
    folder = Path(str(place[1]))
    if harm == "renamed":
        folder.rename(folder.with_name("elsewhere"))
    elif harm == "a class gone":  # as where a disk is not mounted
        shutil.rmtree(folder / "gel")
        (folder / "gel").mkdir()
    elif harm == "a link to nowhere":
        (folder / "gel").rename(folder.with_name("gel"))
        (folder / "gel").mkdir()
        next(folder.with_name("gel").iterdir()).rename(folder / "gel" / "1.jpg")
        (folder / "gel" / "batch2").symlink_to(folder / "not mounted")
    else:
        next((folder / "gel").iterdir()).rename(folder / "x")
        (folder / "gel" / "1.png").symlink_to(folder / "not mounted")
    text = refused("cache", "prune", "--yes", *place[2:])
    assert f"{folder} can't be read as a whole (" in text and "no row is dropped" in text
    assert rows_left(place) == [8, 8]


def test_a_data_set_that_is_gone_for_good_is_named_by_hand(place: list[object]) -> None:
    folder = Path(str(place[1]))
    forget = ("cache", "prune", "--yes", "--forget", folder, *place[2:])
    assert "it exists" in refused(*forget)
    assert "no such data set" in refused(*forget[:4], folder.parent, *place[2:])
    shutil.rmtree(folder)
    spoken(*forget)
    assert rows_left(place) == [2, 2]
    assert "0 image(s) are gone" in spoken("cache", "prune", *place[2:])


@pytest.mark.parametrize("harm", ["record deleted", "record damaged", "of an earlier version"])
def test_prune_refuses_where_data_sets_are_not_known(harm: str, place: list[object]) -> None:
    record = workspace(place) / "cache" / "datasets.sqlite"
    if harm == "record damaged":
        record.write_bytes(b"no database" * 1000)
    else:
        record.unlink()
    if harm == "of an earlier version":  # then this extract begins the record, too late
        spoken("extract", *TOY, *place)
    next(Path(str(place[1]), "gel").iterdir()).unlink()
    text = refused("cache", "prune", "--yes", *place)
    assert str(record) in text
    assert rows_left(place) == [8, 8]


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_export_gives_rows_with_paths_and_labels(
    place: list[object], suffix: str, tmp_path: Path
) -> None:
    out = tmp_path / f"rows{suffix}"
    spoken("cache", "export", "--out", out, *place)
    for cache in found(place):
        name = cache.key.name
        if suffix == ".npz":
            with np.load(out, allow_pickle=False) as file:
                columns = {c: file[f"{name}/{c}"] for c in COLUMNS}
        else:
            table = pd.read_parquet(out.with_suffix(f".{name}.parquet"))
            assert list(table) == COLUMNS
            columns = {c: table[c].to_numpy() for c in COLUMNS}
            columns["embedding"] = np.stack(list(columns["embedding"]))
        whole = read_all(cache)
        assert list(columns["hash"]) == [h.tobytes().hex() for h in whole.hashes]
        assert np.array_equal(columns["embedding"], whole.embeddings)
        for path, label in zip(columns["path"], columns["label"], strict=True):
            assert Path(path).is_file()
            assert Path(path).parent.name == label


COLUMNS = ["hash", "view", "embedding", "path", "label"]


def test_exports_of_equal_caches_are_equal(place: list[object], tmp_path: Path) -> None:
    for suffix in (".npz", ".parquet"):
        one = ("--arch", "resnet18", "--device", "cpu")
        spoken("cache", "export", "--out", tmp_path / f"a{suffix}", *one, *place)
    spoken("cache", "compact", *place[-2:])
    for suffix in (".npz", ".parquet"):
        spoken("cache", "export", "--out", tmp_path / f"b{suffix}", *one, *place)
    pairs = zip(sorted(tmp_path.glob("a*")), sorted(tmp_path.glob("b*")), strict=True)
    assert all(a.read_bytes() == b.read_bytes() for a, b in pairs)


def test_one_cache_is_exported_under_plain_names(place: list[object], tmp_path: Path) -> None:
    shutil.rmtree(found(place)[0].folder)
    spoken("cache", "export", "--out", tmp_path / "rows.npz", *place)
    with np.load(tmp_path / "rows.npz") as file:
        assert list(file) == COLUMNS


def test_another_kind_of_export_is_refused(place: list[object], tmp_path: Path) -> None:
    text = refused("cache", "export", "--out", tmp_path / "rows.pkl", *place)
    assert ".npz or .parquet" in text


@pytest.mark.parametrize("command", ["ls", "verify", "compact", "prune", "export"])
def test_a_workspace_without_caches_says_what_to_do(command: str, tmp_path: Path) -> None:
    extra = ["--out", tmp_path / "rows.npz"] if command == "export" else []
    text = refused("cache", command, "--workspace", tmp_path / "typo", *extra)
    assert "typo does not exist. Run `cli.py run` first" in text
    assert not (tmp_path / "typo").exists()
    (tmp_path / "cache").mkdir()
    text = refused("cache", command, "--workspace", tmp_path, *extra)
    assert "run extract first, or see --workspace" in text


def test_a_cache_of_an_older_make_is_left_out_with_every_difference(
    place: list[object],
) -> None:
    """Its pixels were made by other rules: whole models would not see what its heads saw."""
    kept, left = found(place)
    old = dataclasses.replace(left.key, gray="mean of channels", size=256)
    move_to(left, open_cache(left.folder.parent, old).folder, old)
    done = frostline("train-heads", "--dataset", place[1], *place[-2:])
    assert done.exit_code == 0, done.output
    assert "gray: 'mean of channels', not 'JPEG: luma" in done.output
    assert "size: 256, not 224" in done.output
    assert kept.key.name in done.output


def move_to(cache: Cache, folder: Path, key: EmbeddingKey) -> None:
    whole = read_all(cache)
    write_segment(folder, key, whole, [], NOTE)
    shutil.rmtree(cache.folder)


class TestImages:
    def test_the_summary_names_the_table_of_failures(self, place: list[object]) -> None:
        for number in range(7):
            Path(str(place[1]), "gel", f"bad{number}.png").write_bytes(b"no image %d" % number)
        text = spoken("extract", *TOY, *place)
        table = workspace(place) / "failures.csv"
        assert f"7 of 15 images could not be read: see {table}" in text
        listed = pd.read_csv(table)
        assert list(listed) == ["path", "reason", "sha256"]
        assert len(listed) == 7
        for path in Path(str(place[1]), "gel").glob("bad*"):
            path.unlink()
        spoken("extract", *TOY, *place)
        assert not table.exists()

    def test_strict_stops_and_keeps_what_was_done(self, place: list[object]) -> None:
        bad = Path(str(place[1]), "gel", "zz.png")
        bad.write_bytes(b"no image")
        text = refused("extract", *TOY, "--weights", "random", "--seed", 1, "--strict", *place)
        assert "zz.png: not an image of a known format (--strict)" in text
        assert any(len(summarize(cache).stored) == 8 for cache in found(place)[1:])

    def test_further_pages_are_told(self, place: list[object]) -> None:
        pages = [Image.new("L", (9, 9), 3), Image.new("L", (9, 9), 4)]
        data = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
        Path(str(place[1]), "gel", "two.tif").write_bytes(data)
        text = spoken("extract", *TOY, *place)
        assert "1 file(s) have several pages or frames, of which the first was used" in text

    def test_the_limit_on_pixels_can_be_set(
        self, place: list[object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
        Path(str(place[1]), "gel", "large.png").write_bytes(saved(Image.new("L", (90, 90)), "PNG"))
        Path(str(place[1]), "gel", "bomb.png").write_bytes(huge("PNG"))
        text = spoken("extract", *TOY, "--max-pixels", 5000, *place)
        assert "too large: 90 x 90 pixels (see --max-pixels)" in text
        text = spoken("extract", *TOY, "--max-pixels", 10_000, *place)
        assert "1 of 10 images could not be read" in text


def test_a_terminal_closed_and_a_kill_are_heard_like_ctrl_c(tmp_path: Path) -> None:
    """Real signals to a real process: it ends after its batch, and what it computed is kept."""
    for name in ("SIGTERM", "SIGHUP"):
        out = tmp_path / name
        command = [sys.executable, str(ROOT / "cli.py"), "extract", "--arch", "resnet18"]
        command += ["--device", "cpu", "--weights", "random", "--workspace", str(out)]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.STDOUT) as run:
            while not list(out.glob("cache/engines/resnet18-fp32-*")):  # its first batch waits
                assert run.poll() is None
                time.sleep(0.05)
            run.send_signal(getattr(signal, name))
            assert run.wait(60) == 130
        (cache,) = find_caches(out / "cache")
        assert 0 < len(summarize(cache).stored) <= 32  # of one batch
        assert not list(out.rglob("*.tmp"))
