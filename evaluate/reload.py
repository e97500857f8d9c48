"""The very backbone that a cache or a head was made with, loaded again."""

from cache.errors import WeightsError
from cache.identity import Identity
from extract.backbones import WEIGHTS_WORDS
from extract.kept import Shelf
from extract.load import LoadedBackbone, load_backbone
from extract.target import target_of


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
