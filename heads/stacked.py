"""Many heads of one architecture as stacked parameters: one matrix product for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heads.architectures import DRAWING, HEADS, build_head


@dataclass(frozen=True)
class Stack:
    """K heads: by linear layer, weight and bias [K, out]; the names of these in a head's module;
    the dropout before each layer but the first.

    A linear head's weight is [K, out, D], as torch has it: one product serves all heads. Those of
    heads with hidden layers are [K, in, out], for a product per head: one for all was measured 1.6
    times slower at 512 units, as few rows don't repay rearranging so many columns. So each gradient
    comes out in its parameter's order.
    """

    parameters: tuple[Tensor, ...]
    names: tuple[str, ...]
    dropout: tuple[float, ...]

    def forward(
        self, embeddings: Tensor, kept: Sequence[Tensor] = (), inputs: list[Tensor] | None = None
    ) -> Tensor:
        """Return the logits [B, K, C] of embeddings [B, D].

        kept: for each hidden layer a mask [B, width] of what dropout leaves; none: no dropout. It
        is the same for all heads, so that they are compared on equal terms. inputs: takes each
        layer's, for `backward`.
        """
        weight, bias = self.parameters[:2]
        heads = len(weight)
        if len(self.parameters) == 2:
            flat = torch.addmm(bias.view(-1), embeddings, weight.flatten(0, 1).t())
            return flat.view(len(embeddings), heads, -1)
        hidden = embeddings.expand(heads, *embeddings.shape)
        for i in range(0, len(self.parameters), 2):
            if i > 0:
                hidden = hidden.relu_()
            if i > 0 and kept:
                hidden *= kept[i // 2 - 1] / (1 - self.dropout[i // 2 - 1])
            if inputs is not None:
                inputs.append(hidden)
            weight, bias = self.parameters[i : i + 2]
            hidden = torch.baddbmm(bias.unsqueeze(1), hidden, weight)
        return hidden.transpose(0, 1)

    def backward(
        self, slope: Tensor, embeddings: Tensor, inputs: Sequence[Tensor], into: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return the loss's gradient by every parameter, from that by the logits [B, K, C].

        inputs: what `forward` gave with dropout. into: memory of the parameters' shapes; without
        any, it is allotted. By hand, as autograd would allot it at every step, which costs a third
        of the time.
        """
        memory: list[Tensor | None] = list(into) or [None for _ in self.parameters]
        if not inputs:
            flat = slope.reshape(len(slope), -1)
            weight, bias = (None if m is None else m.flatten(0, 1) for m in memory)
            gradients = [torch.mm(flat.t(), embeddings, out=weight), torch.sum(flat, 0, out=bias)]
            return [g.view_as(p) for g, p in zip(gradients, self.parameters, strict=True)]
        slope, gradients = slope.transpose(0, 1), []
        for layer in reversed(range(len(inputs))):
            weight, bias = memory[2 * layer : 2 * layer + 2]
            product = torch.bmm(inputs[layer].transpose(1, 2), slope, out=weight)
            gradients = [product, torch.sum(slope, 1, out=bias), *gradients]
            if layer > 0:
                slope = torch.bmm(slope, self.parameters[2 * layer].transpose(1, 2))
                # What relu or dropout has put to 0 has no slope.
                slope *= (inputs[layer] > 0) / (1 - self.dropout[layer - 1])
        return gradients

    def draw(self, rows: int, generator: torch.Generator) -> list[Tensor]:
        """Draw the masks of one batch; see `forward`."""
        widths = [bias.shape[1] for bias in self.parameters[1:-2:2]]
        return [
            (torch.rand(rows, width, generator=generator) >= rate).to(self.parameters[0])
            for width, rate in zip(widths, self.dropout, strict=True)
        ]

    def state_of(self, number: int) -> dict[str, Tensor]:
        """Return one head's tensors, as its module has them."""
        tensors = [parameter[number].detach().cpu() for parameter in self.parameters]
        tensors = _turned(tensors)
        return {
            name: tensor.float().contiguous().clone()
            for name, tensor in zip(self.names, tensors, strict=True)
        }


def stack(head: str, dim: int, classes: int, count: int, seed: int, like: Tensor) -> Stack:
    """Make `count` heads, equal at first: as torch initialises the module after `seed`.

    like: a tensor of the type and on the device that the parameters shall have.
    """
    with DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build_head(head, dim, classes)
    tensors = [parameter.detach() for parameter in module.parameters()]
    tensors = _turned(tensors)
    # Not expand(): on XLA all heads would stay one.
    parameters = tuple(
        tensor.to(like).repeat(count, *(1 for _ in tensor.shape)) for tensor in tensors
    )
    names = tuple(name for name, _ in module.named_parameters())
    return Stack(parameters, names, HEADS[head].dropout)


def _turned(tensors: list[Tensor]) -> list[Tensor]:
    """Turn one head's weights from torch's order to ours, or back; see `Stack`."""
    if len(tensors) == 2:
        return tensors
    return [tensor.t() if tensor.dim() == 2 else tensor for tensor in tensors]
