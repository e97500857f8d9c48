"""Backbones beyond the table: every classification model of torchvision and of timm, by name.

What the table says of its entries is found here by looking: a model is built without numbers, and
the layer that is called last must be a linear one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cache.errors import WeightsError
from extract.model_zoo.backbone import HUGGING_FACE, IMAGENET_MEAN, IMAGENET_STD, Backbone, Channels

if TYPE_CHECKING:
    from torch import Tensor, nn

SIZE = 224
CLASSES = 1000
INCEPTIONS = ("googlenet", "inception_v3")
# Their weights' normalisation: torchvision's `transform_input` turns its usual one into this.
INCEPTION: Channels = (0.5, 0.5, 0.5)
# DenseNet's files carry names from before torch allowed no dots in them: norm.1 is now norm1.
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # classifiers that took part in training only


@cache
def of_torchvision(name: str) -> Backbone:
    """Describe `tv:NAME`, a classification model of torchvision; without drawing its weights.

    Its weights are the first that were published for 224 x 224, else the first.

    Raises:
        WeightsError: there is no such model.
    """
    from torchvision.models import get_model_weights

    model = name.removeprefix("tv:")
    if model not in torchvision_names():
        raise _unknown(name, [f"tv:{known}" for known in torchvision_names()])
    offered = list(get_model_weights(model))
    published = next((w for w in offered if w.transforms().crop_size == [SIZE]), offered[0])
    mean, std = published.transforms().mean, published.transforms().std
    if model in INCEPTIONS:
        mean = std = INCEPTION
    last, dim = last_linear(name, build_torchvision)
    file = published.url.rpartition("/")[2]
    return Backbone(dim, last, build_torchvision, file, _three(mean), _three(std))


@cache
def of_timm(name: str) -> Backbone:
    """Describe `timm:NAME`, a model of timm (Wightman 2019); without drawing its weights.

    Raises:
        WeightsError: timm is not installed, there is no such model, or it doesn't take 224 x 224
            RGB.
    """
    if not find_spec("timm"):
        raise WeightsError(f"{name}: timm is not installed: pip install 'timm>=1.0'")
    import timm

    known = timm.list_models() + timm.list_pretrained()
    model = name.removeprefix("timm:")
    if model not in known:
        raise _unknown(name, [f"timm:{one}" for one in known])
    settings = timm.get_pretrained_cfg(model)
    takes = settings.input_size if settings else (3, SIZE, SIZE)
    if takes[0] != 3 or (settings and settings.fixed_input_size and takes != (3, SIZE, SIZE)):
        channels, height, width = takes
        raise WeightsError(
            f"{name} takes images of {channels} channels and {height} x {width} pixels only; "
            f"a backbone here is given 3 channels and {SIZE} x {SIZE}: choose another"
        )
    last, dim = last_linear(name, build_timm)
    return Backbone(
        dim,
        last,
        build_timm,
        f"{HUGGING_FACE}{settings.hf_hub_id}" if settings and settings.hf_hub_id else None,
        _three(settings.mean) if settings else IMAGENET_MEAN,
        _three(settings.std) if settings else IMAGENET_STD,
        package="timm",
    )


FAMILIES: dict[str, Callable[[str], Backbone]] = {"tv": of_torchvision, "timm": of_timm}


def find_in_families(name: str, table: Collection[str]) -> Backbone:
    """Return the backbone `FAMILY:NAME`.

    Args:
        name: What the user asked for.
        table: Names of the other backbones, for the message.

    Raises:
        WeightsError: there is none of this name, or none that gives embeddings of 224 x 224 RGB.
    """
    family = name.partition(":")[0]
    if family in FAMILIES and ":" in name:
        return FAMILIES[family](name)
    known = [*table, *(f"tv:{model}" for model in torchvision_names())]
    raise _unknown(name, known, f"{', '.join(table)}, ")


@cache
def torchvision_names() -> list[str]:
    """Return the names of torchvision's classification models."""
    from torchvision import models

    return list(models.list_models(module=models))


