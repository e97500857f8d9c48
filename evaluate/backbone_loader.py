"""The very backbone that a cache or a head was made with, loaded again."""

from __future__ import annotations

from dataclasses import replace
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
from extract.embedder import EmbeddingSpec, engines_folder, target_of
from extract.model_loader import LoadedBackbone, load_backbone

if TYPE_CHECKING:
    from heads.store import HeadInfo


NETWORK_FORMAT = "frostline-network-1"


def network_path(place: Workspace, name: str) -> Path:
    """Return where a backbone lies that was trained together with a head."""
    return place.networks / f"{name}.safetensors"


def check_network(place: Workspace, name: str) -> None:
    """Hold a backbone that was trained together with a head against its checksum.

    Raises:
        WeightsError: it is gone or damaged.
        OSError: it can't be read.
    """
    file, remedy = network_path(place, name), "run `cli.py baseline` again: it trains it"
    try:
        read_arrays(file, NETWORK_FORMAT)
    except FileNotFoundError:
        raise WeightsError(f"{file} is gone: {remedy}") from None
    except ArrayFileError as error:
        raise WeightsError(f"{file} can't be used: {error}; {remedy}") from error


def reload_target(
    info: HeadInfo, weights: str, engine: str | None, place: Workspace
) -> EmbeddingSpec:
    """Return what gives a head its embeddings: its backbone, on its device, by an engine of now.

    weights: see `reload_backbone`. engine: see `usable_engines`.

    Raises:
        DeviceError: the device, or an engine on it, can't be used here.
        WeightsError: those weights can't be had, or are others than then.
    """
    identity = info.identity
    require_device(identity.device)
    backbone = reload_backbone(identity, info.weights, weights, place)
    engines = usable_engines(identity.device, engine, identity.precision)
    return target_of(identity, backbone, engines)


def reload_backbone(
    identity: EmbeddingKey, weights_label: str, weights: str, place: Workspace
) -> LoadedBackbone:
    """Load the very backbone that an identity was made with.

    weights_label: where the weights came from then. weights: the `--weights` of now; a path there
    is where weights from a file are looked for. Those that were trained here lie in the workspace.

    Raises:
        WeightsError: those weights can't be had, or are others than then.
    """
    kind, _, detail = weights_label.partition(":")
    if kind == TRAINED:
        check_network(place, detail)
        weights, seed = str(network_path(place, detail)), 0
    else:
        weights, seed = _as_then(identity.backbone, weights_label, weights)
    normalization, shelf = (identity.mean, identity.std), engines_folder(place.cache)
    loaded = load_backbone(identity.backbone, weights, seed, shelf, normalization)
    now = target_of(identity, loaded, ()).identity
    if differences := identity.differences(now):
        raise WeightsError(
            f"{identity.backbone}: its heads were trained on a cache ({weights_label}) that is not "
            f"what it would give now ({loaded.weights}): {'; '.join(differences)}. "
            "Give --weights, or run extract and train-heads again"
        )
    return replace(loaded, weights=weights_label)


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
