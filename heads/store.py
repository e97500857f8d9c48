"""Trained heads as safetensors files: the tensors, and everything about them as metadata.

- Whatever reads a head reads all of it, checked: content against its checksum, then types, shapes,
  finite numbers, temperature and class names.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache.arrays import Arrays, content_sha256, read_arrays, write_arrays
from cache.embedding_key import FORMAT_VERSION, EmbeddingKey
from cache.errors import HeadError
from cache.records import parse_json
from cache.storage import files_in
from heads.architectures import tensor_shapes
from heads.config import FROZEN, HeadConfig, head_id
from heads.modules import build_head

# torch is imported where tensors are: what a head says of itself is read without it.
if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = "frostline-head-2"
SUFFIX = ".safetensors"


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
    calibrated probabilities. calibration_folds: of all images, on whose held-out images heads of
    this configuration had the logits that the temperature was fitted to; 0: it was fitted to the
    validation images. calibrated_loss: cross entropy of the same logits after division by it.
    network: of a head that was not trained on cached embeddings.
    """

    configuration: HeadConfig
    identity: EmbeddingKey
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
    curves: dict[str, list[float]]
    epoch: int
    temperature: float
    selection: Selection
    network: Network | None = None
    calibration_folds: int = 0
    calibrated_loss: float | None = None

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
    return root / f"{head_id}{SUFFIX}"


def save_head(root: Path, info: HeadInfo, state: Mapping[str, Tensor]) -> Path:
    """Write a head atomically and return its path. Raises OSError: as `write_arrays`."""
    path = head_path(root, info.id)
    _write(path, info, {name: tensor.numpy() for name, tensor in state.items()})
    return path


def reselect_head(saved: SavedHead, selection: Selection) -> None:
    """Let a kept head say how it was chosen this time, unless there was nothing to choose from.

    Raises:
        HeadError: the file is damaged.
        OSError: it can't be read or written.
    """
    if selection not in (saved.info.selection, Selection()):
        _write(saved.path, replace(saved.info, selection=selection), read_tensors(saved))


def find_heads(root: Path) -> tuple[list[SavedHead], list[str]]:
    """Read what every head file below `root` says of itself, by name.

    Also returns a line about each file that can't be used.

    Raises:
        OSError: the folder can't be listed.
    """
    found, remarks = [], []
    for path in files_in(root, SUFFIX):
        try:
            found.append(SavedHead(path, read_info(path)))
        except HeadError as error:
            remarks.append(str(error))
        except OSError as error:
            remarks.append(unreadable(path, error))
    return found, remarks


def read_info(path: Path) -> HeadInfo:
    """Read what a head file says of itself.

    The whole file is held against its checksum.

    Raises:
        HeadError: it is damaged, foreign, or of an older version.
        OSError: it is not there, or can't be read.
    """
    return _read(path)[0]


def read_tensors(saved: SavedHead) -> Arrays:
    """Read a head's tensors by name: float32, of the shapes of `tensor_shapes`; finite.

    Raises:
        HeadError: the file is damaged, or was replaced by a head that answers differently.
        OSError: it is not there, or can't be read.
    """
    info, tensors = _read(saved.path)
    if (info.classes, info.temperature) != (saved.info.classes, saved.info.temperature):
        raise _unusable(saved.path, "it has changed since it was read")
    return tensors


def parameters_sha256(saved: SavedHead) -> str:
    """Hash all that a head's calibrated answers depend on, in hex. Raises as `read_tensors`."""
    info = saved.info
    return content_sha256(read_tensors(saved), *info.classes, repr(info.temperature))


def load_head(saved: SavedHead) -> nn.Module:
    """Build a saved head: float32 [B, D] → logits [B, C]; in eval mode, frozen.

    Raises:
        HeadError, OSError: as `read_tensors`.
    """
    import torch

    info, tensors = saved.info, read_tensors(saved)
    dim, classes = info.identity.embedding_dim, len(info.classes)
    head = build_head(info.configuration.head, dim, classes, info.n_training)
    head.load_state_dict({name: torch.tensor(array) for name, array in tensors.items()})
    return head.eval().requires_grad_(False)


def unreadable(path: Path, error: OSError) -> str:
    """Say that a file can't be read, and why."""
    return f"{path} can't be read: {error.strerror or error}. Check who may read it."


def _write(path: Path, info: HeadInfo, tensors: Mapping[str, NDArray[Any]]) -> None:
    write_arrays(path, tensors, FORMAT, json.dumps(dataclasses.asdict(info), sort_keys=True))


def _read(path: Path) -> tuple[HeadInfo, Arrays]:
    try:
        tensors, record = read_arrays(path, FORMAT)
        info = parse_json(record, HeadInfo)
        _check(path, info, tensors)
    except KeyError as error:
        raise _unusable(path, f"this version of Frostline does not know {error}") from error
    except ValueError as error:
        raise _unusable(path, error) from error
    return info, tensors


def _check(path: Path, info: HeadInfo, tensors: Arrays) -> None:
    """Raise ValueError if a head contradicts itself."""
    if info.identity.format_version != FORMAT_VERSION:
        raise ValueError(f"it belongs to a cache of format {info.identity.format_version}")
    if len(set(info.classes)) < len(info.classes):
        raise ValueError(f"it has two classes of one name ({', '.join(info.classes)})")
    if not (isfinite(info.temperature) and info.temperature > 0):
        raise ValueError(f"its temperature is {info.temperature}")
    if path.stem != info.id:
        raise ValueError(f"its content belongs to {info.id}")
    dim, classes = info.identity.embedding_dim, len(info.classes)
    expected = tensor_shapes(info.configuration.head, dim, classes, info.n_training)
    if (shapes := {name: array.shape for name, array in tensors.items()}) != expected:
        raise ValueError(f"its tensors have the shapes {shapes}, not {expected}")
    for name, array in tensors.items():
        if array.dtype != (dtype := np.int64 if name == "labels" else np.float32):
            raise ValueError(f"its {name} is {array.dtype}, not {np.dtype(dtype)}")
        if not np.isfinite(array).all():
            raise ValueError(f"its {name} holds NaN or infinity")
    labels = tensors.get("labels", np.empty(0))
    if ((labels < 0) | (labels >= classes)).any():
        raise ValueError("its labels are no numbers of classes")


def _unusable(path: Path, why: object) -> HeadError:
    return HeadError(
        f"{path} can't be used: {why}. Delete it and run train-heads again "
        "(for a network trained as a whole, baseline)."
    )
