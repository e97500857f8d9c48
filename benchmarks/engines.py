"""Backbones per second, by engine and precision, against what people write."""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks.measuring import machine, medians, table  # noqa: E402
from benchmarks.pictures import gels, pixels  # noqa: E402
from extract.artifact_store import ArtifactStore  # noqa: E402
from extract.backbones import BACKBONES  # noqa: E402
from extract.backends.backend import build_backend  # noqa: E402
from extract.backends.int8 import calibrate  # noqa: E402
from extract.backends.openvino import HINTS, convert, import_openvino  # noqa: E402
from extract.devices import require_device  # noqa: E402
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone, load_backbone  # noqa: E402
from extract.imaging.decode import decode_gray  # noqa: E402
from extract.sources.image_file import ImageFile  # noqa: E402
from heads.modules import build_head  # noqa: E402

BATCH = 16  # of the peers: what people write
ASKED = {  # times eager fp32
    "resnet18": {"fp32": 1.35, "bf16": 2.6, "int8": 5},
    "vgg16": {"fp32": 1.75, "bf16": 3.6},
    "mobilenet_v3_large": {"fp32": 3, "bf16": 4.8},
    "efficientnet_lite0": {"fp32": 4.3, "bf16": 8, "int8": 13},
}
ASKED_LATENCY = {  # of a single image, times eager fp32
    "resnet18": 1.3, "vgg16": 1.3, "mobilenet_v3_large": 2.5, "efficientnet_lite0": 2.5
}  # fmt: skip
IMAGES = 96
IN_TURN = 12  # single images
GEMM = 2048  # rows and columns
Images = NDArray[np.uint8]


