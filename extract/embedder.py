"""What fills one cache: a backbone, and where and how precisely it runs."""

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cache.embedding_key import EmbeddingKey, file_name
from extract.artifact_store import Artifact, ArtifactStore
from extract.backbones import find_backbone
from extract.devices import DEVICES
from extract.imaging import decode
from extract.imaging.augmentation import POLICIES
from extract.imaging.bit_depth import FULL_SCALE, rule_of, white_of
from extract.imaging.decode import SIZE
from extract.imaging.preprocessing import AS_USUAL, FITS, Preprocessing
from extract.model_loader import LoadedBackbone

# By whether decoding is fast.
INTERPOLATIONS = {False: decode.INTERPOLATION_RULE, True: decode.FAST_INTERPOLATION_RULE}


@dataclass(frozen=True)
class EmbeddingSpec:
    """A backbone on a device. engines: those to try, in order.

    calibration: which images the ranges of int8 arithmetic were taken from; "" at other
    precisions.
    """

    backbone: LoadedBackbone
    device: str
    engines: tuple[str, ...]
    precision: str
    decoding: Preprocessing = AS_USUAL
    calibration: str = ""

    @property
    def identity(self) -> EmbeddingKey:
        """The identity of the cache that it fills."""
        backbone, (mean, std) = self.backbone, self.backbone.normalization
        return EmbeddingKey(
            backbone=backbone.name,
            weights_sha256=backbone.weights_sha256,
            embedding_dim=find_backbone(backbone.name).dim,
            mean=mean,
            std=std,
            precision=self.precision,
            calibration=self.calibration,
            device=self.device,
            **_rules(self.decoding),
        )

    @property
    def batch_size(self) -> int:
        """How many images its device takes at once."""
        return DEVICES[self.device].engines[self.engines[0]]

    def slot(self, shelf: ArtifactStore | None) -> Artifact | None:
        """Return where its converted graph is kept; fp32 and bf16 are compiled from the same."""
        if shelf is None or "openvino" not in self.engines:
            return None
        precision = "int8" if self.precision == "int8" else "fp32"
        return self._slot(shelf, precision, calibration=self.calibration)

    def slot_of_calibration(self, shelf: ArtifactStore) -> Artifact:
        """Return where it is kept which images int8's ranges are taken from in this workspace."""
        white = self.decoding.full_scale
        more = {} if white == FULL_SCALE else {"full_scale": white}
        return self._slot(shelf, "calibration", decoding=self.decoding, **more)

    def _slot(self, shelf: ArtifactStore, kind: str, **more: object) -> Artifact:
        identity = self.identity
        packages = ("torch", "openvino", find_backbone(identity.backbone).package)
        return shelf.slot(
            f"{file_name(identity.backbone)}-{kind}",
            weights=identity.weights_sha256,
            input=(identity.size, identity.mean, identity.std),
            versions=[version(name) for name in packages],
            **more,
        )


def _rules(decoding: Preprocessing) -> dict[str, Any]:
    """Return the fields of a key that say how a file becomes pixels, by the code of now."""
    white = decoding.full_scale
    return {
        "gray": decode.GRAY_RULE,
        "bit_depth": decode.BIT_DEPTH_RULE if white == FULL_SCALE else rule_of(white),
        "fit": FITS[decoding.fit],
        "interpolation": INTERPOLATIONS[decoding.fast],
        "size": SIZE,
        "views": POLICIES[decoding.augmentation].rule,
    }


def renewed(key: EmbeddingKey) -> EmbeddingKey:
    """Return what the key of a cache would be if it were made by the code of now."""
    dim = find_backbone(key.backbone).dim
    return replace(key, embedding_dim=dim, **_rules(decoding_of(key)))


def decoding_of(identity: EmbeddingKey) -> Preprocessing:
    """Return how the images of a cache were decoded; the usual way, where a rule is unknown."""
    policies = {policy.rule: name for name, policy in POLICIES.items()}
    return Preprocessing(
        fast=identity.interpolation == INTERPOLATIONS[True],
        fit={rule: name for name, rule in FITS.items()}.get(identity.fit, AS_USUAL.fit),
        augmentation=policies.get(identity.views, AS_USUAL.augmentation),
        full_scale=white_of(identity.bit_depth),
    )


def normalization_of(identity: EmbeddingKey) -> str:
    """Say by what a cache's images were normalised: `weights`, or `dataset`."""
    entry = find_backbone(identity.backbone)
    return "weights" if (entry.mean, entry.std) == (identity.mean, identity.std) else "dataset"


def target_of(
    identity: EmbeddingKey, backbone: LoadedBackbone, engines: tuple[str, ...]
) -> EmbeddingSpec:
    """Return what fills the cache of this identity, if the backbone is that very one."""
    decoding, device, precision = decoding_of(identity), identity.device, identity.precision
    return EmbeddingSpec(backbone, device, engines, precision, decoding, identity.calibration)


def engines_folder(root: Path) -> ArtifactStore:
    """Return the shelf for built engines beside the caches below `root`."""
    return ArtifactStore(root / "engines")
