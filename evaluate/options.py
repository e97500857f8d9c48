"""The options of the command line, each declared once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import click

from extract.backbones import ALIASES, BACKBONES
from extract.devices import DEVICES
from extract.engines import ENGINES, PRECISIONS
from heads.architectures import HEADS
from heads.optimizers import OPTIMIZERS

DATASET, TEST = Path("dataset"), Path("test_images")
MAX_PIXELS = 89_478_485  # Pillow's own limit, above which it suspects a decompression bomb
FOLDER = click.Path(file_okay=False, path_type=Path)


def _distinct(ctx: click.Context, parameter: click.Parameter, names: Sequence[str]) -> list[str]:
    """Take each name once, by the table's own name."""
    return list(dict.fromkeys(ALIASES.get(name, name) for name in names))


def _many(flag: str, choices: Sequence[str], text: str) -> Callable[..., Any]:
    choice = click.Choice(choices)
    return click.option(
        flag, type=choice, multiple=True, callback=_distinct, help=f"{text}; repeatable."
    )


def _limit_pixels(ctx: click.Context, parameter: click.Parameter, limit: int) -> None:
    """Set Pillow's own limit, which all decoding goes by."""
    import warnings

    from PIL import Image

    Image.MAX_IMAGE_PIXELS = limit
    # Between the limit and twice the limit Pillow only warns; decode.py refuses by name.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class Finite(click.FloatRange):
    """A number in a range; click lets `nan` through."""

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: Any) -> float:
        """See the class."""
        number = float(super().convert(value, parameter, ctx))
        if not isfinite(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", parameter, ctx)
        return number


OPTIONS: dict[str, Callable[..., Any]] = {
    "dataset": click.option(
        "--dataset", type=FOLDER, default=DATASET, show_default=True,
        help="Images to train on: a subfolder per class.",
    ),
    "test": click.option(
        "--test", type=FOLDER, default=TEST, show_default=True,
        help="Images to test on: the same subfolders.",
    ),
    "workspace": click.option(
        "--workspace", type=FOLDER, default=Path(), show_default=True,
        help="Where cache/, heads/, results.csv and report/ are kept.",
    ),
    "out": click.option(
        "--out", type=click.Path(dir_okay=False, path_type=Path), required=True,
        help="File to write, .npz or .parquet.",
    ),
    "yes": click.option("--yes", is_flag=True, help="Don't ask."),
    "strict": click.option(
        "--strict", is_flag=True, help="Stop at the first image that can't be read."
    ),
    "max_pixels": click.option(
        "--max-pixels", type=click.IntRange(min=1), default=MAX_PIXELS, show_default=True,
        expose_value=False, callback=_limit_pixels,
        help="Refuse larger images undecoded, as decompression bombs.",
    ),
    "arch": _many("--arch", [*BACKBONES, *ALIASES], "Backbone [default: all]"),
    "device": _many("--device", list(DEVICES), "Device [default: every real one present]"),
    "only_device": _many("--device", list(DEVICES), "Device [default: of every cache found]"),
    "head": _many("--head", list(HEADS), "Head [default: all]"),
    "optimizer": _many("--optimizer", list(OPTIMIZERS), "Optimizer [default: all]"),
    "weights": click.option(
        "--weights", default="auto", show_default=True, metavar="imagenet|random|auto|PATH",
        help="Backbone's weights; auto: ImageNet where it can be had, else random, and says so.",
    ),
    "precision": click.option(
        "--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True,
        help="Arithmetic of the backbone.",
    ),
    "engine": click.option(
        "--engine", type=click.Choice(list(ENGINES)), help="What computes [default: the device's]."
    ),
    "workers": click.option(
        "--workers", type=click.IntRange(min=1), help="Threads that decode [default: one per core]."
    ),
    "images_at_once": click.option(
        "--batch-size", "images_at_once", type=click.IntRange(min=1),
        help="Images that the backbone takes at once [default: the device's].",
    ),
    "fast_decode": click.option(
        "--fast-decode", is_flag=True,
        help="Decode large JPEG files at a fraction of their size: faster, other pixels.",
    ),
    "seed": click.option(
        "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True,
        help="Of everything random: weights, split, heads, batches.",
    ),
    "learning_rate": click.option(
        "--lr", "learning_rate", type=Finite(0, min_open=True), default=0.001, show_default=True,
        help="Learning rate.",
    ),
    "momentum": click.option(
        "--momentum", type=Finite(0, 1, max_open=True), default=0.9, show_default=True,
        help="Momentum, of optimizers that have one.",
    ),
    "epochs": click.option(
        "--epochs", type=click.IntRange(min=1), default=20, show_default=True,
        help="Passes over the training images.",
    ),
    "batch_size": click.option(
        "--batch-size", type=click.IntRange(min=1), default=23, show_default=True,
        help="Images per step of head training.",
    ),
    "val_fraction": click.option(
        "--val-fraction", type=Finite(0, 1, min_open=True, max_open=True), default=0.2,
        show_default=True, help="Share of --dataset kept for validation.",
    ),
}  # fmt: skip
TRAINING = ("learning_rate", "momentum", "epochs", "batch_size", "val_fraction", "seed")


def takes(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command these options, shown by --help in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = OPTIONS[name](command)
        return command

    return decorate
