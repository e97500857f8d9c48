"""A backbone's table entry + weights → a module from gray pixels to embeddings."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cache.errors import WeightsError, WeightsUnavailableError
from extract.backbones import BACKBONES
from extract.stem import GrayInput
from extract.weights import load_state, tensors_sha256, where_to_put


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone with its weights.

    module: uint8 [B, 1, 224, 224] → float32 [B, D]; in eval mode, frozen. weights: where they
    came from (`imagenet`, `random:SEED`, `file:NAME`). weights_sha256: of their tensors.
    notice: what the user must know about them, or None.
    """

    name: str
    module: nn.Module
    weights: str
    weights_sha256: str
    notice: str | None = None


def load_backbone(name: str, weights: str, seed: int = 0) -> LoadedBackbone:
    """Build a backbone, load its weights and put the gray input before it.

    weights: `imagenet`, `random` (seeded by `seed`), `auto` (ImageNet where it can be had, else
    random with a notice) or the path of a `.safetensors` or `.pth` file.

    Raises:
        WeightsError: the weights can't be had, or don't fit.
    """
    entry = BACKBONES[name]
    source = _find_weights(name, weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = entry.build(name)
        if source.file is None:
            _initialise(model)
        else:
            load_state(model, source.file, optional=entry.last_linear)
    parent, _, last = entry.last_linear.rpartition(".")
    setattr(model.get_submodule(parent), last, torch.nn.Identity())
    module = GrayInput(model, entry.mean, entry.std).eval().requires_grad_(False)
    label = source.label if source.file is not None else f"random:{seed}"
    return LoadedBackbone(name, module, label, tensors_sha256(model), source.notice)


@dataclass(frozen=True)
class _Source:
    """Where weights come from; `file` is None for random ones."""

    label: str
    file: Path | None
    notice: str | None = None


def _initialise(model: nn.Module) -> None:
    """Draw convolutions so that they keep the variance of what they receive (He et al. 2015).

    torchvision scales by what a convolution gives, and counts a grouped one's groups as one:
    without batch statistics, mobilenet_v3_large would answer every image with 1e-9.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")


def _find_weights(name: str, weights: str) -> _Source:
    """Resolve `--weights` for one backbone; see `load_backbone`. Raises WeightsError."""
    if weights == "random":
        return _Source("random", None)
    if weights in ("imagenet", "auto"):
        try:
            return _Source("imagenet", BACKBONES[name].imagenet(name, True))
        except WeightsUnavailableError as error:
            if weights == "imagenet":
                raise WeightsUnavailableError(
                    f"{name}: {error}. {where_to_put(name)} Or choose --weights PATH, --weights "
                    "random, or --arch efficientnet_lite0, whose weights are installed with it."
                ) from None
            notice = (
                f"{name} has RANDOM weights: {error}. Timings are real, accuracies those of an "
                "untrained network; `python cli.py doctor` says how to get the weights."
            )
            return _Source("random", None, notice)
    file = Path(weights)
    if not file.is_file():
        raise WeightsError(
            f"--weights {weights}: there is no such file; give imagenet, random, auto, "
            "or the path of a .safetensors or .pth file"
        )
    return _Source(f"file:{file.name}", file)
