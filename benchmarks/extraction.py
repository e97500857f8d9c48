"""The whole extraction: files to committed segments, against its parts; memory; later starts."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import cross_val_score  # noqa: E402

from benchmarks.measuring import machine, medians, table  # noqa: E402
from benchmarks.pictures import cifar, gels, photos, repeated  # noqa: E402
from cache.store import read  # noqa: E402
from extract.artifact_store import ArtifactStore  # noqa: E402
from extract.backends.backend import build_backend, usable_engines  # noqa: E402
from extract.backends.int8 import calibrate  # noqa: E402
from extract.dataset import scan  # noqa: E402
from extract.devices import usable_cores  # noqa: E402
from extract.embedding_spec import EmbeddingSpec, load_backbone  # noqa: E402
from extract.loader import decode_files, make_batches  # noqa: E402
from extract.pipeline import RunnerOptions, extract  # noqa: E402

Row = tuple[str, ...]
THREE = ("resnet18", "mobilenet_v3_large", "efficientnet_lite0")
# A process of its own that extracts a folder, and says its peak memory (KiB) and the seconds from
# its imports to its end, without what it computed: what one batch has to wait for.
CHILD = r"""
import re, sys, time
sys.path.insert(0, sys.argv[1])
import h5py, numpy, torch, torchvision.models
from pathlib import Path
from extract.artifact_store import ArtifactStore
from extract.embedding_spec import load_backbone
from extract.backends.openvino import import_openvino
from extract.pipeline import RunnerOptions, extract
from extract.dataset import scan
from extract.embedding_spec import EmbeddingSpec
import_openvino()
files = scan(Path(sys.argv[2])).files
started = time.perf_counter()
root = Path(sys.argv[3])
artifacts = ArtifactStore(root.parent / "engines")
backbone = load_backbone(sys.argv[4], "auto", 0, artifacts)
spec = EmbeddingSpec(backbone, "cpu", ("openvino",), sys.argv[5])
(done,) = extract([spec], files, root, options=RunnerOptions(artifacts=artifacts))
seconds = time.perf_counter() - started - done.spent["compute"]
# Not getrusage: what it says of a new process begins with its parent's peak.
peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
print(peak[1], seconds)
"""


def spec(name: str, precision: str) -> EmbeddingSpec:
    """Return what `extract --arch name --precision precision` fills."""
    return EmbeddingSpec(
        load_backbone(name, "auto"), "cpu", usable_engines("cpu", None, precision), precision
    )


def fresh(folder: Path, number: Any = count()) -> Path:  # noqa: B008
    """Return a folder for another cache."""
    return folder / f"cache{next(number)}"


def against_its_parts(folder: Path, images: Path, what: str, name: str) -> list[Row]:
    """Time a whole extraction against computing alone and decoding alone, on all cores."""
    files, wanted, artifacts = (
        scan(images).files,
        spec(name, "bf16"),
        ArtifactStore(folder / "engines"),
    )
    paths = [file.path for file in files]

    def decode() -> list[Any]:
        source = decode_files(paths, usable_cores(), 4 * wanted.batch_size)
        return [batch.pixels for batch in make_batches(source, wanted.batch_size)]

    pixels = decode()
    built = build_backend(wanted, wanted.batch_size, artifacts)
    taken = medians(
        {
            "decode": decode,
            "compute": lambda: [built.forward(part) for part in pixels],
            "whole": lambda: extract(
                [wanted], files, fresh(folder), options=RunnerOptions(artifacts=artifacts)
            ),
        }
    )
    parts = taken["decode"] + taken["compute"]
    return [
        (f"{name} bf16, {len(files):,} {what}", f"{len(files) / taken['whole']:.0f} images/s",
         f"decode alone {taken['decode']:.1f} s + compute alone {taken['compute']:.1f} s",
         f"{taken['whole'] / parts:.2f}×", "≤ 1.15×")
    ]  # fmt: skip


def one_pass(folder: Path) -> list[Row]:
    """Time three backbones in one pass against three passes."""
    files, artifacts = scan(photos(folder / "photos", 96)).files, ArtifactStore(folder / "engines")
    specs = [spec(name, "bf16") for name in THREE]

    def three() -> None:
        root = fresh(folder)
        for each in specs:
            extract([each], files, root, options=RunnerOptions(artifacts=artifacts))

    taken = medians(
        {
            "one": lambda: extract(
                specs, files, fresh(folder), options=RunnerOptions(artifacts=artifacts)
            ),
            "3": three,
        }
    )
    return [
        (f"three backbones, {len(files)} photos of 3 megapixels", f"{taken['one']:.1f} s",
         f"three passes {taken['3']:.1f} s", f"{taken['one'] / taken['3']:.2f}×", "≤ 0.65×")
    ]  # fmt: skip


def child(images: Path, root: Path, name: str, precision: str) -> list[float]:
    """Run CHILD; see there."""
    command = [sys.executable, "-c", CHILD, str(ROOT), str(images), str(root), name, precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return [float(word) for word in done.stdout.split()]


def many(folder: Path, data: Path) -> list[Row]:
    """Measure memory at 2,000 and 60,000 images, and a second run over 60,000."""
    train, test = cifar(data, folder / "cifar", "train"), cifar(data, folder / "cifar", "test")
    few = folder / "few"
    for path in sorted(test.rglob("*.jpg"))[::5]:
        (few / path.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(path, few / path.parent.name / path.name)
    small = child(few, fresh(folder), "efficientnet_lite0", "bf16")[0]
    workspace = folder / "workspace"
    command = [
        sys.executable, str(ROOT / "cli.py"), "extract", "--arch", "efficientnet_lite0", "--device",
        "cpu", "--precision", "bf16", "--dataset", str(train), "--test", str(test), "--workspace",
        str(workspace),
    ]  # fmt: skip
    whole = child(folder / "cifar", fresh(folder), "efficientnet_lite0", "bf16")[0]
    subprocess.run(command, capture_output=True, check=True)  # noqa: S603
    again = medians({"again": lambda: subprocess.run(command, capture_output=True, check=True)})  # noqa: S603
    return [
        ("peak memory, 60,000 images", f"{whole / 1024:.0f} MiB", f"2,000: {small / 1024:.0f} MiB",
         f"{whole / small:.2f}×", "≤ 1.1×"),
        ("second `cli.py extract`, 60,000 files", f"{again['again']:.1f} s", "–", "–", "< 3 s"),
    ]  # fmt: skip


def later_starts(folder: Path, images: Path) -> list[Row]:
    """Time the second start of a backbone, from imports to its first rows."""
    rows: list[Row] = []
    for name in (*THREE, "vgg16"):
        first, second = (child(images, fresh(folder / "new"), name, "fp32")[1] for _ in range(2))
        what = f"{name} fp32, second start: from imports to the first batch"
        against = (f"first start {first:.1f} s", f"{second / first:.2f}×", "< 1.5 s")
        rows.append((what, f"{second:.1f} s", *against))
    return rows


def accuracies(folder: Path, images: Path, what: str) -> list[Row]:
    """Score a linear head on efficientnet_lite0's rows at each precision: 5 folds."""
    files, artifacts = list(scan(images).unique), ArtifactStore(folder / "engines")
    labels = [file.label for file in files]
    rows: list[Row] = []
    for precision in ("fp32", "bf16", "int8"):
        wanted = spec("efficientnet_lite0", precision)
        if precision == "int8":
            wanted = calibrate(wanted, files, artifacts)
        (done,) = extract(
            [wanted], files, fresh(folder), options=RunnerOptions(artifacts=artifacts)
        )
        embeddings = read(done.cache, [file.sha256 for file in files])
        scores = cross_val_score(
            LogisticRegression(max_iter=2000, C=0.01), embeddings, labels, cv=5
        )
        rows.append((what, precision, f"{scores.mean():.3f} ± {scores.std():.3f}",
                     f"{done.deviation:.2g}"))  # fmt: skip
    return rows


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    data = parser.parse_args().data
    rows: list[Row] = [("what", "ours", "against", "ratio", "asked")]
    scores: list[Row] = [("images", "precision", "accuracy, 5 folds", "deviation from torch fp32")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        some = repeated(gels(data), folder / "gels", 2000)
        parts: list[Callable[[], list[Row]]] = [
            lambda: against_its_parts(folder, some, "gels", "mobilenet_v3_large"),
            lambda: one_pass(folder),
            lambda: later_starts(folder, ROOT / "test_images"),
        ]
        if (data / "cifar10.zip").exists():
            test = cifar(data, folder / "ten", "test")
            parts[1:1] = [lambda: against_its_parts(folder, test, "of CIFAR-10", THREE[1])]
            parts += [lambda: many(folder, data)]
        for part in parts:
            started = time.perf_counter()
            rows += part()
            print(f"{time.perf_counter() - started:.0f} s: {rows[-1]}", file=sys.stderr)
        if (data / "gel").is_dir():
            scores += accuracies(folder, data / "gel" / "dataset", "gels, 92")
        if (data / "cifar10.zip").exists():
            scores += accuracies(folder, test, "CIFAR-10, 10,000")
    print("## Extraction\n")
    print(f"{machine('torch', 'openvino', 'pillow')}. Medians of 5, in turns; memory once.\n")
    print(table(rows) + "\n")
    print("What a precision costs: a linear head on `efficientnet_lite0` (ImageNet weights).\n")
    print(table(scores))


if __name__ == "__main__":
    main()
