"""Trained heads as safetensors files: the tensors, and everything about them as metadata."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from cache.atomic import replacing
from cache.errors import HeadError
from cache.identity import Identity
from heads.architectures import HEADS, build_head
from heads.configuration import Configuration, head_id

# torch is imported where tensors are: what a head says of itself is read without it.
if TYPE_CHECKING:
    from torch import Tensor, nn

    from heads.together import Curves

FORMAT = "frostline-head-1"


@dataclass(frozen=True)
class Selection:
    """rule: why this head was kept. cv_accuracy, cv_spread: mean and standard deviation over the
    folds that judged its configuration; None if none did. cv_ungrouped: the mean over folds that
    divide near duplicates, where these folds do not.
    """

    rule: str = "the only candidate"
    cv_accuracy: float | None = None
    cv_spread: float | None = None
    cv_ungrouped: float | None = None


FROZEN = "frozen"  # the mode of a model whose backbone was run once


@dataclass(frozen=True)
class Network:
    """How a head was trained together with its backbone, as one network, in the ordinary way.

    name: of this training, from everything that it depends on. mode: what of it was trained. start:
    the backbone's weights at the beginning. augmentation: the policy by which each image was
    changed anew in every epoch, or `none`. precision, device: of training.
    """

    name: str
    mode: str
    start: str
    augmentation: str
    precision: str
    device: str


@dataclass(frozen=True)
class HeadInfo:
    """What a head file says of itself.

    dataset: the name of the folder it was trained on. dataset_fingerprint: of all images there.
    images_fingerprint: of those that have an embedding, and how they are grouped. n_groups: of near
    duplicates that the split did not divide. weights: where the backbone's came from.
    training_seconds: its share, if it was trained together with others. epoch: from 0, of the
    curves, whose weights these are. temperature: by which its logits are divided to give
    calibrated probabilities. network: of a head that was not trained on cached embeddings.
    """

    configuration: Configuration
    identity: Identity
    classes: tuple[str, ...]
    dataset: str
    dataset_fingerprint: str
    images_fingerprint: str
    n_groups: int
    weights: str
    n_training: int
    n_validation: int
    training_seconds: float
    embedding_seconds: float
    curves: Curves
    epoch: int
    temperature: float
    selection: Selection
    network: Network | None = None

    @property
    def id(self) -> str:
        """The head's name, from everything it depends on."""
        images = self.images_fingerprint
        if self.network:
            images = f"{images} {self.network.name}"
        return head_id(self.configuration, self.identity, images)

    @property
    def mode(self) -> str:
        """What of the model was trained, and how."""
        return self.network.mode if self.network else FROZEN


@dataclass(frozen=True)
class SavedHead:
    """A head file: its path and what it says of itself."""

    path: Path
    info: HeadInfo


def head_path(root: Path, head_id: str) -> Path:
    """Where a head of this id lies below `root` (a workspace's `heads/`)."""
    return root / f"{head_id}.safetensors"


def save_head(root: Path, info: HeadInfo, state: dict[str, Tensor]) -> Path:
    """Write a head atomically and return its path. Raises OSError on a full disk."""
    from safetensors.torch import save_file

    path = head_path(root, info.id)
    metadata = {"format": FORMAT, "info": json.dumps(dataclasses.asdict(info), sort_keys=True)}
    with replacing(path) as temporary:
        save_file(state, temporary, metadata)
    return path


def reselect_head(saved: SavedHead, selection: Selection) -> None:
    """Let a kept head say how it was chosen this time, unless there was nothing to choose from.

    Raises:
        HeadError: the file is damaged.
    """
    from safetensors.torch import load_file

    if selection in (saved.info.selection, Selection()):
        return
    try:
        state = load_file(saved.path)
    except (OSError, SafetensorError) as error:
        raise _damaged(saved.path, error) from error
    save_head(saved.path.parent, dataclasses.replace(saved.info, selection=selection), state)


def find_heads(root: Path) -> list[SavedHead]:
    """Read what every head file below `root` says of itself, by name.

    Raises:
        HeadError: a file there is damaged, or no head of ours.
    """
    return [SavedHead(path, read_info(path)) for path in sorted(root.glob("*.safetensors"))]


def read_info(path: Path) -> HeadInfo:
    """Read a head file's metadata. Raises HeadError on a damaged or foreign file."""
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError("it is not a Frostline head")
        info = _info_from_json(metadata["info"])
        if info.configuration.head not in HEADS:
            raise ValueError(f"this version of Frostline has no head {info.configuration.head}")
        if path.stem != info.id:
            raise ValueError(f"its content belongs to {info.id}")
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"another version of Frostline made it ({error})") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(path, error) from error
    return info


def load_head(saved: SavedHead) -> nn.Module:
    """Build a saved head: float32 [B, D] → logits [B, C]; in eval mode, frozen.

    Raises:
        HeadError: the tensors don't fit what the metadata says.
    """
    import torch
    from safetensors.torch import load_file

    info = saved.info
    dim, classes = info.identity.embedding_dim, len(info.classes)
    head = build_head(info.configuration.head, dim, classes, info.n_training)
    try:
        head.load_state_dict(load_file(saved.path))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _damaged(saved.path, error) from error
    if not all(torch.isfinite(tensor).all() for tensor in head.state_dict().values()):
        raise _damaged(saved.path, "it holds NaN or infinity")
    return head.eval().requires_grad_(False)


def _info_from_json(text: str) -> HeadInfo:
    fields: dict[str, Any] = json.loads(text)
    return HeadInfo(
        **{
            **fields,
            "configuration": Configuration(**fields["configuration"]),
            "identity": Identity.from_json(json.dumps(fields["identity"])),
            "classes": tuple(fields["classes"]),
            "selection": Selection(**fields["selection"]),
            "network": Network(**network) if (network := fields.get("network")) else None,
        }
    )


def _damaged(path: Path, why: object) -> HeadError:
    return HeadError(f"{path} can't be used: {why}. Delete it and run train-heads again.")
