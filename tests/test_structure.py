"""Rules that can be read from the code: who imports what. `make lint` checks the layers."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

PACKAGES = ("cache", "extract", "heads", "evaluate", "frostline")
FILES = sorted(
    path.relative_to(ROOT)
    for folder in (*PACKAGES, "scripts", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
FILES.append(Path("cli.py"))


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Yield each imported top-level name, and whether importing the file imports it."""
    tree = ast.parse((ROOT / file).read_text())
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from ((name.partition(".")[0], node in tree.body) for name in names)


def test_heads_never_import_torchvision() -> None:
    for file in FILES:
        if file.parts[0] == "heads":
            assert "torchvision" not in {name for name, _ in imports(file)}


def test_optional_and_slow_libraries_are_imported_where_they_are_used() -> None:
    slow = {"torchvision", "torch_xla", "openvino", "sklearn", "efficientnet_lite_pytorch"}
    allowed = {Path("evaluate/metrics.py")}
    for file in FILES:
        if file.parts[0] in PACKAGES and file not in allowed:
            assert not slow & {name for name, at_top in imports(file) if at_top}, file


def test_importing_everything_does_nothing() -> None:
    """No output, no logging set up, no device touched."""
    modules = [
        ".".join(f.with_suffix("").parts) for f in FILES if f.parts[0] in {*PACKAGES, "cli.py"}
    ]
    code = "\n".join(f"import {m.removesuffix('.__init__')}" for m in modules)
    code += "\nimport logging, torch; assert not logging.getLogger().handlers"
    code += "\nassert not torch.cuda.is_initialized()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_folders_of_images_hold_only_images() -> None:
    for part, count in (("dataset", 46), ("test_images", 11)):
        for label in ("gel", "not_gel"):
            files = list((ROOT / part / label).iterdir())
            assert len(files) == count
            assert {path.suffix for path in files} == {".jpg", ".png"}


def test_the_lock_file_pins_everything_and_names_no_host() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert lines
    for line in lines:
        assert "==" in line
        assert "://" not in line
    assert any(line.startswith("torch-xla==2.9.0 ; ") for line in lines)
