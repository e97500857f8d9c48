"""The table of engines: what runs a module on a device. Pixels go in, float32 comes out."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from cache.errors import DeviceError
from extract.devices import DEVICES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    # uint8 [n, 1, 224, 224], n <= batch_size → float32 [n, D]; returns when the result is there.
    # A row depends on its own image only, not on its neighbours or their number, to the last bit.
    Forward = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Engine:
    """package: what must be installed. build: (module, device, precision, batch_size) → Forward."""

    package: str
    build: Callable[[nn.Module, str, str, int], Forward]


def _build_torch(module: nn.Module, device: str, precision: str, batch_size: int) -> Forward:
    import torch
    from torch.nn.utils import convert_conv2d_weight_memory_format

    # fp32 means fp32: Ampere and later would round to TF32 in convolutions unless told.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    placed = convert_conv2d_weight_memory_format(deepcopy(module).to(device), torch.channels_last)
    bf16 = precision == "bf16"

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = torch.from_numpy(_padded(images, batch_size)).to(device)
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            output: NDArray[np.float32] = placed(batch).float().cpu().numpy()
        return output[: len(images)]

    return forward


def _build_openvino(module: nn.Module, device: str, precision: str, batch_size: int) -> Forward:
    import numpy as np
    import openvino
    import torch

    from extract.decode import SIZE

    example = torch.zeros((1, 1, SIZE, SIZE), dtype=torch.uint8)
    converted = openvino.convert_model(module, example_input=example, input=[-1, 1, SIZE, SIZE])
    # Unpinned, OpenVINO computes in bf16 wherever the processor can.
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": hint})

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        output: NDArray[np.float32] = compiled(images)[0].astype(np.float32)
        return output

    return forward


def _build_xla(module: nn.Module, device: str, precision: str, batch_size: int) -> Forward:
    import logging

    import numpy as np
    import torch
    import torch_xla
    from torch_xla.backends import get_mat_mul_precision, set_mat_mul_precision

    from extract.decode import SIZE

    # A TPU would otherwise convolve fp32 in one bf16 pass. Setting it warns of setting it twice,
    # even the first time.
    passes = "highest" if precision == "fp32" else "default"
    if get_mat_mul_precision() != passes:
        logging.getLogger("torch_xla.backends").setLevel(logging.ERROR)
        set_mat_mul_precision(passes)
    xla = torch_xla.device()
    placed = deepcopy(module).to(xla)
    bf16 = precision == "bf16"

    def traced(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), torch.autocast("xla", torch.bfloat16, enabled=bf16):
            output: torch.Tensor = placed(images).float()
        return output

    # One shape, one compilation: a second one would be an error, not a slow surprise.
    compiled = torch_xla.compile(traced, full_graph=True, max_different_graphs=1)

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = torch.from_numpy(_padded(images, batch_size)).to(xla)
        output: NDArray[np.float32] = compiled(batch).cpu().numpy()
        return output[: len(images)]

    forward(np.zeros((batch_size, 1, SIZE, SIZE), dtype=np.uint8))  # compile now, not while timed
    return forward


def _padded(images: NDArray[np.uint8], batch_size: int) -> NDArray[np.uint8]:
    """Fill a batch up with black images: another size would round otherwise, or compile anew."""
    import numpy as np

    missing = batch_size - len(images)
    return np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else images


ENGINES: dict[str, Engine] = {
    "torch": Engine("torch", _build_torch),
    "openvino": Engine("openvino", _build_openvino),
    "xla": Engine("torch_xla", _build_xla),
}


def choose_engine(device: str, engine: str | None) -> str:
    """Return the engine to use on a device: the one asked for, else the device's default.

    Raises:
        DeviceError: that engine doesn't run on this device, or isn't installed.
    """
    chosen = engine or DEVICES[device].engines[0]
    if chosen not in DEVICES[device].engines:
        raise DeviceError(
            f"--engine {chosen} does not run on {device}: "
            f"choose {' or '.join(DEVICES[device].engines)}"
        )
    if find_spec(ENGINES[chosen].package) is None:
        raise DeviceError(
            f"--engine {chosen}: {ENGINES[chosen].package} is not installed: "
            "pip install -r requirements.lock"
        )
    return chosen
