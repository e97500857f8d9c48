"""What a whole model costs: how soon it answers, how many images a second, and how large it is."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cache.errors import DatasetError
from extract.artifact_store import ArtifactStore
from extract.backbones import find_backbone
from extract.backends.backend import Backend
from extract.devices import usable_cores
from extract.embedder import Embedder
from extract.embedding_spec import EmbeddingSpec
from extract.imaging.decode import SIZE, decode_gray
from extract.loader import decode_files, make_batch
from extract.model_zoo.backbone import Backbone
from extract.model_zoo.families import skeleton

STAGES = ("read", "decode", "backbone", "head")
FEWEST, MOST = 5, 200  # single images, however slow or fast they are
BATCHES = (4, 16, 64)  # images, besides 1
ROUNDS = 3  # of a batch, at most
MIB = 2**20

T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """How fast a whole model is.

    Attributes:
        p50_ms, p90_ms, p99_ms: Milliseconds for a single image, from file to label; of few images,
            the last two are near the slowest's.
        stages_ms: The median of each of STAGES.
        throughput: Images per second of backbone and head, by batch size; a size that was too slow
            to be measured is absent.
        threads: Those that the engine may use on the processor.
        peak_memory_mib: The largest memory of the whole process (on cuda: of torch's tensors on the
            GPU) while measuring; None where the system doesn't tell.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    stages_ms: dict[str, float]
    throughput: dict[int, float]
    threads: int
    peak_memory_mib: float | None


@dataclass(frozen=True)
class Size:
    """How large a whole model is.

    Attributes:
        flops: Floating-point operations for one image, those of convolutions and matrix products,
            two for each multiply-add.
        mib: Parameters and buffers.
    """

    parameters: int
    flops: int
    mib: float


@dataclass(frozen=True)
class _Embedded:
    """What a backbone gave, float32 [m, D], and in how many seconds: of single images [m, 3], by
    stage; of a batch [n], each time that it was computed.

    Attributes:
        engine: What computed.
    """

    engine: str
    rows: NDArray[np.float32]
    seconds: NDArray[np.float64]


def time_models(
    spec: EmbeddingSpec,
    heads: Sequence[nn.Module],
    paths: Sequence[Path],
    artifacts: ArtifactStore | None = None,
    budget_s: float = 1.0,
) -> list[Timing]:
    """Time a spec's backbone once and each head alone, and add them up to whole models.

    Single images go one after the other through an engine built for one: 5 to 200 of them, within
    about `budget_s` seconds, taken in turn from at most 64 of `paths`, evenly spread. They were
    read before, so they come from the system's memory, not from the disk. Batches are of decoded
    images, through engines built for their size; one is left out if computing it twice would take
    longer than `budget_s`. Files that can't be read are left out.

    Raises:
        DeviceError: no engine of the spec can be built.
        DatasetError: none of the files can be decoded.
    """
    step = ceil(len(paths) / max(BATCHES)) or 1
    sample = make_batch(
        decode_files(paths[::step], usable_cores(), max(BATCHES), spec.preprocessing)
    )
    if not sample.paths:
        raise DatasetError(f"none of the {len(paths)} test images can be read: see extract's list")
    backend = Embedder(spec, 1, artifacts).build(sample.pixels)
    peak_is_known = _forget_peak(spec.device)
    singles = _single_images(spec, backend, sample.paths, budget_s)
    fastest, batches = float(np.median(singles.seconds[:, 2])), dict[int, _Embedded]()
    for size in BATCHES:
        if 2 * size * fastest > budget_s:
            break
        pixels = np.resize(sample.pixels, (size, 1, SIZE, SIZE))  # those there are, in turn
        batches[size] = _batch(spec, pixels, artifacts, budget_s)
        fastest = min(fastest, float(np.median(batches[size].seconds)) / size)
    threads = torch.get_num_threads() if singles.engine == "torch" else usable_cores()
    peak = _peak_mib(spec.device) if peak_is_known else None
    return [_timing(singles, batches, head, budget_s, threads, peak) for head in heads]


def size_of(backbone_name: str, head: nn.Module) -> Size:
    """Count a backbone, without its last linear layer, and a head behind it. No weights are loaded.

    What a head remembers, as `knn` does, counts as memory, not as parameters.
    """
    backbone = _backbone_size(backbone_name, find_backbone(backbone_name))
    own = _size(head, torch.zeros(1, find_backbone(backbone_name).dim))
    return Size(
        backbone.parameters + own.parameters, backbone.flops + own.flops, backbone.mib + own.mib
    )


