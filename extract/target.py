"""What fills one cache: a backbone, and where and how precisely it runs."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cache.identity import Identity
from extract import decode
from extract.backbones import BACKBONES
from extract.devices import DEVICES
from extract.kept import Shelf, Slot
from extract.load import LoadedBackbone
from extract.views import VIEWS_RULE


@dataclass(frozen=True)
class Target:
    """A backbone on a device. engines: those to try, in order.

    fast: JPEG files are decoded by FAST_INTERPOLATION_RULE. calibration: which images the ranges
    of int8 arithmetic were taken from; "" at other precisions.
    """

    backbone: LoadedBackbone
    device: str
    engines: tuple[str, ...]
    precision: str
    fast: bool = False
    calibration: str = ""

    @property
    def identity(self) -> Identity:
        """The identity of the cache that it fills."""
        return identity_of(
            self.backbone.name,
            self.backbone.weights_sha256,
            self.device,
            self.precision,
            self.fast,
            self.calibration,
        )

    @property
    def batch_size(self) -> int:
        """How many images its device takes at once."""
        return DEVICES[self.device].engines[self.engines[0]]

    def slot(self, shelf: Shelf | None) -> Slot | None:
        """Return where its converted graph is kept; fp32 and bf16 are compiled from the same."""
        if shelf is None or "openvino" not in self.engines:
            return None
        precision = "int8" if self.precision == "int8" else "fp32"
        return self._slot(shelf, precision, calibration=self.calibration)

    def slot_of_calibration(self, shelf: Shelf) -> Slot:
        """Return where it is kept which images int8's ranges are taken from in this workspace."""
        return self._slot(shelf, "calibration", fast=self.fast)

    def _slot(self, shelf: Shelf, kind: str, **more: object) -> Slot:
        identity = self.identity
        return shelf.slot(
            f"{identity.backbone}-{kind}",
            weights=identity.weights_sha256,
            input=(identity.size, identity.mean, identity.std),
            versions=[version(name) for name in ("torch", "openvino")],
            **more,
        )


def identity_of(
    name: str, weights_sha256: str, device: str, precision: str, fast: bool, calibration: str
) -> Identity:
    """Return the identity of the cache that a backbone with these weights fills; see `Target`."""
    entry = BACKBONES[name]
    rule = decode.FAST_INTERPOLATION_RULE if fast else decode.INTERPOLATION_RULE
    return Identity(
        backbone=name,
        weights_sha256=weights_sha256,
        embedding_dim=entry.dim,
        gray=decode.GRAY_RULE,
        bit_depth=decode.BIT_DEPTH_RULE,
        fit=decode.FIT_RULE,
        interpolation=rule,
        size=decode.SIZE,
        mean=entry.mean,
        std=entry.std,
        views=VIEWS_RULE,
        precision=precision,
        calibration=calibration,
        device=device,
    )


def renewed(identity: Identity) -> Identity:
    """Return what the identity of a cache would be if it were made by the rules of now."""
    return identity_of(
        identity.backbone,
        identity.weights_sha256,
        identity.device,
        identity.precision,
        is_fast(identity),
        identity.calibration,
    )


def is_fast(identity: Identity) -> bool:
    """Whether JPEG files were made smaller while being decoded."""
    return identity.interpolation == decode.FAST_INTERPOLATION_RULE


def target_of(identity: Identity, backbone: LoadedBackbone, engines: tuple[str, ...]) -> Target:
    """Return what fills the cache of this identity, if the backbone is that very one."""
    fast, device, precision = is_fast(identity), identity.device, identity.precision
    return Target(backbone, device, engines, precision, fast, identity.calibration)


def engines_folder(root: Path) -> Shelf:
    """Return the shelf for built engines beside the caches below `root`."""
    return Shelf(root / "engines")
