"""Training curves and settings of saved heads, as TensorBoard shows them."""

import dataclasses
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

from cache.errors import DeviceError
from evaluate.text import printable
from heads.search.trials import MEASURED
from heads.store import HeadInfo, TrainedHead


def write_tensorboard(heads: Sequence[TrainedHead], folder: Path) -> list[Path]:
    """Write one run per head, a folder named after it; what was there of that head is replaced.

    Per epoch, from 1: loss and accuracy of training and validation. Once: the settings, and the
    figures of the epoch whose weights were kept, for the table of hyperparameters. Returns the
    runs' folders.

    Raises:
        DeviceError: the package tensorboard is missing.
        OSError: the disk is full, or the folder can't be written.
    """
    if find_spec("tensorboard") is None:
        raise DeviceError("this needs TensorBoard: pip install 'tensorboard>=2.18'")
    folder.mkdir(parents=True, exist_ok=True)
    runs = []
    for saved in heads:
        run = folder / saved.info.id
        with TemporaryDirectory(dir=folder, prefix=".", suffix=".tmp") as temporary:
            new = Path(temporary) / run.name
            _write(saved.info, new)
            if run.exists():
                rmtree(run)
            new.replace(run)
        runs.append(run)
    return runs


def _write(info: HeadInfo, run: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(run) as writer:  # type: ignore[no-untyped-call]
        for measured in MEASURED:
            part, _, measure = measured.partition("_")
            for epoch, value in enumerate(info.curves[measured], start=1):
                writer.add_scalar(f"{measure}/{part}", value, epoch)
        writer.add_hparams(_settings(info), _final(info), run_name=".")


def _settings(info: HeadInfo) -> dict[str, str | float]:
    """Return what the head was trained from and how, without settings that have no effect on it."""
    configuration, key = info.configuration, info.identity
    without = {*configuration.unused_fields(), "fold"} - {"optimizer"}
    fields = dataclasses.asdict(configuration)
    return {
        "backbone": key.backbone,
        "weights": printable(info.weights),
        "device": key.device,
        "precision": key.precision,
        **{name: value for name, value in fields.items() if name not in without},
    }


def _final(info: HeadInfo) -> dict[str, float]:
    """Return the figures of the epoch whose weights were kept, and of the folds, if any judged."""
    figures = {f"final/{name}": info.curves[name][info.epoch] for name in MEASURED}
    if info.selection.cv_accuracy is not None:
        figures["final/cv_accuracy"] = info.selection.cv_accuracy
    return figures | {"final/epoch": info.epoch + 1}
