"""Many heads of one architecture as stacked parameters.

- One matrix product per layer serves all heads.
- Every head starts with the weights that its torch module has after the same seed.
- Gradients are autograd's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from heads.modules import DRAWING, build_head, folded


class HeadStack:
    """K heads of one architecture, as stacked tensors under the names of their module.

    Weights are [K, in, out], so that each gradient comes out in its parameter's order. A head of
    one linear layer has torch's [K, out, in]: a single product serves all of its heads, which was
    1.6 times slower at 512 units, as few rows don't repay rearranging so many columns.

    Attributes:
        module: The module of one head in training; its layers say what `forward` computes.
        parameters: Leaves with gradient [K, ...], by name.
        running: Running mean and variance [K, out] of batch norm, by name.
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Mapping[str, Tensor],
        running: Mapping[str, Tensor],
    ) -> None:
        self.module, self.parameters, self.running = module, dict(parameters), dict(running)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that training changes."""
        return (*self.parameters.values(), *self.running.values())

    def replaced(self, tensors: Sequence[Tensor]) -> HeadStack:
        """Return the same heads with other tensors, in the order of `tensors`."""
        named = dict(zip((*self.parameters, *self.running), tensors, strict=True))
        return HeadStack(
            self.module,
            {name: named[name] for name in self.parameters},
            {name: named[name] for name in self.running},
        )

    def forward(
        self, embeddings: Tensor, masks: Sequence[Tensor] = (), counted: Tensor | None = None
    ) -> Tensor:
        """Return the logits [B, K, C] of embeddings [B, D].

        Args:
            embeddings: One batch for all heads.
            masks: In training, what dropout leaves of each hidden layer, [B, width]; the same for
                all heads, so that they are compared on equal terms.
            counted: In training, the rows that each head is trained on, bool [B, K].
        """
        if not isinstance(self.module, nn.Sequential):
            weight, bias = self.parameters["weight"], self.parameters["bias"]
            flat = torch.addmm(bias.flatten(), embeddings, weight.flatten(0, 1).t())
            return flat.view(len(embeddings), *bias.shape)
        dropout = iter(masks)
        hidden = embeddings.expand(len(self.tensors[0]), *embeddings.shape)
        for name, layer in self.module.named_children():
            if isinstance(layer, nn.Linear):
                weight = self.parameters[f"{name}.weight"]
                if layer.bias is None:
                    hidden = torch.bmm(hidden, weight)
                else:
                    bias = self.parameters[f"{name}.bias"].unsqueeze(1)
                    hidden = torch.baddbmm(bias, hidden, weight)
            elif isinstance(layer, nn.BatchNorm1d):
                hidden = self._normalized(name, layer, hidden, counted)
            elif not isinstance(layer, nn.Dropout):
                hidden = layer(hidden)
            elif masks:
                hidden = hidden * (next(dropout) / (1 - layer.p))
        return hidden.transpose(0, 1)

    def _normalized(
        self, name: str, norm: nn.BatchNorm1d, hidden: Tensor, counted: Tensor | None
    ) -> Tensor:
        """Apply batch norm to hidden [K, B, out], by the moments of each head's own rows.

        The running moments learn from them, with the unbiased variance. Without `counted`, and for
        a head of fewer than 2 rows in this batch, the running moments are used and stay.
        """
        running = [self.running[f"{name}.running_{moment}"] for moment in ("mean", "var")]
        mean, variance = (moment.unsqueeze(1) for moment in running)
        if counted is not None:
            own = counted.t().unsqueeze(2).to(hidden)
            rows = own.sum(1, keepdim=True)
            share = own / rows.clamp(min=1)
            own_mean = (hidden * share).sum(1, keepdim=True)
            own_variance = ((hidden - own_mean).square() * share).sum(1, keepdim=True)
            mean = torch.where(rows > 1, own_mean, mean)
            variance = torch.where(rows > 1, own_variance, variance)
            with torch.no_grad():
                unbiased = own_variance * rows / (rows - 1).clamp(min=1)
                for moment, new in zip(running, (own_mean, unbiased), strict=True):
                    learnt = moment.lerp(new.squeeze(1), norm.momentum or 0.0)
                    moment.copy_(torch.where(rows.squeeze(2) > 1, learnt, moment))
        scale, shift = (self.parameters[f"{name}.{kind}"] for kind in ("weight", "bias"))
        normal = (hidden - mean) * (variance + norm.eps).rsqrt()
        return torch.addcmul(shift.unsqueeze(1), normal, scale.unsqueeze(1))

    def state_dict(self, number: int) -> dict[str, Tensor]:
        """Return one head's tensors on the CPU, as its module has them when it is saved."""
        named = (self.parameters | self.running).items()
        state = {name: tensor[number].detach().cpu().float() for name, tensor in named}
        state = _transposed(state, self.module)
        return folded({name: tensor.contiguous().clone() for name, tensor in state.items()})


def stack(head: str, dim: int, classes: int, count: int, seed: int, like: Tensor) -> HeadStack:
    """Make `count` equal heads, initialised as torch initialises the module after `seed`.

    Their parameters have the type and device of the tensor `like`.
    """
    with DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build_head(head, dim, classes, training=True)
    # Not expand(): on XLA all heads would stay one.
    stacked = {
        name: tensor.detach().to(like).repeat(count, *(1 for _ in tensor.shape))
        for name, tensor in _transposed(module.state_dict(), module).items()
        if tensor.dim()  # not the number of batches
    }
    names = [name for name, _ in module.named_parameters()]
    running = {name: stacked[name] for name in stacked if name not in names}
    return HeadStack(module, {name: stacked[name].requires_grad_() for name in names}, running)


def _transposed(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Turn weights from torch's order to that of `HeadStack`, or back."""
    if not isinstance(module, nn.Sequential):
        return dict(state)
    return {name: tensor.t() if tensor.dim() == 2 else tensor for name, tensor in state.items()}
