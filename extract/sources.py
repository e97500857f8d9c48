"""Where a backbone's weights lie: found, fetched and checked by hash. Without torch, if nothing
is to be fetched: a run with nothing to compute must not wait for its import.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from cache.errors import WeightsError, WeightsUnavailableError
from extract.backbones import BACKBONES
from extract.kept import sha256_of

CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True)
class Source:
    """Where weights come from; `file` is None for random ones. label: what to call them."""

    label: str
    file: Path | None
    notice: str | None = None


def find_weights(name: str, weights: str, seed: int) -> Source:
    """Resolve `--weights` for one backbone; see `load_backbone`.

    Raises:
        WeightsError: they can't be had.
    """
    at_random = Source(f"random:{seed}", None)
    if weights == "random":
        return at_random
    if weights in ("imagenet", "auto"):
        try:
            return Source("imagenet", imagenet_file(name))
        except WeightsUnavailableError as error:
            if weights == "imagenet":
                raise WeightsUnavailableError(
                    f"{name}: {error}. {where_to_put(name)} Or choose --weights PATH, --weights "
                    "random, or --arch efficientnet_lite0, whose weights are installed with it."
                ) from None
            notice = (
                f"{name} has RANDOM weights: {error}. Timings are real, accuracies those of an "
                "untrained network; `python cli.py doctor` says how to get the weights."
            )
            return Source(at_random.label, None, notice)
    file = Path(weights)
    if not file.is_file():
        raise WeightsError(
            f"--weights {weights}: there is no such file; give imagenet, random, auto, "
            "or the path of a .safetensors or .pth file"
        )
    return Source(f"file:{file.name}", file)


def imagenet_file(name: str, download: bool = True) -> Path:
    """Return the file of a backbone's ImageNet weights: an installed one, or torchvision's
    `IMAGENET1K_V1` from the hub's folder, checked by hash.

    Raises:
        WeightsUnavailableError: it isn't there, and can't be (or must not be) downloaded.
        WeightsError: a file is there, but its content is another.
    """
    published = BACKBONES[name].imagenet
    if not isinstance(published, str):
        return published()
    file = hub_folder() / published
    if not file.exists():
        if not download:
            raise WeightsUnavailableError(f"{file} is not there")
        _fetch(name, file)
    elif not sha256_of(file).startswith(_hash_prefix(file)):
        raise WeightsError(
            f"{file} is damaged: its SHA-256 does not begin with {_hash_prefix(file)}. "
            "Delete it, then it is fetched again"
        )
    return file


def where_to_put(name: str) -> str:
    """Say which file would give `name` its ImageNet weights without a network."""
    url = _url(name)
    file = hub_folder() / url.rpartition("/")[2]
    return f"Fetch {url} where there is a network and copy it to {file}."


def hub_folder() -> Path:
    """Return where torch.hub keeps downloaded weights, by the rule of its documentation."""
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{caches}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def _fetch(name: str, file: Path) -> None:
    from torch.hub import download_url_to_file

    try:
        with _connect_timeout(CONNECT_TIMEOUT_S):
            file.parent.mkdir(parents=True, exist_ok=True)
            download_url_to_file(_url(name), str(file), _hash_prefix(file))
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise WeightsUnavailableError(
            f"its ImageNet weights are not on this machine and can't be downloaded ({reason})"
        ) from None
    except RuntimeError as error:
        raise WeightsError(f"{name}: the download was damaged ({error}): try again") from None


def _url(name: str) -> str:
    from torchvision.models import get_model_weights

    url: str = get_model_weights(name)["IMAGENET1K_V1"].url
    return url


def _hash_prefix(file: Path) -> str:
    """The first digits of the SHA-256, carried in the hub's file names: resnet18-f37072fd.pth."""
    return file.stem.rpartition("-")[2]


@contextmanager
def _connect_timeout(seconds: float) -> Iterator[None]:
    """A silent network must not hang the run; torch.hub itself sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
