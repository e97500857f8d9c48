"""A backbone's table entry + weights → a module from gray pixels to embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from shutil import rmtree
from typing import TYPE_CHECKING

from cache.errors import WeightsError
from extract.backbones import BACKBONES
from extract.kept import sha256_of
from extract.sources import Source, find_weights

# torch and the module are loaded only if something is to be computed with them.
if TYPE_CHECKING:
    from torch import nn

    from extract.kept import Shelf, Slot


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone whose weights are known; its module is made when it is first used.

    weights: where they came from (`imagenet`, `random:SEED`, `file:NAME`). weights_sha256: of
    their tensors. notice: what the user must know about them, or None.
    """

    name: str
    weights: str
    weights_sha256: str
    notice: str | None
    make: Callable[[], nn.Module] = field(repr=False, compare=False)

    @cached_property
    def module(self) -> nn.Module:
        """uint8 [B, 1, 224, 224] → float32 [B, D]; in eval mode, frozen.

        Raises:
            WeightsError: the weights don't fit, or are not those that they were.
        """
        return self.make()


def load_backbone(
    name: str, weights: str, seed: int = 0, shelf: Shelf | None = None
) -> LoadedBackbone:
    """Find a backbone's weights. Their hash is kept on the `shelf`: later, nothing need be loaded.

    weights: `imagenet`, `random` (seeded by `seed`), `auto` (ImageNet where it can be had, else
    random with a notice) or the path of a `.safetensors` or `.pth` file.

    Raises:
        WeightsError: the weights can't be had, or don't fit.
    """
    source = find_weights(name, weights, seed)
    slot = shelf and shelf.slot(
        f"{name}-weights",
        source=sha256_of(source.file) if source.file else source.label,
        versions=[version(package) for package in ("torch", "torchvision")],
    )
    if slot and (note := slot.read()):
        digest = note["sha256"]
        make = partial(_make_again, name, source, seed, digest, slot)
        return LoadedBackbone(name, source.label, digest, source.notice, make)
    module, digest = _make(name, source, seed)
    if slot:
        slot.fill(lambda folder: None, sha256=digest)
    return LoadedBackbone(name, source.label, digest, source.notice, lambda: module)


def _make(name: str, source: Source, seed: int) -> tuple[nn.Module, str]:
    """Build the module, and return it with its weights' hash."""
    import torch

    from extract.stem import GrayInput
    from extract.weights import load_state, tensors_sha256

    entry = BACKBONES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = entry.build(name)
        if source.file is None:
            initialise(model)
        else:
            load_state(model, source.file, optional=entry.last_linear)
    parent, _, last = entry.last_linear.rpartition(".")
    setattr(model.get_submodule(parent), last, torch.nn.Identity())
    module = GrayInput(model, entry.mean, entry.std).eval().requires_grad_(False)
    return module, tensors_sha256(model)


def _make_again(name: str, source: Source, seed: int, expected: str, slot: Slot) -> nn.Module:
    module, digest = _make(name, source, seed)
    if digest != expected:
        rmtree(slot.folder, ignore_errors=True)
        raise WeightsError(
            f"{name}: its weights ({source.label}) are not those that {slot.folder} was written "
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
