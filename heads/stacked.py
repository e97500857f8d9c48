"""Many heads of one architecture as stacked parameters: one matrix product for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heads.architectures import HEADS, build_head


@dataclass(frozen=True)
class Stack:
    """K heads: by linear layer, weight and bias [K, out]; the names of these in a head's module;
    the dropout before each layer but the first.

    The first weight is [K, out, D], as torch has it, for one product with all heads; further ones
    are [K, in, out], for one product per head: so each gradient comes out in its parameter's order.
    """

    parameters: tuple[Tensor, ...]
    names: tuple[str, ...]
    dropout: tuple[float, ...]

    def forward(self, embeddings: Tensor, kept: Sequence[Tensor] = ()) -> Tensor:
        """Return the logits [B, K, C] of embeddings [B, D].

        kept: for each hidden layer a mask [B, width] of what dropout leaves; none: no dropout. It
        is the same for all heads, so that they are compared on equal terms.
        """
        weight, bias = self.parameters[:2]
        heads, out, dim = weight.shape
        flat = torch.addmm(bias.view(-1), embeddings, weight.view(heads * out, dim).t())
        hidden = flat.view(-1, heads, out)
        for i in range(2, len(self.parameters), 2):
            hidden = hidden.relu()
            if kept:
                mask, rate = kept[i // 2 - 1], self.dropout[i // 2 - 1]
                hidden = hidden * (mask / (1 - rate)).unsqueeze(1)
            weight, bias = self.parameters[i : i + 2]
            product = torch.baddbmm(bias.unsqueeze(1), hidden.transpose(0, 1), weight)
            hidden = product.transpose(0, 1)
        return hidden

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
        tensors[2::2] = [weight.t() for weight in tensors[2::2]]
        return {
            name: tensor.float().contiguous().clone()
            for name, tensor in zip(self.names, tensors, strict=True)
        }


def stack(head: str, dim: int, classes: int, count: int, seed: int, like: Tensor) -> Stack:
    """Make `count` heads, equal at first: as torch initialises the module after `seed`.

    like: a tensor of the type and on the device that the parameters shall have.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build_head(head, dim, classes)
    tensors = [parameter.detach() for parameter in module.parameters()]
    tensors[2::2] = [weight.t() for weight in tensors[2::2]]
    parameters = tuple(
        tensor.to(like).expand(count, *tensor.shape).contiguous() for tensor in tensors
    )
    names = tuple(name for name, _ in module.named_parameters())
    return Stack(parameters, names, HEADS[head].dropout)
