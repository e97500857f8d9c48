"""The ordinary way: every image decoded, changed and run through the network in every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from cache.errors import DatasetError, HeadError
from evaluate.baseline.checkpoint import damaged, part, read_checkpoint, write_checkpoint
from evaluate.baseline.images import batches_of_pixels
from evaluate.baseline.network import WholeNetwork, optimizer_of, seeded, set_rate
from extract.imaging.augmentation import LARGEST_NUMBER
from extract.imaging.preprocessing import Preprocessing
from extract.sources.image_file import ImageFile
from heads.batched.early_stopping import EarlyStopping
from heads.batched.sampling import (
    batches_of,
    class_sampling_weights,
    masks_of,
    row_weights,
    views_of,
)
from heads.batched.trainer import MAX_PARAMETER, Curves, HeadGroup
from heads.config import HeadConfig
from heads.schedules import factor

SAVE_EVERY_S = 60.0
WRITING = 20  # times as long as a checkpoint took to write, no other is written
NO_AUGMENTATION = "none"

Stopped = Callable[[], bool]
Advance = Callable[[int], None]


@dataclass(frozen=True)
class TrainingPlan:
    """What a network is trained on, and how.

    Attributes:
        files: In the order of their SHA-256.
        labels: int64 [N], of the files.
        group: Which images are trained and validated on, and in which batches.
        preprocessing: How files become pixels; its policy makes augmented views.
        augmentation: Policy by which each image is changed in every epoch, or `none`.
        device: Of torch.
    """

    configuration: HeadConfig
    files: tuple[ImageFile, ...]
    labels: Tensor
    classes: int
    group: HeadGroup
    preprocessing: Preprocessing
    augmentation: str
    precision: str
    device: str


class Training:
    """A training of a network, from its first to its last epoch, or from a checkpoint on.

    Args:
        checkpoint: File of the unfinished training.
    """

    def __init__(self, course: TrainingPlan, network: WholeNetwork, checkpoint: Path) -> None:
        self.course, self.network, self.checkpoint = course, network, checkpoint
        self.configuration = course.configuration
        group, count = course.group, len(course.files)
        self.optimizer = optimizer_of(self.configuration, network, course.device)
        self.images = torch.cat([torch.arange(count), group.extra[:, 0]])
        self.views = torch.cat([torch.zeros(count, dtype=torch.int64), group.extra[:, 1]])
        self.labels = course.labels[self.images]
        self.weights = row_weights(
            [self.configuration], group.training, self.labels, course.classes
        )[:, 0]
        self.held_out = group.validation[0].nonzero()[:, 0]
        sampling = self.configuration.balance == "sampling"
        self.odds = class_sampling_weights(self.labels[group.pool]) if sampling else None
        self.ending = EarlyStopping([self.configuration])
        self.curves: Curves = {}
        self.generator = torch.Generator().manual_seed(self.configuration.seed)
        self.drawn = self.generator.get_state()  # as it was before this epoch
        self.batch = 0  # of this epoch, that comes next
        self.sums = torch.zeros(4, device=course.device)  # loss, weight, right, rows
        self.started = self.saved = time.perf_counter()
        self.writing = 0.0

    @property
    def epoch(self) -> int:
        """The epoch under way, from 0."""
        return len(self.curves.get("training_loss", ()))

    @property
    def remaining(self) -> int:
        """How many images are still to be run, if patience spares none."""
        pool, held_out = len(self.course.group.pool), len(self.held_out)
        epochs = self.configuration.epochs - self.epoch if self.ending.active.any() else 0
        done = min(self.batch * self.course.group.batch_size, pool)
        return epochs * (pool + held_out) - done + held_out

    @property
    def seconds(self) -> float:
        """How long it has taken, all its runs together."""
        return time.perf_counter() - self.started

    def run(self, stopped: Stopped, advance: Advance) -> int:
        """Train until the end, and return the epoch whose weights the network has then.

        Args:
            stopped: Asked after every batch; if so, a checkpoint is written and left behind.
            advance: Receives how many images were run.

        Raises:
            KeyboardInterrupt: it was stopped.
            HeadError: it diverged.
            DatasetError: an image is gone, or has changed; a checkpoint is written before.
        """
        try:
            while self.ending.active.any():
                self._train(stopped, advance)
                loss, accuracy = self._scores(self.answers(stopped, advance))
                self._end_epoch(loss, accuracy)
                self._pause(stopped)
        except DatasetError:
            self.save()
            raise
        if self.configuration.patience:
            best = self.ending.final(self._tensors())
            state = self.network.trained.state_dict()
            values = [tensor[0] for tensor in best]
            self.network.trained.load_state_dict(dict(zip(state, values, strict=True)))
        self._check_sound()
        return self.ending.epoch_of(0)

    def answers(self, stopped: Stopped, advance: Advance) -> Tensor:
        """Return the logits of the validation images, clean ones, float32 [V, C] on the CPU."""
        self.network.eval()
        batches = torch.split(self.held_out, self.configuration.batch_size)
        logits = []
        with closing(self._pixels(batches, clean=True)) as stream, torch.no_grad():
            for pixels in stream:
                logits.append(self._forward(pixels))
                _finish(self.course.device)
                advance(len(pixels))
                self._pause(stopped)
        return torch.cat(logits).cpu()

    def save(self) -> None:
        """Write a checkpoint. Raises HeadError if the training has diverged."""
        began = time.perf_counter()
        sums = self.sums.cpu()
        if not sums.isfinite().all():
            raise self._diverged()
        state = self.optimizer.state_dict()["state"]
        tensors = {"sums": sums, "drawn": self.drawn}
        tensors |= {f"model.{k}": v for k, v in self.network.trained.state_dict().items()}
        tensors |= {
            f"optimizer.{number}.{name}": value
            for number, values in state.items()
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
        tensors |= {f"best.{n}": tensor for n, tensor in enumerate(self.ending.best_tensors)}
        note = {"batch": self.batch, "seconds": self.seconds, "curves": self.curves}
        write_checkpoint(self.checkpoint, tensors, note)
        self.saved = time.perf_counter()
        self.writing = self.saved - began

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one. Raises HeadError if it is damaged."""
        if not self.checkpoint.exists():
            return
        tensors, note = read_checkpoint(self.checkpoint)
        try:
            self.network.trained.load_state_dict(part(tensors, "model"))
            self._load_optimizer(part(tensors, "optimizer"))
            self.curves, self.batch = note["curves"], note["batch"]
            self.started = time.perf_counter() - note["seconds"]
            self.sums, self.drawn = tensors["sums"].to(self.course.device), tensors["drawn"]
            for epoch, loss in enumerate(self.curves.get("validation_loss", ())):
                self.ending.update(epoch, torch.tensor([loss], dtype=torch.float64), ())
            best = part(tensors, "best")
            self.ending.best_tensors = [best[str(number)] for number in range(len(best))]
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise damaged(self.checkpoint, "it holds other tensors than this training") from error

    def _train(self, stopped: Stopped, advance: Advance) -> None:
        """Run what is left of an epoch's batches."""
        c, group = self.configuration, self.course.group
        self.generator.set_state(self.drawn)
        views_of(len(self.labels), 0, self.generator)  # none are chosen, but heads draw them
        batches = batches_of(group.pool, group.batch_size, self.odds, self.generator)
        if self.network.trains_backbone:
            batches = joined(batches)
        rate = factor(c.schedule, c.gamma, c.warmup, self.epoch, c.epochs)
        set_rate(self.optimizer, c.learning_rate * rate)
        masks = [masks_of(len(rows), c.head, self.generator) for rows in batches]
        self.network.train()
        with closing(self._pixels(batches[self.batch :])) as stream:
            for pixels in stream:
                rows = batches[self.batch]
                self._step(rows, pixels, masks[self.batch])
                self.batch += 1
                advance(len(rows))
                self._pause(stopped)

    def _step(self, rows: Tensor, pixels: NDArray[np.uint8], masks: Sequence[Tensor]) -> None:
        device = self.course.device
        labels, weights = self.labels[rows].to(device), self.weights[rows].to(device)
        with seeded(device, self.configuration.seed, self.epoch, self.batch):
            logits = self._forward(pixels, [mask.to(device) for mask in masks])
        losses = cross_entropy(logits, labels, reduction="none") * weights
        loss = losses.sum() / weights.sum()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        right = (logits.argmax(1) == labels).sum()
        rows_seen = torch.full_like(loss, len(rows))
        found = torch.stack([losses.sum(), weights.sum(), right.to(loss.dtype), rows_seen])
        self.sums = self.sums + found.detach()
        _finish(device)
        # XLA would have to wait for the number; an epoch's sum tells as well.
        if device != "xla" and not isfinite(loss.item()):
            raise self._diverged()

    def _forward(self, pixels: NDArray[np.uint8], masks: Sequence[Tensor] = ()) -> Tensor:
        """Return logits in float32, whatever they are computed in."""
        device, bf16 = self.course.device, self.course.precision == "bf16"
        images = torch.from_numpy(pixels).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits: Tensor = self.network(images, masks)
        return logits.float()

    def _pixels(
        self, batches: Sequence[Tensor], clean: bool = False
    ) -> Generator[NDArray[np.uint8]]:
        pairs = [
            [(int(self.images[row]), 0 if clean else self._view(int(row))) for row in rows]
            for rows in batches
        ]
        return batches_of_pixels(self.course.files, pairs, self.course.preprocessing)

    def _view(self, row: int) -> int:
        """Return which view of its image a row is in this epoch."""
        view = int(self.views[row])
        if self.course.augmentation == NO_AUGMENTATION:
            return view
        return 1 + (view * self.configuration.epochs + self.epoch) % LARGEST_NUMBER

    def _scores(self, logits: Tensor) -> tuple[float, float]:
        labels = self.labels[self.held_out]
        loss = cross_entropy(logits.double(), labels).item()
        return loss, (logits.argmax(1) == labels).double().mean().item()

    def _end_epoch(self, loss: float, accuracy: float) -> None:
        sums = self.sums.cpu().double()
        point = {
            "training_loss": float(sums[0] / sums[1]),
            "training_accuracy": float(sums[2] / sums[3]),
            "validation_loss": loss,
            "validation_accuracy": accuracy,
        }
        if not all(map(isfinite, point.values())):
            raise self._diverged()
        kept = self._tensors() if self.configuration.patience else ()
        self.ending.update(self.epoch, torch.tensor([loss], dtype=torch.float64), kept)
        for name, value in point.items():
            self.curves.setdefault(name, []).append(value)
        self.sums, self.batch = torch.zeros_like(self.sums), 0
        self.drawn = self.generator.get_state()

    def _pause(self, stopped: Stopped) -> None:
        """Write a checkpoint if it is time to, or if the user asks to stop; then stop."""
        wish = stopped()
        since = time.perf_counter() - self.saved
        if wish or since >= max(SAVE_EVERY_S, WRITING * self.writing):
            self.save()
        if wish:
            raise KeyboardInterrupt

    def _tensors(self) -> list[Tensor]:
        """What is trained, as `EarlyStopping` takes it: of one network, on the CPU."""
        return [tensor.cpu()[None] for tensor in self.network.trained.state_dict().values()]

    def _load_optimizer(self, saved: dict[str, Tensor]) -> None:
        parameters = list(self.network.trained.parameters())
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in saved.items():
            number, _, kind = name.partition(".")
            like = parameters[int(number)]
            # In the order in memory that it had: rounding may depend on it.
            alike = torch.empty_like(like, device="cpu").copy_(tensor) if kind != "step" else tensor
            state.setdefault(int(number), {})[kind] = alike
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _check_sound(self) -> None:
        """Make sure that no weight of the backbone is infinite, nor any of the head's too large."""
        of_head = self.network.head.parameters()
        finite = all(
            tensor.isfinite().all() for tensor in self.network.trained.state_dict().values()
        )
        if not finite or any((tensor.abs() >= MAX_PARAMETER).any() for tensor in of_head):
            raise self._diverged()

    def _diverged(self) -> HeadError:
        self.checkpoint.unlink(missing_ok=True)
        return HeadError(f"training diverged in epoch {self.epoch + 1}: give a smaller --lr")


def joined(batches: Sequence[Tensor]) -> Sequence[Tensor]:
    """Let a last batch of one image join the one before: batch norm needs two."""
    if len(batches) < 2 or len(batches[-1]) > 1:
        return batches
    return [*batches[:-2], torch.cat([*batches[-2:]])]


def _finish(device: str) -> None:
    """Have XLA compute what was only noted so far: one step is one program."""
    if device == "xla":
        import torch_xla

        torch_xla.sync()
