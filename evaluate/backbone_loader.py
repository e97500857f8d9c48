"""The very backbone that a cache or a head was made with, loaded again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cache.arrays import ArrayFileError, read_arrays
from cache.embedding_key import EmbeddingKey
from cache.errors import WeightsError
from evaluate.text import TRAINED
from evaluate.workspace.layout import Workspace
from extract.backbones import WEIGHTS_WORDS
from extract.backends.backend import usable_engines
from extract.devices import require_device
from extract.embedding_spec import EmbeddingSpec, LoadedBackbone, engine_artifacts, load_backbone

if TYPE_CHECKING:
    from heads.store import HeadInfo


NETWORK_FORMAT = "frostline-network-1"


def network_path(workspace: Workspace, name: str) -> Path:
    """Return where a backbone lies that was trained together with a head."""
    return workspace.networks / f"{name}.safetensors"


def check_network(workspace: Workspace, name: str) -> None:
    """Hold a backbone that was trained together with a head against its checksum.

    Raises:
        WeightsError: it is gone or damaged.
        OSError: it can't be read.
    """
    file, remedy = network_path(workspace, name), "run `cli.py baseline` again: it trains it"
    try:
        read_arrays(file, NETWORK_FORMAT)
    except FileNotFoundError:
        raise WeightsError(f"{file} is gone: {remedy}") from None
    except ArrayFileError as error:
        raise WeightsError(f"{file} can't be used: {error}; {remedy}") from error


@dataclass(frozen=True)
class ModelLoader:
    """Loads the very backbone that a cache or a head was made with.

    Attributes:
        workspace: Where engines are stored, and backbones that were trained here.
        weights: `--weights` of now; a path is where weights from a file are looked for.
        engine: `--engine` of now; None: those usable on the device, in their order.
    """

    workspace: Workspace
    weights: str = "auto"
    engine: str | None = None

    def spec(self, info: HeadInfo) -> EmbeddingSpec:
        """Return what computes a head's embeddings: its backbone, on its device.

        Raises:
            DeviceError: the device, or an engine on it, cannot be used here.
            WeightsError: as `backbone`.
        """
        key = info.identity
        require_device(key.device)
        loaded = self.backbone(key, info.weights)
        engines = usable_engines(key.device, self.engine, key.precision)
        return EmbeddingSpec.of_key(key, loaded, engines)

    def backbone(self, key: EmbeddingKey, weights_label: str) -> LoadedBackbone:
        """Load a backbone.

        Args:
            key: Of the cache that it was made for.
            weights_label: Where the weights came from then.

        Raises:
            WeightsError: those weights are missing, or differ from then.
        """
        kind, _, detail = weights_label.partition(":")
        if kind == TRAINED:
            check_network(self.workspace, detail)
            weights, seed = str(network_path(self.workspace, detail)), 0
        else:
            weights, seed = _as_then(key.backbone, weights_label, self.weights)
        artifacts = engine_artifacts(self.workspace.cache)
        loaded = load_backbone(key.backbone, weights, seed, artifacts, (key.mean, key.std))
        if differences := key.differences(EmbeddingSpec.of_key(key, loaded, ()).key):
            raise WeightsError(
                f"{key.backbone}: its heads were trained on a cache ({weights_label}) that is not "
                f"what it would give now ({loaded.weights}): {'; '.join(differences)}. "
                "Give --weights, or run extract and train-heads again"
            )
        return loaded.relabelled(weights_label)


def _as_then(name: str, label: str, weights: str) -> tuple[str, int]:
    """Return which weights to load, and the seed of random ones."""
    kind, _, detail = label.partition(":")
    if weights in ("imagenet", "random") and weights != kind:
        raise WeightsError(
            f"--weights {weights}: {name} was extracted with {label}: leave the option out, or run "
            "extract and train-heads with other weights"
        )
    if kind != "file":
        return kind, int(detail or 0)
    if weights in WEIGHTS_WORDS:
        raise WeightsError(
            f"{name} was extracted with weights from a file ({detail}): say where it lies with "
            f"--weights PATH/{detail}"
        )
    return weights, 0
