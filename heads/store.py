"""Trained heads as safetensors files: the tensors, and everything about them as metadata.

- A file is read as a whole and checked: its checksum, then types, shapes, finite numbers,
  temperature and class names.
- A file that cannot be used costs its own head only.
- Reading a head and computing its logits does not import torch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from heads.inference import head_logits
from heads.modules import build_head

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = "frostline-head-2"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Selection:
    """Why this head was selected.

    Attributes:
        rule: The rule, and among how many candidates.
        cv_accuracy: Mean validation accuracy over the folds of its configuration; None without.
        cv_spread: Standard deviation over these folds.
        cv_ungrouped: The mean over folds that divide near duplicates, if the others do not.
    """

    rule: str = "the only candidate"
    cv_accuracy: float | None = None
    cv_spread: float | None = None
    cv_ungrouped: float | None = None


@dataclass(frozen=True)
class Network:
    """How a head was trained together with its backbone, as one network.

    Attributes:
        name: Identifier of this training, from everything that it depends on.
        mode: What was trained.
        start: The backbone's weights before training.
        augmentation: Policy of the augmented images in every epoch, or `none`.
        precision: Numeric precision of training.
        device: Device of training.
    """

    name: str
    mode: str
    start: str
    augmentation: str
    precision: str
    device: str


@dataclass(frozen=True)
class HeadInfo:
    """The metadata of a head file.

    Attributes:
        configuration: What the head was trained from and how.
        identity: The embedding key of the cache it was trained on.
        classes: Class names, in the order of the logits.
        dataset: Name of the training folder.
        dataset_fingerprint: Fingerprint of all its images.
        images_fingerprint: Fingerprint of its images with an embedding, and their groups.
        n_groups: Groups of near duplicates that the split did not divide.
        weights: Source of the backbone's weights.
        n_training: Number of training images.
        n_validation: Number of validation images.
        training_seconds: This head's share, if several were trained together.
        embedding_seconds: Time to compute the embeddings, for all heads.
        curves: One value per epoch, by metric name.
        epoch: Epoch of the saved tensors, from 0.
        temperature: Divisor of the logits for calibrated probabilities.
        selection: Why this head was selected.
        network: Set if the head was trained together with its backbone.
        calibration_folds: Folds over all images whose held-out logits the temperature was fitted
            to; 0: it was fitted to the validation images.
        calibrated_loss: Cross entropy of the same logits after temperature scaling.
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
        """Identifier of the head, from everything that it depends on."""
        images = self.images_fingerprint
        if self.network:
            images = f"{images} {self.network.name}"
        return head_id(self.configuration, self.identity, images)

    @property
    def mode(self) -> str:
        """Which part of the model was trained, and how."""
        return self.network.mode if self.network else FROZEN


@dataclass(frozen=True)
class TrainedHead:
    """A trained head.

    Attributes:
        path: Its file.
        info: The metadata of the file.
        loaded: Tensors by name, in memory; None: every use reads the file.
    """

    path: Path
    info: HeadInfo
    loaded: Arrays | None = field(default=None, compare=False, repr=False)

    @property
    def tensors(self) -> Arrays:
        """Tensors by name: finite float32 of the shapes of `tensor_shapes`; `labels` int64.

        Raises:
            HeadError: The file is damaged, or was replaced by a head with other outputs.
            OSError: The file cannot be read.
        """
        if self.loaded is not None:
            return self.loaded
        info, tensors = _read(self.path)
        if (info.classes, info.temperature) != (self.info.classes, self.info.temperature):
            raise _unusable(self.path, "it has changed since it was read")
        return tensors

    def load(self) -> TrainedHead:
        """Return this head with its tensors in memory. Raises HeadError, OSError: see `tensors`."""
        return replace(self, loaded=self.tensors)

    def logits(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits, float32 [n, C], of embeddings, float32 [n, D].

        Raises:
            HeadError, OSError: see `tensors`.
        """
        name, classes = self.info.configuration.head, len(self.info.classes)
        return head_logits(name, classes, self.tensors, embeddings)

    def module(self) -> nn.Module:
        """Return the torch module: float32 [B, D] → logits [B, C]; in eval mode, frozen.

        Raises:
            HeadError, OSError: see `tensors`.
        """
        import torch

        info, tensors = self.info, self.tensors
        dim, classes = info.identity.embedding_dim, len(info.classes)
        head = build_head(info.configuration.head, dim, classes, info.n_training)
        head.load_state_dict({name: torch.tensor(array) for name, array in tensors.items()})
        return head.eval().requires_grad_(False)

    def sha256(self) -> str:
        """Return the hash of all that calibrated probabilities depend on, in hex.

        Raises:
            HeadError, OSError: see `tensors`.
        """
        return content_sha256(self.tensors, *self.info.classes, repr(self.info.temperature))


def head_path(root: Path, head_id: str) -> Path:
    """Return the file of a head below `root`, a workspace's `heads/`."""
    return root / f"{head_id}{SUFFIX}"


def save_head(root: Path, info: HeadInfo, state: Mapping[str, Tensor]) -> TrainedHead:
    """Write a head atomically. Raises OSError: as `write_arrays`."""
    path = head_path(root, info.id)
    _write(path, info, {name: tensor.numpy() for name, tensor in state.items()})
    return TrainedHead(path, info)


def reselect_head(head: TrainedHead, selection: Selection) -> None:
    """Record why a saved head was selected this time, unless it was the only candidate.

    Raises:
        HeadError: The file is damaged.
        OSError: The file cannot be read or written.
    """
    if selection not in (head.info.selection, Selection()):
        _write(head.path, replace(head.info, selection=selection), head.tensors)


def find_heads(root: Path) -> tuple[list[TrainedHead], list[str]]:
    """Return the heads below `root`, by name, and a line about each file that cannot be used.

    Raises:
        OSError: The folder cannot be listed.
    """
    heads, remarks = [], []
    for path in files_in(root, SUFFIX):
        try:
            heads.append(read_head(path))
        except HeadError as error:
            remarks.append(str(error))
        except OSError as error:
            remarks.append(unreadable(path, error))
    return heads, remarks


def read_head(path: Path) -> TrainedHead:
    """Return the head of a file, which is read and checked as a whole.

    Raises:
        HeadError: The file is damaged, not a head, or of an older version.
        OSError: The file cannot be read.
    """
    return TrainedHead(path, _read(path)[0])


def unreadable(path: Path, error: OSError) -> str:
    """Return the message about a file that cannot be read."""
    return f"{path} can't be read: {error.strerror or error}. Check its permissions."


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
