"""Many heads of one architecture as stacked parameters: one matrix product for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import gelu

from heads.architectures import HEADS
from heads.modules import DRAWING, build_head, folded

# As torch.nn.BatchNorm1d has them (Ioffe & Szegedy 2015).
EPSILON, MOMENTUM = 1e-5, 0.1


@dataclass(frozen=True)
class Step:
    """What `forward` needs besides in training.

    kept: for each hidden layer a mask [B, width] of what dropout leaves. It is the same for all
    heads, so that they are compared on equal terms. counted: which rows are trained on by which
    head, bool [B, K]. tape: takes what `backward` needs.
    """

    kept: Sequence[Tensor]
    counted: Tensor
    tape: list[Tensor] = field(default_factory=list)


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

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that training changes."""
        return self.parameters

    def holding(self, tensors: Sequence[Tensor]) -> Stack:
        """Return the same heads with other tensors."""
        return replace(self, parameters=tuple(tensors))

    def forward(self, embeddings: Tensor, step: Step | None = None) -> Tensor:
        """Return the logits [B, K, C] of embeddings [B, D]. step: none, no dropout."""
        weight, bias = self.parameters[:2]
        heads = len(weight)
        if len(self.parameters) == 2:
            flat = torch.addmm(bias.view(-1), embeddings, weight.flatten(0, 1).t())
            return flat.view(len(embeddings), heads, -1)
        hidden = embeddings.expand(heads, *embeddings.shape)
        for i in range(0, len(self.parameters), 2):
            if i > 0:
                hidden = hidden.relu_()
            if i > 0 and step:
                hidden *= step.kept[i // 2 - 1] / (1 - self.dropout[i // 2 - 1])
            if step:
                step.tape.append(hidden)
            weight, bias = self.parameters[i : i + 2]
            hidden = torch.baddbmm(bias.unsqueeze(1), hidden, weight)
        return hidden.transpose(0, 1)

    def backward(
        self, slope: Tensor, embeddings: Tensor, step: Step, into: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return the loss's gradient by every parameter, from that by the logits [B, K, C].

        into: memory of the parameters' shapes; without any, it is allotted. By hand, as autograd
        would allot it at every step, which costs a third of the time.
        """
        inputs = step.tape  # of each layer
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

    def state_of(self, number: int) -> dict[str, Tensor]:
        """Return one head's tensors, as its module has them."""
        return _state_of(number, self.tensors, self.names)


@dataclass(frozen=True)
class NormedStack:
    """K heads whose hidden layers have batch norm and GELU; what `Stack` is to the others.

    parameters: by hidden layer, weight [K, in, out], and scale and shift [K, out]; at last, weight
    and bias. running: by hidden layer, the mean and the variance [K, out] that are
    normalised by at inference. names: of all these in the head's module as it is trained.
    """

    parameters: tuple[Tensor, ...]
    running: tuple[Tensor, ...]
    names: tuple[str, ...]
    dropout: tuple[float, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that training changes."""
        return (*self.parameters, *self.running)

    def holding(self, tensors: Sequence[Tensor]) -> NormedStack:
        """Return the same heads with other tensors."""
        count = len(self.parameters)
        return replace(self, parameters=tuple(tensors[:count]), running=tuple(tensors[count:]))

    def forward(self, embeddings: Tensor, step: Step | None = None) -> Tensor:
        """Return the logits [B, K, C] of embeddings [B, D].

        step: none, no dropout, and normalised by the running moments.
        """
        hidden = embeddings.expand(len(self.parameters[0]), *embeddings.shape)
        for layer, rate in enumerate(self.dropout):
            weight, scale, shift = self._layer(layer)
            inputs, hidden = hidden, torch.bmm(hidden, weight)
            running = self.running[2 * layer : 2 * layer + 2]
            mean, variance = _moments(hidden, step.counted, running) if step else running
            inverse = (variance + EPSILON).rsqrt().unsqueeze(1)
            normal = (hidden - mean.unsqueeze(1)) * inverse
            scaled = torch.addcmul(shift, normal, scale)
            hidden = gelu(scaled)
            if step:
                step.tape.extend((inputs, inverse, normal, scaled))
                hidden = hidden * (step.kept[layer] / (1 - rate))
        if step:
            step.tape.append(hidden)
        weight, bias = self.parameters[-2:]
        return torch.baddbmm(bias.unsqueeze(1), hidden, weight).transpose(0, 1)

    def backward(
        self, slope: Tensor, embeddings: Tensor, step: Step, into: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return the loss's gradient by every parameter, from that by the logits [B, K, C].

        into: see `Stack`. By hand, as autograd does not work on XLA if it was used before XLA.
        """
        memory: list[Tensor | None] = list(into) or [None for _ in self.parameters]
        own, share = _shares(step.counted, slope)
        slope = slope.transpose(0, 1)
        gradients = [
            torch.bmm(step.tape[-1].transpose(1, 2), slope, out=memory[-2]),
            torch.sum(slope, 1, out=memory[-1]),
        ]
        slope = torch.bmm(slope, self.parameters[-2].transpose(1, 2))
        for layer in reversed(range(len(self.dropout))):
            weight, scale, _ = self._layer(layer)
            inputs, inverse, normal, scaled = step.tape[4 * layer : 4 * layer + 4]
            slope = slope * (step.kept[layer] / (1 - self.dropout[layer]))
            slope = torch.ops.aten.gelu_backward(slope, scaled)
            by_scale, by_shift = (slope * normal).sum(1), slope.sum(1)
            # A row moves its head's mean and variance too, by its share of them.
            moved = by_shift.unsqueeze(1) + normal * by_scale.unsqueeze(1)
            slope = (slope - own * share * moved) * (scale * inverse)
            product = torch.bmm(inputs.transpose(1, 2), slope, out=memory[3 * layer])
            gradients = [product, by_scale, by_shift, *gradients]
            if layer > 0:
                slope = torch.bmm(slope, weight.transpose(1, 2))
        return gradients

    def state_of(self, number: int) -> dict[str, Tensor]:
        """Return one head's tensors, as its module has them when it is saved."""
        return folded(_state_of(number, self.tensors, self.names))

    def _layer(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return a hidden layer's weight [K, in, out], and scale and shift [K, 1, out]."""
        weight, scale, shift = self.parameters[3 * layer : 3 * layer + 3]
        return weight, scale.unsqueeze(1), shift.unsqueeze(1)


def _shares(counted: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return whose rows are whose, 0 or 1 [K, B, 1], and what part of its head's moments each of
    them is, [K, 1, 1]: none where there are fewer than 2.
    """
    own = counted.t().unsqueeze(2).to(like)
    rows = own.sum(1, keepdim=True)
    return own, (rows > 1) / rows.clamp(min=1)


def _moments(hidden: Tensor, counted: Tensor, running: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean and variance [K, out] of each head's own rows of hidden [K, B, out].

    The running ones learn of them, with the unbiased variance. A head of fewer than 2 rows here
    gets the running ones, which stay as they are.
    """
    own, share = _shares(counted, hidden)
    mean = (hidden * own * share).sum(1)
    variance = ((hidden - mean.unsqueeze(1)).square() * own * share).sum(1)
    share = share.squeeze(1)
    unbiased = variance / (1 - share)
    for kept, found in zip(running, (mean, unbiased), strict=True):
        kept.copy_(torch.where(share > 0, kept.lerp(found, MOMENTUM), kept))
    return (torch.where(share > 0, mean, running[0]), torch.where(share > 0, variance, running[1]))


def stack(
    head: str, dim: int, classes: int, count: int, seed: int, like: Tensor
) -> Stack | NormedStack:
    """Make `count` heads, equal at first: as torch initialises the module after `seed`.

    like: a tensor of the type and on the device that the parameters shall have.
    """
    with DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build_head(head, dim, classes, training=True)
    named = {name: tensor.detach() for name, tensor in module.named_parameters()}
    parameters = _repeated(list(named.values()), count, like)
    if not HEADS[head].batch_norm:
        return Stack(parameters, tuple(named), HEADS[head].dropout)
    moments = {name: tensor for name, tensor in module.named_buffers() if tensor.dim()}
    running = _repeated(list(moments.values()), count, like)
    return NormedStack(parameters, running, (*named, *moments), HEADS[head].dropout)


def _repeated(tensors: list[Tensor], count: int, like: Tensor) -> tuple[Tensor, ...]:
    """Stack so many heads that are equal to this one."""
    # Not expand(): on XLA all heads would stay one.
    return tuple(
        tensor.to(like).repeat(count, *(1 for _ in tensor.shape)) for tensor in _turned(tensors)
    )


def _state_of(number: int, stacked: Sequence[Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Return one head's tensors in torch's order, by name."""
    tensors = _turned([tensor[number].detach().cpu() for tensor in stacked])
    return {
        name: tensor.float().contiguous().clone()
        for name, tensor in zip(names, tensors, strict=True)
    }


def _turned(tensors: list[Tensor]) -> list[Tensor]:
    """Turn one head's weights from torch's order to ours, or back; see `Stack`."""
    if len(tensors) == 2:
        return tensors
    return [tensor.t() if tensor.dim() == 2 else tensor for tensor in tensors]
