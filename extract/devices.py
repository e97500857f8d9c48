"""The table of devices. A device that isn't there is an error with a reason, never a silent CPU."""

import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from cache.errors import DeviceError

NO_GPU = "no NVIDIA GPU with a working driver was found; see that nvidia-smi lists one"
TPU_ADVICE = (
    "on a TPU VM or a Colab TPU runtime, pip install 'torch_xla[tpu]==2.9.0'; "
    "elsewhere --device xla-cpu exercises the same path"
)


@dataclass(frozen=True)
class Device:
    """A kind of hardware.

    Attributes:
        engines: Those that run on it, the best first, each with its batch size. That is not part of
            the key, but rows are the same to the last bit only at one size.
        missing: Returns why it cannot be used here and what to do, or None.
        real: `run` uses it wherever it is present.
        pjrt: XLA's name of it.
    """

    engines: dict[str, int]
    missing: Callable[[], str | None]
    real: bool = True
    pjrt: str | None = None


def _cpu_missing() -> str | None:
    return None


def _cuda_missing() -> str | None:
    if not _has_nvidia_driver():  # found out without importing torch, which takes seconds
        return NO_GPU
    import torch

    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return "this torch was built without CUDA; install the one of requirements.lock on Linux"
    return NO_GPU


def _has_nvidia_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _tpu_missing() -> str | None:
    if find_spec("torch_xla") is None or find_spec("libtpu") is None:
        return f"torch_xla with libtpu is not installed; {TPU_ADVICE}"
    from torch_xla._internal import tpu

    if tpu.num_available_chips() == 0:
        return f"this host has no TPU chip; {TPU_ADVICE}"
    return _other_xla_client("TPU")


def _xla_cpu_missing() -> str | None:
    if find_spec("torch_xla") is None:
        return "torch_xla is not installed: its wheel exists for Linux on x86-64 only"
    return _other_xla_client("CPU")


def _other_xla_client(kind: str) -> str | None:
    """torch_xla drives one kind of device per process, chosen by PJRT_DEVICE before it starts."""
    if "torch_xla.runtime" in sys.modules and os.environ.get("PJRT_DEVICE", kind) != kind:
        return "this process already drives another XLA device; tpu and xla-cpu need a command each"
    return None


DEVICES: dict[str, Device] = {
    "cpu": Device({"openvino": 32, "torch": 16}, _cpu_missing),
    "cuda": Device({"torch": 128}, _cuda_missing),
    "tpu": Device({"xla": 128}, _tpu_missing, pjrt="TPU"),
    "xla-cpu": Device({"xla": 16}, _xla_cpu_missing, real=False, pjrt="CPU"),
}


def require_device(name: str) -> None:
    """Make sure that a device can be used, and choose it for XLA.

    Raises:
        DeviceError: it isn't there; the message says why and what to do.
    """
    if reason := DEVICES[name].missing():
        raise DeviceError(f"--device {name}: {reason}")
    if pjrt := DEVICES[name].pjrt:
        os.environ["PJRT_DEVICE"] = pjrt


def torch_device(name: str) -> str:
    """Return what torch calls a device. Raises DeviceError if it isn't there."""
    require_device(name)
    if DEVICES[name].pjrt is None:
        return name
    import torch_xla  # noqa: F401 - torch knows the device only then

    return "xla"


def present_devices() -> list[str]:
    """The real devices of this machine, in the table's order."""
    return [name for name, device in DEVICES.items() if device.real and not device.missing()]


def usable_cores() -> int:
    """Cores that this process may use; no more than OMP_NUM_THREADS, which Ray sets for workers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores or 1, int(limit) if limit.isdecimal() and int(limit) else cores or 1)
