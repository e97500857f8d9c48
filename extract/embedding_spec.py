"""The description of what fills one cache: a backbone, where and how precisely it runs.

- A spec computes nothing and imports no torch; `extract/embedder.py` computes.
- It is picklable as it is: workers on other machines receive the same object.
- Its `key` names the cache. Weights that differ from those of the key are never used: the module
  is checked against the hash of its weights when it is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from cache.embedding_key import EmbeddingKey, file_name
from cache.errors import WeightsError
from extract.artifact_store import Artifact, ArtifactStore, Note, sha256_of
from extract.backbones import find_backbone
from extract.devices import DEVICES
from extract.imaging import decode
from extract.imaging.augmentation import POLICIES
from extract.imaging.decode import SIZE
from extract.imaging.preprocessing import (
    AS_USUAL,
    FITS,
    FULL_SCALE,
    Preprocessing,
    rule_of,
    white_of,
)
from extract.weights import IMAGENET, Source, find_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

Normalization = tuple[tuple[float, ...], tuple[float, ...]]

# By whether decoding is fast.
INTERPOLATIONS = {False: decode.INTERPOLATION_RULE, True: decode.FAST_INTERPOLATION_RULE}


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone whose weights are known; its module is made when it is first used.

    Attributes:
        name: Of the table of backbones, `tv:NAME` or `timm:NAME`.
        source: Where the weights come from.
        weights_sha256: Of their tensors, in hexadecimal.
        normalization: Mean and standard deviation per channel, full scale = 1.
        artifact: Where the hash was remembered; None: nowhere, or on another machine.
    """

    name: str
    source: Source
    weights_sha256: str
    normalization: Normalization
    artifact: Artifact | None = field(default=None, repr=False, compare=False)

    @property
    def weights(self) -> str:
        """Where the weights came from: `imagenet`, `random:SEED`, `file:NAME`."""
        return self.source.label

    @cached_property
    def module(self) -> nn.Module:
        """uint8 [B, 1, 224, 224] → float32 [B, D]; in eval mode, frozen.

        Raises:
            WeightsError: the weights are missing, don't fit, or have another hash than they had.
        """
        source = self.source
        if source.label == IMAGENET and source.file is None:  # it came from another machine
            source = find_weights(self.name, IMAGENET, seed=0)
        module, digest = _make(self.name, source, self.normalization)
        if digest == self.weights_sha256:
            return module
        if self.artifact is None:
            raise WeightsError(
                f"{self.name}: its weights ({self.weights}) are not the same on every machine. "
                "Install the same versions and copy the same weights to all of them."
            )
        self.artifact.remove()
        raise WeightsError(
            f"{self.name}: its weights ({self.weights}) are not those that {self.artifact.folder} "
            "was written for, perhaps on another machine. This folder is deleted; run the same "
            "command again."
        )

    def relabelled(self, label: str) -> LoadedBackbone:
        """Return the same backbone with another label of its weights."""
        other = replace(self, source=replace(self.source, label=label))
        if "module" in self.__dict__:
            other.__dict__["module"] = self.module
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is of this machine alone; files of `--weights` are named absolutely."""
        source, file = self.source, self.source.file
        if file is not None:
            file = None if source.label == IMAGENET else file.absolute()
        state = {key: value for key, value in self.__dict__.items() if key != "module"}
        return state | {"source": replace(source, file=file), "artifact": None}


@dataclass(frozen=True)
class EmbeddingSpec:
    """What fills one cache.

    Attributes:
        backbone: With its weights.
        device: A name of `extract.devices.DEVICES`.
        engines: Names of `extract.backends.backend.ENGINES` to try, in order.
        precision: `fp32`, `bf16` or `int8`.
        preprocessing: How a file becomes pixels.
        calibration: The images that the ranges of int8 were taken from; "" at other precisions.
    """

    backbone: LoadedBackbone
    device: str
    engines: tuple[str, ...]
    precision: str
    preprocessing: Preprocessing = AS_USUAL
    calibration: str = ""

    @classmethod
    def of_key(
        cls, key: EmbeddingKey, backbone: LoadedBackbone, engines: tuple[str, ...]
    ) -> EmbeddingSpec:
        """Return what fills the cache of this key, if the backbone is the one of the key."""
        preprocessing = preprocessing_of(key)
        return cls(backbone, key.device, engines, key.precision, preprocessing, key.calibration)

    @property
    def key(self) -> EmbeddingKey:
        """The key of the cache that it fills, by the rules of the running code."""
        mean, std = self.backbone.normalization
        return EmbeddingKey(
            backbone=self.backbone.name,
            weights_sha256=self.backbone.weights_sha256,
            embedding_dim=find_backbone(self.backbone.name).dim,
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

    def graph_artifact(self, artifacts: ArtifactStore | None) -> Artifact | None:
        """Return where its converted graph is stored; fp32 and bf16 are compiled from the same."""
        if artifacts is None or "openvino" not in self.engines:
            return None
        precision = "int8" if self.precision == "int8" else "fp32"
        return self._artifact(artifacts, precision, calibration=self.calibration)

    def calibration_artifact(self, artifacts: ArtifactStore) -> Artifact:
        """Return where the images are noted that int8's ranges are taken from here."""
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


