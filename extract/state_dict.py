"""Loading and hashing a backbone's weights. No pickle is ever loaded."""

import hashlib
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cache.errors import WeightsError
from cache.files import check_file

# What torch.load raises on a file that is damaged or something else altogether.
_UNREADABLE = (zipfile.BadZipFile, RuntimeError, OSError, EOFError, ValueError, KeyError)


def load_state(model: nn.Module, file: Path, optional: str) -> None:
    """Load a `.safetensors` or `.pth` file; the layer `optional` may be missing or differ.

    Tensors of older files are renamed as the model's own layers do it when they are loaded.

    Raises:
        WeightsError: the file is no weights file, or its tensors don't fit (all are named).
    """
    read = _read_tensors(file)
    state = OrderedDict((k, v) for k, v in read.items() if not k.startswith(f"{optional}."))
    # By these, layers know older names. Without them all but the whole model is taken for oldest.
    versions = getattr(read, "_metadata", {"": {"version": model._version}})
    state._metadata = versions  # type: ignore[attr-defined]
    faults = [
        f"{key} holds NaN or infinity" for key, v in state.items() if not torch.isfinite(v).all()
    ]
    with _noted_shapes(model, faults):
        keys = model.load_state_dict(state, strict=False)
    missing = [key for key in keys.missing_keys if not key.startswith(f"{optional}.")]
    faults += [f"{key} is missing" for key in missing]
    faults += [f"{key} is unknown" for key in keys.unexpected_keys]
    if faults:
        raise WeightsError(
            f"{file} does not fit the backbone: {'; '.join(sorted(faults)[:8])}"
            + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        )


@contextmanager
def _noted_shapes(model: nn.Module, faults: list[str]) -> Iterator[None]:
    """Note tensors of another shape while they are loaded, where torch would name them alone."""

    def hook(layer: nn.Module, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
        own = (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
        for name, tensor in own:
            key = prefix + name
            if key in state and state[key].shape != tensor.shape:
                faults.append(f"{key} is {list(state[key].shape)}, not {list(tensor.shape)}")
                state[key] = tensor

    handles = [
        layer.register_load_state_dict_pre_hook(hook)  # type: ignore[no-untyped-call]
        for layer in model.modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tensors_sha256(model: nn.Module) -> str:
    """SHA-256 over every tensor's name, type, shape and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def initialise(model: nn.Module) -> None:
    """Draw convolutions so that they keep the variance of what they receive (He et al. 2015).

    torchvision scales by what a convolution gives, and counts a grouped one's groups as one:
    without batch statistics, mobilenet_v3_large would answer every image with 1e-9.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        check_file(file)
    except OSError as error:
        raise WeightsError(f"{file} can't be read: {error.strerror or error}.") from None
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, *_UNREADABLE) as e:
        # torch's own words for a pickle advise to run it: not ours.
        pickled = isinstance(e, pickle.UnpicklingError)
        reason = "no state_dict" if pickled else next(iter(str(e).splitlines()), type(e).__name__)
        raise WeightsError(
            f"{file} is no file of weights that can be loaded safely: {reason}. It must hold "
            "tensors only, by name; safetensors files must end in .safetensors"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{file} holds something else than a state_dict (names and tensors)")
    return state
