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
from extract.artifact_store import sha256_of
from extract.backbones import find_backbone
from extract.model_zoo.backbone import HUGGING_FACE

CONNECT_TIMEOUT_S = 10
HUB = "https://download.pytorch.org/models"
IMAGENET = "imagenet"  # label of published weights
SAFE_FILE = "model.safetensors"  # the one file of a repository that holds tensors and no pickle


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
        label: `imagenet`, `random:SEED` or `file:NAME`.
        file: None for random weights.
        notice: What the user must know about them.
    """

    label: str
    file: Path | None
    notice: str | None = None

    @property
    def seed(self) -> int:
        """The seed of random weights, else 0."""
        kind, _, seed = self.label.partition(":")
        return int(seed or 0) if kind == "random" else 0


def find_weights(name: str, weights: str, seed: int) -> Source:
    """Resolve `--weights` for one backbone; see `load_backbone`.

    Raises:
        WeightsError: they are missing.
    """
    at_random = Source(f"random:{seed}", None)
    if weights == "random":
        return at_random
    if weights in ("imagenet", "auto"):
        try:
            return Source(IMAGENET, imagenet_file(name))
        except WeightsUnavailableError as error:
            if weights == "imagenet":
                raise WeightsUnavailableError(
                    f"{name}: {error}. {way_out(name)} Or choose --weights PATH, --weights "
                    "random, or --arch efficientnet_lite0, whose weights are installed with it."
                ) from None
            notice = (
                f"{name} has RANDOM weights: {error}. Timings are real, accuracies those of an "
                "untrained network; `python cli.py doctor` says what can be done."
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
    """Return the file of a backbone's published weights: an installed one, or torchvision's from
    the hub's folder, checked by hash, or timm's from Hugging Face's folder.

    Raises:
        WeightsUnavailableError: it isn't there, and can't be (or must not be) downloaded.
        WeightsError: a file exists, but its content is another.
    """
    published = find_backbone(name).imagenet
    if published is None:
        raise WeightsUnavailableError("it has no published weights")
    if not isinstance(published, str):
        return published()
    if published.startswith(HUGGING_FACE):
        return _from_hugging_face(published.removeprefix(HUGGING_FACE), download)
    file = hub_folder() / published
    if not file.exists():
        if not download:
            raise WeightsUnavailableError(f"{file} does not exist")
        _fetch(name, file)
    elif not sha256_of(file).startswith(_hash_prefix(file)):
        raise WeightsError(
            f"{file} is damaged: its SHA-256 does not begin with {_hash_prefix(file)}. "
            "Delete it, then it is fetched again"
        )
    return file


def way_out(name: str) -> str:
    """Say how `name` would get its published weights without a network, or what it is for."""
    published = find_backbone(name).imagenet
    if not isinstance(published, str):
        return "It is for `python cli.py baseline --mode scratch`."
    if published.startswith(HUGGING_FACE):
        url = f"https://huggingface.co/{published.removeprefix(HUGGING_FACE)}/resolve/main"
        return f"Fetch {url}/{SAFE_FILE} where there is a network; --weights PATH takes it."
    folder = hub_folder()
    return f"Fetch {HUB}/{published} where there is a network and copy it to {folder / published}."


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
            download_url_to_file(f"{HUB}/{file.name}", str(file), _hash_prefix(file))
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise WeightsUnavailableError(
            f"its ImageNet weights are not on this machine and can't be downloaded ({reason})"
        ) from None
    except RuntimeError as error:
        raise WeightsError(f"{name}: the download was damaged ({error}): try again") from None


def _from_hugging_face(repository: str, download: bool) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:  # without asking the network whether there is a newer one
        return Path(hf_hub_download(repository, SAFE_FILE, local_files_only=True))
    except LocalEntryNotFoundError:
        if not download:
            raise WeightsUnavailableError(
                f"{SAFE_FILE} of {repository} is not in Hugging Face's folder of this machine"
            ) from None
    try:
        return Path(hf_hub_download(repository, SAFE_FILE))
    except (OSError, HfHubHTTPError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise WeightsUnavailableError(
            f"its published weights are not on this machine and {SAFE_FILE} of {repository} can't "
            f"be downloaded ({reason})"
        ) from None


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