def _single_images(
    spec: EmbeddingSpec, backend: Backend, paths: Sequence[Path], budget_s: float
) -> _Embedded:
    def embed(number: int) -> tuple[NDArray[np.float32], tuple[float, ...]]:
        started = time.perf_counter()
        data = paths[number % len(paths)].read_bytes()
        read = time.perf_counter()
        pixels = decode_gray(data, spec.preprocessing).pixels
        ready = time.perf_counter()
        row = backend.forward(pixels[np.newaxis])
        return row, (read - started, ready - read, time.perf_counter() - ready)

    rows, seconds = zip(*_repeated(embed, budget_s, FEWEST, MOST), strict=True)
    return _Embedded(backend.name, np.concatenate(rows), np.array(seconds))


def _batch(
    spec: EmbeddingSpec, pixels: NDArray[np.uint8], artifacts: ArtifactStore | None, budget_s: float
) -> _Embedded:
    backend = Embedder(spec, len(pixels), artifacts).build(pixels)

    def embed(number: int) -> tuple[NDArray[np.float32], float]:
        started = time.perf_counter()
        rows = backend.forward(pixels)
        return rows, time.perf_counter() - started

    rows, seconds = zip(*_repeated(embed, budget_s, 1, ROUNDS), strict=True)
    return _Embedded(backend.name, rows[0], np.array(seconds))


def _timing(
    singles: _Embedded,
    batches: dict[int, _Embedded],
    head: nn.Module,
    budget_s: float,
    threads: int,
    peak: float | None,
) -> Timing:
    """Time a head alone, on the embeddings, and add the backbone's times."""
    count = len(singles.rows)
    each = _head_seconds(head, np.split(singles.rows, count), budget_s, FEWEST, count)
    own = np.resize(each, count)  # those measured, in turn
    p50, p90, p99 = np.percentile(1e3 * (singles.seconds.sum(1) + own), (50, 90, 99))
    stages = np.median(np.column_stack([singles.seconds, own]), axis=0)
    throughput = {1: float(1 / stages[2:].sum())}
    for size, embedded in batches.items():
        behind = _head_seconds(head, [embedded.rows], budget_s, 1, ROUNDS)
        throughput[size] = float(size / (np.median(embedded.seconds) + np.median(behind)))
    in_ms = dict(zip(STAGES, (float(seconds) for seconds in 1e3 * stages), strict=True))
    return Timing(float(p50), float(p90), float(p99), in_ms, throughput, threads, peak)


def _head_seconds(
    head: nn.Module, rows: Sequence[NDArray[np.float32]], budget_s: float, fewest: int, most: int
) -> list[float]:
    """Time a head from embeddings to labels, on some batches in turn."""

    def answer(number: int) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            head(torch.from_numpy(rows[number % len(rows)])).argmax(1).numpy()
        return time.perf_counter() - started

    return _repeated(answer, budget_s, fewest, most)


def _repeated(act: Callable[[int], T], budget_s: float, fewest: int, most: int) -> list[T]:
    """Act once to warm up, then until the time is up; return what it gave.

    Args:
        act: Takes the number of the time that it is.
    """
    act(0)
    done, deadline = list[T](), time.perf_counter() + budget_s
    while len(done) < fewest or (len(done) < most and time.perf_counter() < deadline):
        done.append(act(len(done)))
    return done


def _forget_peak(device: str) -> bool:
    """Reset the peak of memory; return whether that is possible."""
    if device == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()
        return True
    try:  # Linux; elsewhere, only the peak of the process's whole life is known
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def _peak_mib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / MIB
    lines = Path("/proc/self/status").read_text("utf-8", "replace").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


@cache
def _backbone_size(name: str, entry: Backbone) -> Size:
    network = skeleton(name, entry.build)  # shapes without numbers: nothing drawn, nor computed
    with torch.device("meta"):
        network.set_submodule(entry.last_linear, nn.Identity())
        return _size(network, torch.zeros(1, 3, SIZE, SIZE))


def _size(module: nn.Module, example: torch.Tensor) -> Size:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(example)
    parameters = sum(tensor.numel() for tensor in module.parameters())
    held = sum(tensor.nbytes for tensor in module.state_dict().values())
    return Size(parameters, counter.get_total_flops(), held / MIB)