def build_torchvision(name: str) -> nn.Module:
    """Build a classifier of torchvision with random weights; it takes the published file's too."""
    from torchvision.models import get_model

    name = name.removeprefix("tv:")
    inception = {"aux_logits": False, "init_weights": False} if name in INCEPTIONS else {}
    model: nn.Module = get_model(name, weights=None, **inception)
    if inception or name.startswith("densenet"):
        model.register_load_state_dict_pre_hook(_as_of_now)  # type: ignore[no-untyped-call]
    return model


def build_timm(name: str) -> nn.Module:
    """Build a classifier of timm with random weights, and a last layer for 1,000 classes: some of
    its models were published without one.
    """
    import timm

    model: nn.Module = timm.create_model(name.removeprefix("timm:"), num_classes=CLASSES)
    return model


def skeleton(name: str, build: Callable[[str], nn.Module]) -> nn.Module:
    """Build a whole classifier on the meta device, in eval mode: shapes without numbers.

    Nothing is drawn, and no memory taken.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    counted = (torch.arange, torch.linspace, torch.tensor)

    class RealNumbers(TorchFunctionMode):  # some models compute their own widths with tensors
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            named = dict(kwargs or {})
            if func in counted and named.get("device") is None:
                named["device"] = "cpu"
            return func(*args, **named)

    with torch.device("meta"), RealNumbers():
        model = build(name)
    return model.to("meta").eval()


def last_linear(name: str, build: Callable[[str], nn.Module]) -> tuple[str, int]:
    """Find the layer whose input is the embedding: its dotted name, and that input's length.

    Raises:
        WeightsError: the model's output is not that of a linear layer.
    """
    import torch
    from torchvision.models import SqueezeNet

    try:
        model = skeleton(name, build)
        calls = _linear_calls(model)
        with torch.device("meta"), torch.inference_mode():
            output = model(torch.empty(2, 3, SIZE, SIZE))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise WeightsError(
            f"{name} is no backbone here: {SIZE} x {SIZE} pixels can't be sent through it "
            f"({reason}); choose another"
        ) from None
    if isinstance(model, SqueezeNet):
        # A 1 x 1 convolution, then ReLU and the mean over places. Without it, the ReLU meets what
        # another ReLU has let through, and the mean of that is left.
        return "classifier.1", model.classifier[1].in_channels
    if not calls or calls[-1][2] is not output or calls[-1][1].dim() != 2:
        raise WeightsError(
            f"{name} is no backbone here: its output is not that of one last linear layer, "
            "whose input would be the embedding; choose another"
        )
    return calls[-1][0], calls[-1][1].shape[1]


def _linear_calls(model: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
    """Return a list to which each call of a linear layer adds its name, its input, its output."""
    from torch.nn import Linear

    calls: list[tuple[str, Tensor, Tensor]] = []

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda layer, inputs, output: calls.append((name, inputs[0], output))

    for name, layer in model.named_modules():
        if isinstance(layer, Linear):
            layer.register_forward_hook(hook(name))
    return calls


def _as_of_now(model: nn.Module, state: dict[str, Tensor], *rest: object) -> None:
    """Give the tensors of a published file the names that torchvision's models have now."""
    for key in list(state):
        tensor = state.pop(key)
        if not key.startswith(AUXILIARY):
            state[OLD_DENSENET.sub(r"\1\2", key)] = tensor


def _three(numbers: Sequence[float]) -> Channels:
    red, green, blue = numbers
    return red, green, blue


def _unknown(name: str, known: list[str], table: str = "") -> WeightsError:
    """Return the error for a name: similar `known` names, and the other names of the `table`."""
    near = get_close_matches(name, known, 5)
    return WeightsError(
        f"there is no backbone {name}. "
        + (f"Near it: {', '.join(near)}. " if near else "")
        + f"Choose {table}tv:NAME or timm:NAME; for all names: "
        "python -c 'import torchvision.models as m; print(*m.list_models(m))' or "
        "python -c 'import timm; print(*timm.list_models())'"
    )
