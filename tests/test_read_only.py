"""A workspace that can only be read answers as any other; nothing is written into it."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cache.store import Cache
from frostline.cli.main import cli
from tests.conftest import ROOT
from tests.reported import reported

pytestmark = pytest.mark.slow


def frostline(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def disk(tmp_path: Path, caches: dict[str, Cache]) -> Iterator[Path]:
    """A workspace on a file system that becomes read-only. Root may write everywhere else."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(mounted)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    reported(mounted / "ws", [caches["cpu"]])
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def test_a_read_only_workspace(disk: Path, tmp_path: Path) -> None:
    ws, images = disk / "ws", sorted((ROOT / "test_images" / "gel").iterdir())[:2]
    new = tmp_path / "new.jpg"
    shutil.copy(images[0], new)
    with new.open("ab") as file:
        file.write(b"\0")  # the same picture, but other bytes: not in the cache
    page = (ws / "report" / "index.html").read_bytes() if (ws / "report").exists() else None
    expected = frostline("predict", *images, "--workspace", ws)
    assert expected.exit_code == 0, expected.output
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = sorted(path for path in ws.rglob("*"))
    done = frostline("predict", *images, new, "--workspace", ws)
    assert done.exit_code == 0, (done.output, done.exception)
    *cached, of_new = done.stdout.splitlines()
    assert cached == expected.stdout.splitlines()
    assert of_new.split(",")[1:] == pytest.approx(cached[1].split(",")[1:])
    assert done.stderr.count("is read-only: new embeddings and findings are not saved") == 1
    sets = ("--dataset", ROOT / "dataset", "--test", ROOT / "test_images", "--workspace", ws)
    assert frostline("audit", *sets).exit_code == 0
    assert frostline("cache", "ls", "--workspace", ws).exit_code == 0
    for command in (("report", "--workspace", ws), ("evaluate", *sets), ("train-heads", *sets[:2])):
        refused = frostline(*command, *(() if "--workspace" in command else ("--workspace", ws)))
        assert refused.exit_code == 1
        assert isinstance(refused.exception, SystemExit)
        assert "Read-only file system" in refused.output
    assert sorted(path for path in ws.rglob("*")) == before
    assert page is None or (ws / "report" / "index.html").read_bytes() == page
