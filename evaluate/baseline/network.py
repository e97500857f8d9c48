"""Backbone and head as one network that is trained, and what its training is made of in torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.optim import SGD, Adam, AdamW, Optimizer

from extract.backends.backend import as_precisely_as
from heads.config import HeadConfig
from heads.modules import DRAWING, build_head


class WholeNetwork(nn.Module):
    """uint8 [B, 1, 224, 224] → logits [B, C]. A backbone that is not trained stays in eval mode."""

    def __init__(self, backbone: nn.Module, head: nn.Module, trains_backbone: bool) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(trains_backbone)
        self.head = head
        self.trains_backbone = trains_backbone

    @property
    def trained(self) -> nn.Module:
        """What of it training changes."""
        return self if self.trains_backbone else self.head

    def train(self, mode: bool = True) -> WholeNetwork:
        """Set what is trained to training, or to inference."""
        super().train(mode)
        self.backbone.train(mode and self.trains_backbone)
        return self

    def forward(self, images: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """masks: in training, what dropout leaves of the head's hidden layers, bool [B, width]."""
        with torch.set_grad_enabled(self.trains_backbone and torch.is_grad_enabled()):
            embeddings = self.backbone(images)
        if isinstance(embeddings, tuple):  # in training, Inception answers from its middle too
            embeddings = embeddings[0]
        return _answered(self.head, embeddings, masks)


def build_network(
    backbone: nn.Module, configuration: HeadConfig, dim: int, classes: int, trained: bool
) -> WholeNetwork:
    """Put a head before a copy of a backbone, drawn as heads on cached embeddings are.

    Args:
        dim: Length of the embedding.
        trained: Whether the backbone is to be.
    """
    with DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(configuration.seed)
        head = build_head(configuration.head, dim, classes, training=True)
    return WholeNetwork(deepcopy(backbone), head, trained)


def placed(network: WholeNetwork, device: str, precision: str) -> WholeNetwork:
    """Move a network to a torch device, which then computes at the given precision."""
    as_precisely_as(precision, device)
    network.to(device)
    if device != "xla":
        convert_conv2d_weight_memory_format(network, torch.channels_last)
    return network


def optimizer_of(configuration: HeadConfig, network: WholeNetwork, device: str) -> Optimizer:
    """Return torch's own optimizer for what is trained; its rate is set at every epoch."""
    c, parameters = configuration, list(network.trained.parameters())
    if c.optimizer == "sgd":
        return SGD(
            parameters, c.learning_rate, c.momentum, weight_decay=c.weight_decay,
            nesterov=c.nesterov,
        )  # fmt: skip
    kind: type[Adam] = {"adam": Adam, "adamw": AdamW}[c.optimizer]
    # XLA would ask for the number of the step, and wait for it, at every step.
    on_device = device == "xla"
    rate = torch.tensor(c.learning_rate, device=device) if on_device else c.learning_rate
    return kind(parameters, rate, weight_decay=c.weight_decay, capturable=on_device)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Give an optimizer its learning rate."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


@contextmanager
def seeded(device: str, *numbers: int) -> Iterator[None]:
    """Let torch draw by these numbers inside, and go on outside as if nothing had been drawn."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    if device == "xla":  # with a generator of its own
        import torch_xla

        torch_xla.manual_seed(seed)  # type: ignore[no-untyped-call]
        yield
        return
    devices = list(range(torch.cuda.device_count())) if device == "cuda" else []
    with DRAWING, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _answered(head: nn.Module, embeddings: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Return a head's logits; in training, dropout leaves what the masks say."""
    hidden, kept = embeddings, iter(masks)
    for layer in head if isinstance(head, nn.Sequential) else [head]:
        if isinstance(layer, nn.Dropout):
            hidden = hidden * (next(kept) / (1 - layer.p)) if masks else hidden
            continue
        if isinstance(layer, nn.BatchNorm1d):  # one row has no variance
            layer.train(bool(masks) and len(hidden) > 1)
        hidden = layer(hidden)
    return hidden
