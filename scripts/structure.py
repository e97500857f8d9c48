"""Print the size and shape of the code; fail where a contract of the architecture is broken.

`make lint` runs it. The contracts: no folder has more than MOST_MODULES modules, no function more
than six parameters (but those listed as still to be changed), importing a package's core loads few
files. import-linter checks layers and cycles.
"""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cache", "extract", "heads", "evaluate", "frostline")
MOST_MODULES, MOST_PARAMETERS = 14, 6
# What a new engineer reads to understand one run, in this order; see docs/architecture.md.
MAIN_PATH = (
    "extract/dataset.py",
    "extract/imaging/decode.py",
    "extract/loader.py",
    "extract/backbones.py",
    "extract/embedding_spec.py",
    "extract/embedder.py",
    "extract/cache_filler.py",
    "extract/pipeline.py",
    "cache/embedding_key.py",
    "cache/segment.py",
    "cache/store.py",
    "heads/config.py",
    "heads/architectures.py",
    "heads/embedding_dataset.py",
    "heads/training.py",
    "heads/store.py",
    "heads/inference.py",
    "evaluate/classifier.py",
    "evaluate/evaluation.py",
    "evaluate/results.py",
)
# Files of ours that importing a module loads; the limit is a contract.
LOADED = {"extract.dataset": 9, "extract.pipeline": 26}


def lines(paths: list[Path]) -> int:
    """Count the lines of these files."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def wide_functions(paths: list[Path]) -> list[str]:
    """Name the functions with more than MOST_PARAMETERS parameters, `self` not counted."""
    found = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                arguments = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
                if (
                    len([name for name in arguments if name not in ("self", "cls")])
                    > MOST_PARAMETERS
                ):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    return found


def loaded_by(module: str) -> int:
    """Count the files of ours that importing a module loads, in a process of its own."""
    code = f"import sys, {module}; print(*sys.modules)"
    names = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    return sum(name.split(".")[0] in PACKAGES and "." in name for name in names)


def main() -> int:
    """Print the table; return 1 if a contract is broken."""
    modules = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
    templates = sorted((ROOT / "evaluate/report/templates").iterdir())
    tests = sorted((ROOT / "tests").rglob("*.py"))
    folders = Counter(path.parent for path in modules if path.name != "__init__.py")
    fullest, count = folders.most_common(1)[0]
    wide = wide_functions([*modules, ROOT / "cli.py"])
    loaded = {module: loaded_by(module) for module in LOADED}
    for what, value in (
        ("source lines (Python and templates)", f"{lines(modules + templates):,}"),
        ("source files", len(modules)),
        ("test lines", f"{lines(tests):,}"),
        ("modules in the fullest folder", f"{count} ({fullest.relative_to(ROOT)})"),
        ("functions with more than six parameters", len(wide)),
        *((f"files loaded by importing {module}", n) for module, n in loaded.items()),
        ("lines of the main path", f"{lines([ROOT / path for path in MAIN_PATH]):,}"),
    ):
        print(f"{what:45}  {value}")
    faults = [
        *(f"{folder.relative_to(ROOT)}/ has {n} modules: at most {MOST_MODULES}; split it"
          for folder, n in folders.items() if n > MOST_MODULES),
        *(f"importing {module} loads {n} files: at most {LOADED[module]}"
          for module, n in loaded.items() if n > LOADED[module]),
    ]  # fmt: skip
    print(*faults, sep="\n", file=sys.stderr, end="\n" if faults else "")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