@dataclass(frozen=True)
class _WeightsNote(Note):
    """sha256: of the tensors, in hexadecimal."""

    sha256: str


def load_backbone(
    name: str,
    weights: str,
    seed: int = 0,
    artifacts: ArtifactStore | None = None,
    normalization: Normalization | None = None,
) -> LoadedBackbone:
    """Find a backbone's weights.

    Args:
        name: Of the table of backbones, `tv:NAME` or `timm:NAME`.
        weights: `imagenet`, `random`, `auto` (ImageNet where available, else random with a notice)
            or the path of a `.safetensors` or `.pth` file.
        seed: Of random weights.
        artifacts: Where the weights' hash is remembered: later, nothing need be loaded.
        normalization: None for the weights' own.

    Raises:
        WeightsError: the weights are missing, or do not fit.
    """
    source, entry = find_weights(name, weights, seed), find_backbone(name)
    normalization = normalization or (entry.mean, entry.std)
    artifact = None
    if artifacts:
        artifact = artifacts.artifact(
            f"{file_name(name)}-weights",
            source=sha256_of(source.file) if source.file else source.label,
            versions=[version(package) for package in ("torch", entry.package)],
        )
    if artifact and (note := artifact.read(_WeightsNote)):
        return LoadedBackbone(name, source, note.sha256, normalization, artifact)
    module, digest = _make(name, source, normalization)
    if artifact:
        artifact.fill(lambda folder: None, sha256=digest)
    backbone = LoadedBackbone(name, source, digest, normalization, artifact)
    backbone.__dict__["module"] = module
    return backbone


def _make(name: str, source: Source, normalization: Normalization) -> tuple[nn.Module, str]:
    """Build the module, and return it with its weights' hash."""
    import torch

    from extract.imaging.gray_input import GrayInput
    from extract.state_dict import initialise, load_state, tensors_sha256

    entry = find_backbone(name)
    # Whoever first needs the module may be in inference mode, which would leave no gradients.
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.seed)
        model = entry.build(name)
        if source.file is None:
            initialise(model)
        else:
            load_state(model, source.file, optional=entry.last_linear)
    parent, _, last = entry.last_linear.rpartition(".")
    setattr(model.get_submodule(parent), last, torch.nn.Identity())
    module = GrayInput(model, *normalization).eval().requires_grad_(False)
    return module, tensors_sha256(model)


def _rules(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the fields of a key that say how a file becomes pixels, by the running code."""
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
    """Return what the key of a cache would be if the running code made it."""
    dim = find_backbone(key.backbone).dim
    return replace(key, embedding_dim=dim, **_rules(preprocessing_of(key)))


def preprocessing_of(key: EmbeddingKey) -> Preprocessing:
    """Return how the images of a cache were decoded; the default where a rule is unknown."""
    policies = {policy.rule: name for name, policy in POLICIES.items()}
    return Preprocessing(
        fast=key.interpolation == INTERPOLATIONS[True],
        fit={rule: name for name, rule in FITS.items()}.get(key.fit, AS_USUAL.fit),
        augmentation=policies.get(key.views, AS_USUAL.augmentation),
        full_scale=white_of(key.bit_depth),
    )


def normalization_of(key: EmbeddingKey) -> str:
    """Return what a cache's images were normalised by: `weights` or `dataset`."""
    entry = find_backbone(key.backbone)
    return "weights" if (entry.mean, entry.std) == (key.mean, key.std) else "dataset"


def engine_artifacts(root: Path) -> ArtifactStore:
    """Return the store of built engines beside the caches below `root`."""
    return ArtifactStore(root / "engines")
