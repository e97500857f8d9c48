"""Loading and hashing a backbone's weights. No pickle is ever loaded."""

import hashlib
import pickle
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cache.errors import WeightsError

# What torch.load raises on a file that is damaged or something else altogether.
_UNREADABLE = (zipfile.BadZipFile, RuntimeError, OSError, EOFError, ValueError, KeyError)


def load_state(model: nn.Module, file: Path, optional: str) -> None:
    """Load a `.safetensors` or `.pth` file; the layer `optional` may be missing or differ.

    Raises:
        WeightsError: the file is no weights file, or its tensors don't fit (all are named).
    """
    state = {k: v for k, v in _read_tensors(file).items() if not k.startswith(f"{optional}.")}
    wanted = {k: v for k, v in model.state_dict().items() if not k.startswith(f"{optional}.")}
    faults = [f"{key} is missing" for key in wanted.keys() - state.keys()]
    faults += [f"{key} is unknown" for key in state.keys() - wanted.keys()]
    faults += [
        f"{key} is {list(state[key].shape)}, not {list(wanted[key].shape)}"
        for key in wanted.keys() & state.keys()
        if state[key].shape != wanted[key].shape
    ]
    faults += [
        f"{key} holds NaN or infinity"
        for key in wanted.keys() & state.keys()
        if not torch.isfinite(state[key]).all()
    ]
    if faults:
        raise WeightsError(
            f"{file} does not fit the backbone: {'; '.join(sorted(faults)[:8])}"
            + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        )
    model.load_state_dict(state, strict=False)


def tensors_sha256(model: nn.Module) -> str:
    """SHA-256 over every tensor's name, type, shape and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read_tensors(file: Path) -> dict[str, Tensor]:
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
