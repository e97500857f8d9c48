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
    preprocessing: Preprocessing = AS_USUAL
    calibration: str = ""

    @property
    def key(self) -> EmbeddingKey:
        """The key of the cache that it fills."""
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
            **_rules(self.preprocessing),
        )

    @property
    def batch_size(self) -> int:
        """How many images its device takes at once."""
        return DEVICES[self.device].engines[self.engines[0]]

    def artifact(self, artifacts: ArtifactStore | None) -> Artifact | None:
        """Return where its converted graph is kept; fp32 and bf16 are compiled from the same."""
        if artifacts is None or "openvino" not in self.engines:
            return None
        precision = "int8" if self.precision == "int8" else "fp32"
        return self._artifact(artifacts, precision, calibration=self.calibration)

    def calibration_artifact(self, artifacts: ArtifactStore) -> Artifact:
        """Return where it is kept which images int8's ranges are taken from in this workspace."""
        white = self.preprocessing.full_scale
        more = {} if white == FULL_SCALE else {"full_scale": white}
        return self._artifact(artifacts, "calibration", decoding=self.preprocessing, **more)

    def _artifact(self, artifacts: ArtifactStore, kind: str, **more: object) -> Artifact:
        key = self.key
        packages = ("torch", "openvino", find_backbone(key.backbone).package)
        return artifacts.artifact(
            f"{file_name(key.backbone)}-{kind}",
            weights=key.weights_sha256,
            input=(key.size, key.mean, key.std),
            versions=[version(name) for name in packages],
            **more,
        )


def _rules(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the fields of a key that say how a file becomes pixels, by the code of now."""
    white = preprocessing.full_scale
    return {
        "gray": decode.GRAY_RULE,
        "bit_depth": decode.BIT_DEPTH_RULE if white == FULL_SCALE else rule_of(white),
        "fit": FITS[preprocessing.fit],
        "interpolation": INTERPOLATIONS[preprocessing.fast],
        "size": SIZE,
        "views": POLICIES[preprocessing.augmentation].rule,
    }


def current_key(key: EmbeddingKey) -> EmbeddingKey:
    """Return what the key of a cache would be if it were made by the code of now."""
    dim = find_backbone(key.backbone).dim
    return replace(key, embedding_dim=dim, **_rules(preprocessing_of(key)))


def preprocessing_of(key: EmbeddingKey) -> Preprocessing:
    """Return how the images of a cache were decoded; the usual way, where a rule is unknown."""
    policies = {policy.rule: name for name, policy in POLICIES.items()}
    return Preprocessing(
        fast=key.interpolation == INTERPOLATIONS[True],
        fit={rule: name for name, rule in FITS.items()}.get(key.fit, AS_USUAL.fit),
        augmentation=policies.get(key.views, AS_USUAL.augmentation),
        full_scale=white_of(key.bit_depth),
    )


def normalization_of(key: EmbeddingKey) -> str:
    """Say by what a cache's images were normalised: `weights`, or `dataset`."""
    entry = find_backbone(key.backbone)
    return "weights" if (entry.mean, entry.std) == (key.mean, key.std) else "dataset"


def target_of(
    key: EmbeddingKey, backbone: LoadedBackbone, engines: tuple[str, ...]
) -> EmbeddingSpec:
    """Return what fills the cache of this key, if the backbone is that very one."""
    preprocessing, device, precision = preprocessing_of(key), key.device, key.precision
    return EmbeddingSpec(backbone, device, engines, precision, preprocessing, key.calibration)


def engine_artifacts(root: Path) -> ArtifactStore:
    """Return the store for built engines beside the caches below `root`."""
    return ArtifactStore(root / "engines")
