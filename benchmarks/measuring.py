"""Timing in turns, so that what disturbs one contender disturbs all; ratios of medians."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

ROUNDS = 5


def medians(contenders: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Run every contender once unmeasured, then in turns; return the median seconds of each."""
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def machine(*packages: str) -> str:
    """Describe the machine and the libraries in one line."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8", "replace").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    names.append(platform.processor())
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{os.cpu_count()} cores of {names[0]}, {platform.system()}, "
        f"Python {platform.python_version()}, {versions}"
    )


def table(rows: list[tuple[str, ...]]) -> str:
    """Format rows, the first being the heads, as Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
