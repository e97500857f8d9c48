"""The table of engines: what runs a module on a device. Pixels go in, float32 comes out."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from cache.errors import DeviceError, FrostlineError
from extract.artifact_store import Note
from extract.backends.forward import padded
from extract.devices import DEVICES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from extract.artifact_store import Artifact, ArtifactStore
    from extract.backends.forward import Forward
    from extract.embedding_spec import EmbeddingSpec, LoadedBackbone


@dataclass(frozen=True)
class Engine:
    """A library that computes embeddings.

    Attributes:
        package: What must be installed.
        precisions: Those it computes in.
        build: (backbone, device, precision, batch size, artifact) → `Forward`. The artifact is
            where the converted graph is stored; None: nowhere.
    """

    package: str
    precisions: tuple[str, ...]
    build: Callable[[LoadedBackbone, str, str, int, Artifact | None], Forward]


@dataclass(frozen=True)
class Backend:
    """An engine ready to run.

    Attributes:
        name: Of `ENGINES`.
        forward: uint8 [n, 1, 224, 224] → float32 [n, D].
        trouble: Why preferred engines could not be built.
        at_once: Images that it computes at once; with others, its arithmetic may differ.
        graph: Digest of the stored graph that it was built from; "" if there is none.
    """

    name: str
    forward: Forward
    trouble: tuple[str, ...] = ()
    at_once: int = 1
    graph: str = ""

    @property
    def package(self) -> str:
        """The package that computes."""
        return ENGINES[self.name].package


def _build_torch(
    backbone: LoadedBackbone,
    device: str,
    precision: str,
    batch_size: int,
    artifact: Artifact | None,
) -> Forward:
    import torch
    from torch.nn.utils import convert_conv2d_weight_memory_format

    as_precisely_as(precision, device)
    placed = convert_conv2d_weight_memory_format(
        deepcopy(backbone.module).to(device), torch.channels_last
    )
    bf16 = precision == "bf16"

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = torch.from_numpy(padded(images, batch_size)).to(device)
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            output: NDArray[np.float32] = placed(batch).float().cpu().numpy()
        return output[: len(images)]

    return forward


def _build_openvino(
    backbone: LoadedBackbone,
    device: str,
    precision: str,
    batch_size: int,
    artifact: Artifact | None,
) -> Forward:
    from extract.backends.openvino import build

    return build(backbone, precision, batch_size, artifact)


def _build_xla(
    backbone: LoadedBackbone,
    device: str,
    precision: str,
    batch_size: int,
    artifact: Artifact | None,
) -> Forward:
    import numpy as np
    import torch
    import torch_xla

    from extract.imaging.decode import SIZE

    as_precisely_as(precision, "xla")
    xla = torch_xla.device()
    placed = deepcopy(backbone.module).to(xla)
    bf16 = precision == "bf16"

    def traced(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), torch.autocast("xla", torch.bfloat16, enabled=bf16):
            output: torch.Tensor = placed(images).float()
        return output

    # One shape, one compilation: a second one would be an error, not a slow surprise.
    compiled = torch_xla.compile(traced, full_graph=True, max_different_graphs=1)

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = torch.from_numpy(padded(images, batch_size)).to(xla)
        output: NDArray[np.float32] = compiled(batch).cpu().numpy()
        return output[: len(images)]

    forward(np.zeros((batch_size, 1, SIZE, SIZE), dtype=np.uint8))  # compile now, not while timed
    return forward


def as_precisely_as(precision: str, device: str) -> None:
    """Have torch compute fp32 as fp32 on a device of torch, where it would round it by itself."""
    import logging

    import torch

    if device != "xla":  # Ampere and later would round to TF32 in convolutions
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        return
    from torch_xla.backends import get_mat_mul_precision, set_mat_mul_precision

    # A TPU would otherwise convolve fp32 in one bf16 pass. Setting it warns of setting it twice,
    # even the first time.
    passes = "highest" if precision == "fp32" else "default"
    if get_mat_mul_precision() != passes:
        logging.getLogger("torch_xla.backends").setLevel(logging.ERROR)
        set_mat_mul_precision(passes)


ENGINES: dict[str, Engine] = {
    "torch": Engine("torch", ("fp32", "bf16"), _build_torch),
    "openvino": Engine("openvino", ("fp32", "bf16", "int8"), _build_openvino),
    "xla": Engine("torch_xla", ("fp32", "bf16"), _build_xla),
}

# By precision: how far a row may be from torch's at fp32, as a share of its length. Of fp32, torch
# itself was measured to be 6e-5 from float64 (mobilenet_v3_large, random weights); TF32 would be
# 1e-3 away, bf16 is 3e-3 (resnet18), 0.1 (efficientnet_lite0) or, by torch as by OpenVINO, 0.33
# (mobilenet_v3_large, random weights). int8 is 0.05 to 0.3 away on most
# images and 1 on some: what is stopped is only what is no better than chance, sqrt(2). Its use must
# be judged by the heads' accuracy.
TOLERANCES: dict[str, float] = {"fp32": 1e-4, "bf16": 0.5, "int8": 1.4}
PRECISIONS = tuple(TOLERANCES)


def usable_engines(device: str, engine: str | None, precision: str) -> tuple[str, ...]:
    """Return the engines to try on a device, in order: the one asked for, else all it has.

    Raises:
        DeviceError: it doesn't run on this device or at this precision, or isn't installed.
    """
    suitable = tuple(DEVICES[device].engines) if engine is None else (engine,)
    if engine and engine not in DEVICES[device].engines:
        raise DeviceError(
            f"--engine {engine} does not run on {device}: "
            f"choose {' or '.join(DEVICES[device].engines)}"
        )
    suitable = tuple(name for name in suitable if precision in ENGINES[name].precisions)
    if not suitable:
        others = [f"--engine {name}" for name, e in ENGINES.items() if precision in e.precisions]
        raise DeviceError(
            f"--precision {precision} is not supported by {engine or 'any engine'} on {device}: "
            f"{' or '.join(others)} can"
        )
    installed = tuple(name for name in suitable if find_spec(ENGINES[name].package) is not None)
    if not installed:
        raise DeviceError(
            f"--engine {suitable[0]}: {ENGINES[suitable[0]].package} is not installed: "
            "pip install -r requirements.lock"
        )
    return installed


def build_backend(
    spec: EmbeddingSpec, batch_size: int, artifacts: ArtifactStore | None = None
) -> Backend:
    """Build the first of a spec's engines that can be built.

    Args:
        spec: What to compute.
        batch_size: Images at once, at most; built for 1, it answers soonest.
        artifacts: Where converted graphs are stored; None: nowhere.

    Raises:
        DeviceError: none of them can be built.
    """
    trouble: list[str] = []
    artifact, device = spec.graph_artifact(artifacts), spec.device
    for name in spec.engines:
        try:
            forward = ENGINES[name].build(
                spec.backbone, device, spec.precision, batch_size, artifact
            )
        except (FrostlineError, OSError):  # the weights', or a full disk: no engine's fault
            raise
        except Exception as error:  # noqa: BLE001 - engines raise whatever they like
            trouble.append(f"the engine {name} can't be built on {device}: {error}")
        else:
            if name != "openvino":
                return Backend(name, forward, tuple(trouble), batch_size)
            from extract.backends.openvino import chunk_of

            note = artifact.read(Note) if artifact else None
            graph = note.digest if note else ""
            return Backend(name, forward, tuple(trouble), chunk_of(batch_size), graph)
    raise DeviceError("; ".join([*trouble, "choose another --engine or --device"]))
