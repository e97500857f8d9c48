"""The very backbone that a cache or a head was made with, loaded again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache.errors import WeightsError
from cache.identity import Identity
from extract.backbones import WEIGHTS_WORDS
from extract.devices import require_device
from extract.engines import usable_engines
from extract.kept import Shelf
from extract.load import LoadedBackbone, load_backbone
from extract.target import Target, target_of

if TYPE_CHECKING:
    from heads.files import HeadInfo


def reload_target(
    info: HeadInfo, weights: str, engine: str | None, shelf: Shelf | None = None
) -> Target:
    """Return what gives a head its embeddings: its backbone, on its device, by an engine of now.

    weights: see `reload_backbone`. engine: see `usable_engines`.

    Raises:
        DeviceError: the device, or an engine on it, can't be used here.
        WeightsError: those weights can't be had, or are others than then.
    """
    identity = info.identity
    require_device(identity.device)
    backbone = reload_backbone(identity, info.weights, weights, shelf)
    engines = usable_engines(identity.device, engine, identity.precision)
    return target_of(identity, backbone, engines)


def reload_backbone(
    identity: Identity, weights_label: str, weights: str, shelf: Shelf | None = None
) -> LoadedBackbone:
    """Load the very backbone that an identity was made with.

    weights_label: where the weights came from then. weights: the `--weights` of now; a path there
    is where weights from a file are looked for.

    Raises:
        WeightsError: those weights can't be had, or are others than then.
    """
    kind, _, detail = weights_label.partition(":")
    if weights in ("imagenet", "random") and weights != kind:
        raise WeightsError(
            f"--weights {weights}: {identity.backbone} was extracted with {weights_label}: leave "
            "the option out, or run extract and train-heads with other weights"
        )
    if kind == "file":
        if weights in WEIGHTS_WORDS:
            raise WeightsError(
                f"{identity.backbone} was extracted with weights from a file ({detail}): "
                f"say where it lies with --weights PATH/{detail}"
            )
        loaded = load_backbone(identity.backbone, weights, shelf=shelf)
    else:
        loaded = load_backbone(identity.backbone, kind, int(detail or 0), shelf)
    now = target_of(identity, loaded, ()).identity
    if differences := identity.differences(now):
        raise WeightsError(
            f"{identity.backbone}: its heads were trained on a cache ({weights_label}) that is not "
            f"what it would give now ({loaded.weights}): {'; '.join(differences)}. "
            "Give --weights, or run extract and train-heads again"
        )
    return loaded
