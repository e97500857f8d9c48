"""When each of many heads ends: after its epochs, or when its validation loss falls no more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from heads.config import HeadConfig


class EarlyStopping:
    """Looks at K heads after every epoch. epochs: how many each has been trained for.

    active: which go on, bool [K]. best_epoch: of the lowest validation loss, int64 [K].
    """

    def __init__(self, configurations: Sequence[HeadConfig]) -> None:
        self.allowed = torch.tensor([c.epochs for c in configurations])
        self.patience = torch.tensor([c.patience for c in configurations])
        self.patient = self.patience > 0
        self.active = torch.ones(len(configurations), dtype=torch.bool)
        self.epochs = torch.zeros_like(self.allowed)
        self.best_epoch = torch.zeros_like(self.allowed)
        self.best_loss = torch.full(self.allowed.shape, torch.inf, dtype=torch.float64)
        self.kept: list[Tensor] = []  # the tensors of the best epoch, of those with patience

    def looks_at(self, epoch: int) -> bool:
        """Whether the validation loss of this epoch can matter to any head."""
        return bool(self.patient.any() or (self.allowed == epoch + 1).any())

    def look(self, epoch: int, loss: Tensor, tensors: Sequence[Tensor]) -> None:
        """Take in an epoch's validation loss [K], and the tensors that gave it."""
        self.epochs[self.active] = epoch + 1
        better = self.active & (loss < self.best_loss)
        self.best_epoch[better], self.best_loss[better] = epoch, loss[better]
        if self.patient.any():
            self.kept = self.kept or [tensor.clone() for tensor in tensors]
            for kept, tensor in zip(self.kept, tensors, strict=True):
                chosen = (better & self.patient).to(tensor.device)
                kept[chosen] = tensor[chosen]
        impatient = self.patient & (epoch - self.best_epoch >= self.patience)
        self.active &= ~impatient & (self.epochs < self.allowed)

    def final(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the last tensors; of heads with patience, those of their best epoch."""
        if not self.patient.any():
            return tuple(tensors)
        patient = self.patient.to(tensors[0].device)
        return tuple(
            torch.where(patient.view(-1, *[1] * (last.dim() - 1)), kept, last)
            for kept, last in zip(self.kept, tensors, strict=True)
        )

    def epoch_of(self, number: int) -> int:
        """Return the epoch, from 0, whose weights are a head's final ones."""
        chosen = self.best_epoch if self.patient[number] else self.epochs - 1
        return int(chosen[number])