def eager(backbone: LoadedBackbone, images: Images, device: str = "cpu") -> Callable[[], object]:
    """Do as everybody does: NCHW, the gray channel repeated three times, fp32."""
    module: Any = deepcopy(backbone.module).to(device)
    batches = [torch.from_numpy(part) for part in np.split(images, len(images) // BATCH)]

    def run() -> None:
        with torch.inference_mode():
            for part in batches:
                three = (part.to(device).float() / 255).repeat(1, 3, 1, 1)
                module.network((three - module.mean) / module.std).cpu()

    return run


def plain_openvino(backbone: LoadedBackbone, precision: str, images: Images) -> Callable[[], Any]:
    """Use OpenVINO as its documentation begins: convert, compile, call with a batch."""
    openvino = import_openvino()
    hint = {"INFERENCE_PRECISION_HINT": HINTS[precision]}
    compiled = openvino.compile_model(convert(backbone.module), "CPU", hint)
    batches = np.split(images, len(images) // BATCH)
    return lambda: [compiled(part) for part in batches]


def plain_onnxruntime(
    backbone: LoadedBackbone, folder: Path, images: Images
) -> Callable[[], object]:
    """Use ONNX Runtime as its documentation begins."""
    import onnxruntime

    file = folder / f"{backbone.name}.onnx"
    example = torch.from_numpy(images[:BATCH])
    warnings.simplefilter("ignore")  # the exporter's, of its own age and of constants
    torch.onnx.export(backbone.module, (example,), str(file), dynamo=False, input_names=["images"])
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    batches = np.split(images, len(images) // BATCH)
    return lambda: [session.run(None, {"images": part}) for part in batches]


def ours(spec: EmbeddingSpec, artifacts: ArtifactStore, images: Images) -> Callable[[], object]:
    """Build as `extract` does."""
    built = build_backend(spec, spec.batch_size, artifacts)
    parts = [images[i : i + spec.batch_size] for i in range(0, len(images), spec.batch_size)]
    return lambda: [built.forward(part) for part in parts]


def one_backbone(name: str, files: list[ImageFile], images: Images, folder: Path) -> dict[str, Any]:
    """Measure all contenders of one backbone in turns; images per second by contender."""
    backbone, artifacts = load_backbone(name, "auto"), ArtifactStore(folder / "engines")
    spec = EmbeddingSpec(backbone, "cpu", ("openvino",), "fp32")
    int8 = calibrate(replace(spec, precision="int8"), files, artifacts)
    contenders = {
        "eager": eager(backbone, images),
        "fp32": ours(spec, artifacts, images),
        "bf16": ours(replace(spec, precision="bf16"), artifacts, images),
        "int8": ours(int8, artifacts, images),
        "OpenVINO fp32": plain_openvino(backbone, "fp32", images),
        "OpenVINO bf16": plain_openvino(backbone, "bf16", images),
        "ONNX Runtime fp32": plain_onnxruntime(backbone, folder, images),
    }
    return {key: len(images) / seconds for key, seconds in medians(contenders).items()}


def latencies(name: str, paths: list[Path], artifacts: ArtifactStore) -> tuple[str, ...]:
    """Measure a whole model on single images, from file to label, in turns; format its row."""
    backbone, head = load_backbone(name, "auto"), build_head("single", BACKBONES[name].dim, 2)
    module: Any = deepcopy(backbone.module)
    engine = build_backend(
        EmbeddingSpec(backbone, "cpu", ("openvino",), "fp32"), 1, artifacts
    ).forward

    def eager(image: Images) -> torch.Tensor:
        three = (torch.from_numpy(image).float() / 255).repeat(1, 3, 1, 1)
        embedding: torch.Tensor = module.network((three - module.mean) / module.std)
        return embedding

    contenders: dict[str, Callable[[Images], torch.Tensor]] = {
        "eager": eager,
        "ours": lambda image: torch.from_numpy(engine(image)),
    }
    seconds: dict[str, list[float]] = {key: [] for key in contenders}
    # A dozen each, not one: torch's threads spin on for a while, and would slow the other down.
    parts = [paths[i : i + IN_TURN] for i in range(0, len(paths), IN_TURN)]
    for part in [parts[0], *parts]:  # the first warms up
        for key, embed in contenders.items():
            for path in part:
                started = time.perf_counter()
                with torch.inference_mode():
                    head(embed(decode_gray(path.read_bytes()).pixels[np.newaxis])).argmax().item()
                seconds[key].append(time.perf_counter() - started)
    p50 = {key: 1e3 * float(np.median(taken[len(parts[0]) :])) for key, taken in seconds.items()}
    ratio = f"{p50['eager'] / p50['ours']:.2f}× (≥ {ASKED_LATENCY[name]:g})"
    return name, f"{p50['eager']:.1f}", f"{p50['ours']:.1f}", ratio


def on_cuda(images: Images) -> list[tuple[str, ...]]:
    """Measure torch on an NVIDIA GPU: what `--device cuda` does, against eager fp32 there."""
    heads = ("backbone", "eager, images/s", "fp32 against eager", "bf16", "ours, images/s")
    rows: list[tuple[str, ...]] = [heads]
    for name in BACKBONES:
        backbone, artifacts = load_backbone(name, "auto"), ArtifactStore(Path())
        many = np.concatenate([images] * 8)
        contenders = {"eager": eager(backbone, many, "cuda")}
        for precision in ("fp32", "bf16"):
            spec = EmbeddingSpec(backbone, "cuda", ("torch",), precision)
            contenders[precision] = ours(spec, artifacts, many)
        rates = {key: len(many) / seconds for key, seconds in medians(contenders).items()}
        against = [f"{rates[p] / rates['eager']:.2f}×" for p in ("fp32", "bf16")]
        speed = f"{rates['fp32']:.0f} / {rates['bf16']:.0f}"
        rows.append((name, f"{rates['eager']:.0f}", *against, speed))
    peak = f"bf16 matrix product: {gemm_peak(torch.bfloat16, 'cuda') / 1e3:.0f} TFLOP/s"
    return [*rows, (torch.cuda.get_device_name(), peak, "", "", "")]


def speeds(name: str, rates: dict[str, Any]) -> tuple[str, ...]:
    """Format one backbone's row."""
    asked = ASKED[name]
    peer = max(rates["OpenVINO fp32"], rates["ONNX Runtime fp32"])
    cells = [name, f"{rates['eager']:.1f}"]
    for precision in ("fp32", "bf16", "int8"):
        wish = f" (≥ {asked[precision]:g})" if precision in asked else ""
        cells.append(f"{rates[precision] / rates['eager']:.2f}×{wish}")
    cells += [f"{rates['fp32'] / peer:.2f}×", f"{rates['bf16'] / rates['OpenVINO bf16']:.2f}×"]
    return (*cells, f"{rates['fp32']:.1f} / {rates['bf16']:.1f} / {rates['int8']:.1f}")


def gemm_peak(dtype: torch.dtype, device: str = "cpu") -> float:
    """Measure the machine's matrix product, in GFLOP/s: the best of 20."""
    a, b = (torch.randn(GEMM, GEMM).to(device, dtype) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        torch.mm(a, b)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * GEMM**3 / best / 1e9


def arithmetic(rates: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Hold two backbones' arithmetic against the matrix product's."""
    rows: list[tuple[str, ...]] = [("GFLOP/s", "ours", "matrix product", "share", "asked")]
    peaks = {"fp32": gemm_peak(torch.float32), "bf16": gemm_peak(torch.bfloat16)}
    for name in ("resnet18", "vgg16"):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            load_backbone(name, "auto").module(torch.zeros(1, 1, 224, 224, dtype=torch.uint8))
        for precision, peak in peaks.items():
            done = rates[name][precision] * counter.get_total_flops() / 1e9
            share = f"{done / peak:.2f}×"
            rows.append((f"{name} {precision}", f"{done:.0f}", f"{peak:.0f}", share, "≥ 0.75×"))
    return rows


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    paths = gels(options.data)[:IMAGES]
    images = pixels(paths)
    if options.device == "cuda":
        require_device("cuda")
        print(f"## Engines on a GPU\n\n{machine('torch')}.\n\n{table(on_cuda(images))}")
        return
    few = {"vgg16": images[:32]}  # slow enough
    files = [ImageFile(path, "a", bytes([n]) * 32) for n, path in enumerate(paths)]
    rates = {}
    lines: list[tuple[str, ...]] = [
        ("backbone", "eager, images/s", "fp32 against eager", "bf16", "int8",
         "fp32 against the faster of OpenVINO and ONNX Runtime (≥ 0.97)",
         "bf16 against OpenVINO (≥ 0.97)", "ours, images/s")
    ]  # fmt: skip
    single: list[tuple[str, ...]] = [("backbone", "eager, ms", "ours, ms", "ours against eager")]
    with tempfile.TemporaryDirectory() as folder:
        for name in BACKBONES:
            some, artifacts = few.get(name, images), ArtifactStore(Path(folder) / "engines")
            # In a new process, as a program that classifies images is: after large batches, eager
            # torch finds memory at hand that it must else ask the system for, layer by layer.
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                single.append(pool.submit(latencies, name, paths[: len(some)], artifacts).result())
            rates[name] = one_backbone(name, files, some, Path(folder))
            lines.append(speeds(name, rates[name]))
    print("## Engines\n")
    packages = ("torch", "openvino", "onnxruntime", "nncf")
    print(
        f"{machine(*packages)}. {IMAGES} images, medians of 5, in turns; eager: NCHW, the channel"
    )
    print("repeated three times, fp32, batches of 16.\n")
    print(table(lines) + "\n")
    print(table(arithmetic(rates)) + "\n")
    print(f"A single image from file to label, fp32: medians, {IN_TURN} in turn, decoded alike,")
    print("each backbone in a process of its own.\n")
    print(table(single))


if __name__ == "__main__":
    main()
