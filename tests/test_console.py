"""What people see: any name, any encoding, any terminal; and nobody who reads on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cache.errors import CacheError, FrostlineError
from cache.store import Cache
from evaluate.text import printable
from evaluate.workspace.layout import Workspace
from frostline.cli.console import UNREAD, ranked_table
from frostline.cli.main import cli
from tests.conftest import ROOT
from tests.reported import reported

pytestmark = pytest.mark.slow

EVIL = "a\x1b]0;pwned\x07\r\nBest: Model 9\u202egnp\u200b\x9b2J[red]"
HARMFUL = {"\x1b", "\x07", "\r", "\x9b", "\u202e", "\u200b"}
CYRILLIC = "кириллица"


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory, caches: dict[str, Cache]) -> Path:
    """A workspace with heads and results of the samples."""
    folder = tmp_path_factory.mktemp("terminal") / "ws"
    reported(folder, [caches["cpu"]])
    return folder


def named(folder: Path, label: str, name: str = "{}") -> Path:
    """A few of the samples under other names."""
    for part in ("dataset", "test_images"):
        for kind, renamed in (("gel", label), ("not_gel", "not_gel")):
            (folder / part / renamed).mkdir(parents=True)
            for number, path in enumerate(sorted((ROOT / part / kind).iterdir())[:3]):
                target = name.format(number) + path.suffix
                shutil.copy(path, folder / part / renamed / target)
    return folder


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gel 1.png", "gel 1.png"),
        ("кириллица é 東京 😀\u00a0x", "кириллица é 東京 😀\u00a0x"),
        ("a\x1b[31m", r"a\x1b[31m"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("\u202egnp\u2066\u2069", r"\u202egnp\u2066\u2069"),
        ("zero\u200bwidth\ufeff\u2028", r"zero\u200bwidth\ufeff\u2028"),
        (os.fsdecode(b"\xff.png"), "?.png"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_line_break_in_a_name_never_begins_a_line() -> None:
    error = CacheError(f"{EVIL} is damaged", "all others are there")
    assert error.lines[1] == "all others are there"
    assert "\n".join(map(printable, error.lines)).count("\n") == 1
    assert issubclass(CacheError, FrostlineError)


def test_names_on_the_terminal(tmp_path: Path, ws: Path) -> None:
    """In tables, remarks, answers and errors; markup in names is not interpreted."""
    data = named(tmp_path, EVIL, EVIL + "{}")
    (data / "dataset" / EVIL / f"{EVIL}.txt").touch()
    (data / "dataset" / EVIL / f"{EVIL}broken.png").write_bytes(b"x")
    sets = ("--dataset", data / "dataset", "--test", data / "test_images")
    for arguments in (
        ("audit", *sets, "--workspace", tmp_path / "ws"),
        ("split", data / "dataset", "--out", tmp_path / "out", "--workspace", tmp_path / "ws"),
        ("predict", data / "test_images", "--workspace", ws),
        ("predict", data / EVIL, "--workspace", ws),
        ("audit", "--dataset", data / EVIL, "--workspace", tmp_path / "ws"),
    ):
        done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
        assert isinstance(done.exception, SystemExit | None), done.exception
        assert not HARMFUL & {*done.output}, arguments
        assert not [line for line in done.output.splitlines() if line.startswith("Best:")]
        assert (
            r"a\x1b]0;pwned\x07\r\nBest: Model 9\u202egnp\u200b\x9b2J[red]"
            in done.output.replace("\n", "")
        )


def test_names_on_the_page(tmp_path: Path, caches: dict[str, Cache]) -> None:
    from evaluate.audit.audit import audit
    from evaluate.report.page import write_audit_page
    from evaluate.workspace.image_files import ImageFiles
    from extract.dataset import scan

    data = named(tmp_path, EVIL, EVIL + "{}")
    found = audit(scan(data / "dataset"), scan(data / "test_images"), Workspace(tmp_path / "ws"))
    page = write_audit_page(found, tmp_path / "a.html", ImageFiles()).read_text()
    assert not HARMFUL & {*page}
    assert r"pwned\x07" in page


CP1252 = {"PYTHONIOENCODING": "cp1252"}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("name", "locale"),
    [
        *((name, CP1252) for name in ("predict", "audit", "split", "compact")),
        *((name, ASCII) for name in ("predict", "split")),
    ],
)
def test_names_of_any_script_in_any_locale(
    name: str, locale: dict[str, str], tmp_path: Path, ws: Path
) -> None:
    data = named(tmp_path, CYRILLIC, CYRILLIC + "{}")
    mine = shutil.copytree(ws, tmp_path / CYRILLIC)
    sets = ("--dataset", data / "dataset", "--test", data / "test_images")
    arguments = {
        "predict": (data / "test_images",),
        "audit": sets,
        "split": (data / "dataset", "--out", tmp_path / "out"),
        "compact": (),
    }[name]
    words = ["cache", "compact"] if name == "compact" else [name]
    done = subprocess.run(
        command(*words, *arguments, "--workspace", mine),
        capture_output=True,
        env={**os.environ, **locale},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert CYRILLIC in done.stdout.decode("utf-8")


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        (("--help",), 0),
        (("run", "--help"), 1),
        (("predict", ROOT / "test_images"), 1),
        (("report",), 0),
        (("cache", "ls"), 0),
    ],
)
def test_nobody_reads_on(arguments: tuple[object, ...], read: int, ws: Path) -> None:
    where = () if "--help" in arguments else ("--workspace", ws)
    given = command(*arguments, *where)
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.read(read)
        process.stdout.close()
        told = process.stderr.read().decode()
    assert process.returncode in (0, UNREAD), told
    assert "roken pipe" not in told
    assert "Traceback" not in told
    assert "ignored" not in told


def test_a_narrow_alphabet_shows_what_it_can(ws: Path) -> None:
    """As a terminal of code page 1252: tables in ASCII, question marks for the rest."""
    from io import BytesIO, TextIOWrapper

    from rich.console import Console

    from evaluate.leaderboard import studies

    file = TextIOWrapper(BytesIO(), "cp1252", errors="replace")
    study = studies(ws / "results.csv")[0]
    Console(file=file, width=160).print(ranked_table(study, 160), f"{CYRILLIC} …")
    file.flush()
    text = file.buffer.getvalue().decode("cp1252")
    assert "?" * len(CYRILLIC) in text
    assert "+--" in text
