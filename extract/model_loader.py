"""A backbone's table entry + weights → a module from gray pixels to embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from shutil import rmtree
from typing import TYPE_CHECKING

from cache.embedding_key import file_name
from cache.errors import WeightsError
from extract.artifact_store import Note, sha256_of
from extract.backbones import find_backbone
from extract.weights import Source, find_weights

# torch and the module are loaded only if something is to be computed with them.
if TYPE_CHECKING:
    from torch import nn

    from extract.artifact_store import Artifact, ArtifactStore


@dataclass(frozen=True)
class _Weights(Note):
    """sha256: of the tensors, in hexadecimal."""

    sha256: str


Normalization = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone whose weights are known; its module is made when it is first used.

    weights: where they came from (`imagenet`, `random:SEED`, `file:NAME`). weights_sha256: of
    their tensors. notice: what the user must know about them, or None. normalization: mean and
    standard deviation per channel, full scale = 1; the weights' own, or of a set of images.
    """

    name: str
    weights: str
    weights_sha256: str
    notice: str | None
    normalization: Normalization
    make: Callable[[], nn.Module] = field(repr=False, compare=False)

    @cached_property
    def module(self) -> nn.Module:
        """uint8 [B, 1, 224, 224] → float32 [B, D]; in eval mode, frozen.

        Raises:
            WeightsError: the weights don't fit, or are not those that they were.
        """
        return self.make()


def load_backbone(
    name: str,
    weights: str,
    seed: int = 0,
    artifacts: ArtifactStore | None = None,
    normalization: Normalization | None = None,
) -> LoadedBackbone:
    """Find a backbone's weights. Their hash is kept on the `store`: later, nothing need be loaded.

    weights: `imagenet`, `random` (seeded by `seed`), `auto` (ImageNet where it can be had, else
    random with a notice) or the path of a `.safetensors` or `.pth` file. normalization: None for
    the weights' own.

    Raises:
        WeightsError: the weights are missing, or do not fit.
    """
    source, entry = find_weights(name, weights, seed), find_backbone(name)
    normalization = normalization or (entry.mean, entry.std)
    build = partial(_make, name, source, seed, normalization)
    artifact = artifacts and artifacts.artifact(
        f"{file_name(name)}-weights",
        source=sha256_of(source.file) if source.file else source.label,
        versions=[version(package) for package in ("torch", entry.package)],
    )
    if artifact and (note := artifact.read(_Weights)):
        digest = note.sha256
        make = partial(
            _make_again, build, digest, artifact, f"{name}: its weights ({source.label})"
        )
        return LoadedBackbone(name, source.label, digest, source.notice, normalization, make)
    module, digest = build()
    if artifact:
        artifact.fill(lambda folder: None, sha256=digest)
    return LoadedBackbone(name, source.label, digest, source.notice, normalization, lambda: module)


def _make(
    name: str, source: Source, seed: int, normalization: Normalization
) -> tuple[nn.Module, str]:
    """Build the module, and return it with its weights' hash."""
    import torch

    from extract.imaging.gray_input import GrayInput
    from extract.state_dict import load_state, tensors_sha256

    entry = find_backbone(name)
    # Whoever first needs the module may be in inference mode, which would leave no gradients.
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = entry.build(name)
        if source.file is None:
            initialise(model)
        else:
            load_state(model, source.file, optional=entry.last_linear)
    parent, _, last = entry.last_linear.rpartition(".")
    setattr(model.get_submodule(parent), last, torch.nn.Identity())
    module = GrayInput(model, *normalization).eval().requires_grad_(False)
    return module, tensors_sha256(model)


def _make_again(
    build: Callable[[], tuple[nn.Module, str]], expected: str, artifact: Artifact, weights: str
) -> nn.Module:
    module, digest = build()
    if digest != expected:
        rmtree(artifact.folder, ignore_errors=True)
        raise WeightsError(
            f"{weights} are not those that {artifact.folder} was written "
            "for, perhaps on another machine; that is deleted: run the same command again"
        )
    return module


def initialise(model: nn.Module) -> None:
    """Draw convolutions so that they keep the variance of what they receive (He et al. 2015).

    torchvision scales by what a convolution gives, and counts a grouped one's groups as one:
    without batch statistics, mobilenet_v3_large would answer every image with 1e-9.
    """
    from torch import nn

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
