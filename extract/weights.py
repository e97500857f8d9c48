"""Finding, fetching, checking and loading a backbone's weights. No pickle is ever loaded."""

import hashlib
import pickle
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cache.errors import WeightsError, WeightsUnavailableError

CONNECT_TIMEOUT_S = 10
# What torch.load raises on a file that is damaged or something else altogether.
_UNREADABLE = (zipfile.BadZipFile, RuntimeError, OSError, EOFError, ValueError, KeyError)


def torchvision_file(name: str, download: bool = True) -> Path:
    """Return torchvision's `IMAGENET1K_V1` file for `name` from the hub's folder, checked by hash.

    Raises:
        WeightsUnavailableError: it isn't there, and can't be (or must not be) downloaded.
        WeightsError: a file is there, but its content is another.
    """
    url, file = _torchvision_source(name)
    if not file.exists():
        if not download:
            raise WeightsUnavailableError(f"{file} is not there")
        try:
            with _connect_timeout(CONNECT_TIMEOUT_S):
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(url, str(file), _hash_prefix(file))
        except (URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise WeightsUnavailableError(
                f"its ImageNet weights are not on this machine and can't be downloaded ({reason})"
            ) from None
        except RuntimeError as error:
            raise WeightsError(f"{name}: the download was damaged ({error}): try again") from None
    elif not _file_sha256(file).startswith(_hash_prefix(file)):
        raise WeightsError(
            f"{file} is damaged: its SHA-256 does not begin with {_hash_prefix(file)}. "
            "Delete it, then it is fetched again"
        )
    return file


def where_to_put(name: str) -> str:
    """Say which file would give `name` its ImageNet weights without a network."""
    url, file = _torchvision_source(name)
    return f"Fetch {url} where there is a network and copy it to {file}."


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


def _torchvision_source(name: str) -> tuple[str, Path]:
    from torchvision.models import get_model_weights

    url: str = get_model_weights(name)["IMAGENET1K_V1"].url
    return url, Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])


def _hash_prefix(file: Path) -> str:
    """The first digits of the SHA-256, carried in the hub's file names: resnet18-f37072fd.pth."""
    return file.stem.rpartition("-")[2]


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _connect_timeout(seconds: float) -> Iterator[None]:
    """A silent network must not hang the run; torch.hub itself sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
