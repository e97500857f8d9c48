"""Early stopping of many heads, each by its number of epochs and its patience."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from heads.config import HeadConfig


class EarlyStopping:
    """The state of K heads, updated after every epoch.

    Attributes:
        active: Heads that are still trained, bool [K].
        epochs: Epochs that each head was trained for, int64 [K].
        best_epoch: Epoch of the lowest validation loss, int64 [K].
        best_tensors: Tensors of that epoch; empty if no head has patience.
    """

    def __init__(self, configurations: Sequence[HeadConfig]) -> None:
        self.allowed = torch.tensor([c.epochs for c in configurations])
        self.patience = torch.tensor([c.patience for c in configurations])
        self.patient = self.patience > 0
        self.active = torch.ones(len(configurations), dtype=torch.bool)
        self.epochs = torch.zeros_like(self.allowed)
        self.best_epoch = torch.zeros_like(self.allowed)
        self.best_loss = torch.full(self.allowed.shape, torch.inf, dtype=torch.float64)
        self.best_tensors: list[Tensor] = []

    def needs_validation(self, epoch: int) -> bool:
        """Return whether the validation loss of this epoch can matter to any head."""
        return bool(self.patient.any() or (self.allowed == epoch + 1).any())

    def update(self, epoch: int, loss: Tensor, tensors: Sequence[Tensor]) -> None:
        """Take an epoch's validation loss [K], and the tensors with that loss."""
        self.epochs[self.active] = epoch + 1
        better = self.active & (loss < self.best_loss)
        self.best_epoch[better], self.best_loss[better] = epoch, loss[better]
        if self.patient.any():
            self.best_tensors = self.best_tensors or [tensor.clone() for tensor in tensors]
            for best, tensor in zip(self.best_tensors, tensors, strict=True):
                improved = (better & self.patient).to(tensor.device)
                best[improved] = tensor[improved]
        exhausted = self.patient & (epoch - self.best_epoch >= self.patience)
        self.active &= ~exhausted & (self.epochs < self.allowed)

    def final(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the last tensors; of heads with patience, those of their best epoch."""
        if not self.patient.any():
            return tuple(tensors)
        patient = self.patient.to(tensors[0].device)
        return tuple(
            torch.where(patient.view(-1, *[1] * (last.dim() - 1)), best, last)
            for best, last in zip(self.best_tensors, tensors, strict=True)
        )

    def epoch_of(self, number: int) -> int:
        """Return the epoch, from 0, of a head's final tensors."""
        final = self.best_epoch if self.patient[number] else self.epochs - 1
        return int(final[number])
