"""The options of the command line, each declared once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from evaluate.audit.findings import FINDINGS
from evaluate.baseline.modes import MODES
from evaluate.export.formats import FORMATS
from evaluate.text import REHASH, STUDYS_OWN
from extract.backbones import ALIASES, BACKBONES, STANDARD
from extract.backends.backend import ENGINES, PRECISIONS
from extract.dataset_statistics.normalization import NORMALIZATIONS
from extract.devices import DEVICES
from extract.imaging.augmentation import POLICIES
from extract.imaging.preprocessing import AS_USUAL, FITS, FULL_SCALE
from extract.model_zoo.families import FAMILIES
from extract.sources.image_file import to_path
from frostline.cli.param_types import Architecture, Finite, FullScale, Place
from heads.architectures import HEADS
from heads.config import BALANCES, HeadConfig
from heads.optimizers import OPTIMIZERS
from heads.schedules import SCHEDULES
from heads.search.space import FIELDS, LIMITS

DATASET, TEST = Path("dataset"), Path("test_images")
MAX_PIXELS = 89_478_485  # Pillow's own limit, above which it suspects a decompression bomb
FOLDER = click.Path(file_okay=False, path_type=Path)


IMAGES = Place()  # a folder, a list of images, or a folder in an archive


def _distinct(ctx: click.Context, parameter: click.Parameter, values: Sequence[Any]) -> list[Any]:
    """Take each value once, a name by the table's own name."""
    return list(dict.fromkeys(ALIASES.get(value, value) for value in values))


def _backbones(text: str, required: bool = False) -> Callable[..., Any]:
    return click.option(
        "--arch", type=Architecture([*BACKBONES, *ALIASES]), multiple=True, callback=_distinct,
        required=required, metavar="NAME|" + "|".join(f"{family}:NAME" for family in FAMILIES),
        help=f"{text}; repeatable. NAME: {', '.join(BACKBONES)}.",
    )  # fmt: skip


def _by_recipe(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Let a recipe say what the options are that are not given."""
    if path:
        from frostline.cli.recipes import TABLES, read_recipe

        group = ctx.find_root().command
        assert isinstance(group, click.Group)  # noqa: S101 - `run` is a command of it
        recipe = read_recipe(path, {name: group.commands[name] for name in TABLES})
        ctx.meta[RECIPE], ctx.default_map = recipe, recipe.run


def _named(
    ctx: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> dict[str, Path]:
    """Take NAME=DIR apart."""
    found: dict[str, Path] = {}
    for value in values:
        name, equals, folder = value.partition("=")
        if not (name and equals and folder) or name in (*found, STUDYS_OWN):
            raise click.BadParameter(f"{value}: give NAME=DIR, each NAME once", ctx, parameter)
        found[name] = to_path(folder)
    return found


def _many(
    flag: str, choices: Sequence[str], text: str, required: bool = False
) -> Callable[..., Any]:
    choice = click.Choice(choices)
    return click.option(
        flag, type=choice, multiple=True, callback=_distinct, required=required,
        help=f"{text}; repeatable.",
    )  # fmt: skip


def _limit_pixels(ctx: click.Context, parameter: click.Parameter, limit: int) -> None:
    """Set Pillow's own limit, which all decoding goes by."""
    import warnings

    from PIL import Image

    Image.MAX_IMAGE_PIXELS = limit
    # Between the limit and twice the limit Pillow only warns; decode.py refuses by name.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _rehash(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Tell whoever reads images in this command, and in those of a recipe."""
    if value:
        ctx.meta[REHASH] = True


def _with_ray(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Refuse what would have no effect."""
    given = ctx.get_parameter_source(str(parameter.name)) != click.core.ParameterSource.DEFAULT
    if given and ctx.params["on"] != "ray":
        raise click.UsageError(f"{parameter.opts[0]} is for --on ray", ctx)
    return value


def _number(name: str) -> click.ParamType[Any]:
    """Return the type of a number of head training, within the limits that grid files have too."""
    limits = LIMITS[name]
    bounds: dict[str, Any] = {"min_open": limits.low_open, "max_open": limits.high_open}
    kind: Any = click.IntRange if limits.whole else Finite
    number: click.ParamType[Any] = kind(limits.low, limits.high, **bounds)
    return number


def _swept(flag: str, name: str, text: str) -> Callable[..., Any]:
    default = HeadConfig.__dataclass_fields__[name].default
    return click.option(
        flag, name, type=_number(name), multiple=True, callback=_distinct,
        help=f"{text}; repeatable. [default: {default:g}]",
    )  # fmt: skip


OPTIONS: dict[str, Callable[..., Any]] = {
    "recipe": click.option(
        "--recipe", type=click.Path(dir_okay=False, exists=True, path_type=Path), is_eager=True,
        expose_value=False, callback=_by_recipe,
        help="A TOML file with a whole study, see recipes/; options given here come before it.",
    ),
    "dataset": click.option(
        "--dataset", type=IMAGES, default=DATASET, show_default=True,
        help="Images to train on: a subfolder per class, also in a .zip, or a .csv list.",
    ),
    "test": click.option(
        "--test", type=IMAGES, default=TEST, show_default=True,
        help="Images to test on: the same subfolders.",
    ),
    "per_class": click.option(
        "--per-class", type=click.IntRange(min=1),
        help="Train on so many images of each class, chosen by content [default: all].",
    ),
    "test_per_class": click.option(
        "--test-per-class", type=click.IntRange(min=1),
        help="Test on so many images of each class, chosen by content [default: all].",
    ),
    "also": click.option(
        "--also", multiple=True, metavar="NAME=DIR", callback=_named,
        help="An independent set to test on too, for the drop in accuracy; repeatable.",
    ),
    "max_latency_ms": click.option(
        "--max-latency-ms", type=Finite(0, min_open=True),
        help="Name the best model that answers a single image so soon (median).",
    ),
    "max_size_mb": click.option(
        "--max-size-mb", type=Finite(0, min_open=True),
        help="Name the best model of at most so many megabytes.",
    ),
    "mode": _many("--mode", list(MODES), "What of the network is trained", required=True),
    "training_precision": click.option(
        "--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True,
        help="Arithmetic of training.",
    ),
    "split_out": click.option(
        "--out", type=FOLDER, required=True, help="Folder to write train and test into."
    ),
    "test_fraction": click.option(
        "--test-fraction", type=Finite(0, 1, min_open=True, max_open=True), default=0.2,
        show_default=True, help="Share of each class to test on.",
    ),
    "hold_out": click.option(
        "--test-fraction", "hold_out", type=Finite(0, 1, min_open=True, max_open=True),
        help="Without --test: hold out this share of each class of --dataset to test on.",
    ),
    "copy": click.option(
        "--copy/--list", default=False, show_default=True,
        help="Copy the images into folders, or write lists of where they lie.",
    ),
    "workspace": click.option(
        "--workspace", type=FOLDER, default=Path("out"), show_default=True,
        help="Where cache/, heads/, results.csv and report/ are kept.",
    ),
    "out": click.option(
        "--out", type=click.Path(dir_okay=False, path_type=Path), required=True,
        help="File to write, .npz or .parquet.",
    ),
    "published": click.option(
        "--baseline", type=click.Path(dir_okay=False, exists=True, path_type=Path),
        help="A published results.csv to set ours beside.",
    ),
    "html": click.option(
        "--html", type=click.Path(dir_okay=False, path_type=Path),
        help="File to write what was found into, as a page with pictures.",
    ),
    "audit_format": click.option(
        "--format", "audit_format", type=click.Choice(["text", "json"]), default="text",
        show_default=True, help="How what was found is printed.",
    ),
    "fail_on": _many("--fail-on", list(FINDINGS), "Exit with 1 if this is found"),
    "no_group": click.option(
        "--no-group", is_flag=True, help="Take near duplicates for different images."
    ),
    "model": click.option(
        "--model", default="best", show_default=True, metavar="ID|best",
        help="A model_id of results.csv, or the best of the study run last.",
    ),
    "file_format": click.option(
        "--format", "file_format", type=click.Choice(list(FORMATS)), required=True,
        help="What the file is for: " + ", ".join(
            f"{name} ({form.suffix})" for name, form in FORMATS.items()
        ) + ".",
    ),
    "file": click.option(
        "--out", type=click.Path(dir_okay=False, path_type=Path), required=True,
        help="File to write; FILE.md beside it is its model card.",
    ),
    "tensorboard": click.option(
        "--tensorboard", type=FOLDER,
        help="Folder to write training curves and settings into, for TensorBoard.",
    ),
    "answers": click.option(
        "--out", type=click.Path(dir_okay=False, path_type=Path),
        help="File to write, .csv or .json [default: CSV on standard output].",
    ),
    "heatmap": click.option(
        "--heatmap", type=FOLDER, help="Folder to write activation maps into."
    ),
    "forget": click.option(
        "--forget", type=IMAGES, multiple=True,
        help="A data set that is gone for good: its images count as gone; repeatable.",
    ),
    "yes": click.option("--yes", is_flag=True, help="Don't ask."),
    "strict": click.option(
        "--strict", is_flag=True, help="Stop at the first image that can't be read."
    ),
    "rehash": click.option(
        "--rehash", is_flag=True, expose_value=False, callback=_rehash,
        help="Read every image file again, also those that seem unchanged.",
    ),
    "max_pixels": click.option(
        "--max-pixels", type=click.IntRange(min=1), default=MAX_PIXELS, show_default=True,
        expose_value=False, callback=_limit_pixels,
        help="Refuse larger images undecoded, as decompression bombs.",
    ),
    "arch": _backbones(f"Backbone [default: {', '.join(STANDARD)}]"),
    "only_arch": _backbones("Backbone [default: of every cache found]"),
    "some_arch": _backbones("Backbone", required=True),
    "device": _many("--device", list(DEVICES), "Device [default: every real one present]"),
    "training_device": click.option(
        "--device", "device", type=click.Choice(list(DEVICES)),
        help="Device that trains and answers [default: cuda, tpu or cpu, the first that is there].",
    ),
    "only_device": _many("--device", list(DEVICES), "Device [default: of every cache found]"),
    "head": _many("--head", list(HEADS), "Head [default: single, multi]"),
    "optimizer": _many("--optimizer", list(OPTIMIZERS), "Optimizer [default: adam, sgd]"),
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
    "augmented": click.option(
        "--views", "augmented", type=click.IntRange(0, 65535), default=0, show_default=True,
        help="Augmented views of each training image to embed, besides the clean one.",
    ),
    "fit": click.option(
        "--fit", type=click.Choice(list(FITS)), default=AS_USUAL.fit, show_default=True,
        help="How an image becomes a square.",
    ),
    "normalize": click.option(
        "--normalize", type=click.Choice(list(NORMALIZATIONS)), default="weights",
        show_default=True, help="Whose mean and standard deviation images are normalised by.",
    ),
    "full_scale": click.option(
        "--full-scale", type=FullScale(1, FULL_SCALE), metavar="N|auto",
        help="Value that is white, of images with 9 to 16 bits; auto: the smallest 2^b - 1 that "
        "holds all training images [default: the file's own full scale].",
    ),
    "augment": click.option(
        "--augment", type=click.Choice(list(POLICIES)), default=AS_USUAL.augmentation,
        show_default=True, help="What augmented views may look like.",
    ),
    "augment_or_none": click.option(
        "--augment", type=click.Choice(["none", *POLICIES]), default=AS_USUAL.augmentation,
        show_default=True, help="How each image is changed in every epoch.",
    ),
    "fast_decode": click.option(
        "--fast-decode", is_flag=True,
        help="Decode large JPEG files at a fraction of their size: faster, other pixels.",
    ),
    "seed": click.option(
        "--seed", type=_number("seed"), default=0, show_default=True,
        help="Of everything random: weights, split, heads, batches.",
    ),
    "learning_rate": _swept("--lr", "learning_rate", "Learning rate"),
    "momentum": _swept("--momentum", "momentum", "Momentum, of optimizers that have one"),
    "nesterov": click.option("--nesterov", is_flag=True, help="Nesterov's momentum."),
    "weight_decay": _swept(
        "--weight-decay", "weight_decay", "Weight decay; strength of logreg and ridge"
    ),
    "schedule": _many("--schedule", list(SCHEDULES), "Course of the learning rate"),
    "gamma": _swept("--gamma", "gamma", "Factor of an exponential or step schedule"),
    "warmup": _swept("--warmup", "warmup", "Epochs in which the learning rate rises"),
    "epochs": _swept("--epochs", "epochs", "Passes over the training images"),
    "patience": _swept(
        "--patience", "patience", "Stop after so many epochs without a lower validation loss"
    ),
    "batch_size": _swept("--batch-size", "batch_size", "Images per step of head training"),
    "balance": _many("--balance", list(BALANCES), "What is done for rare classes"),
    "views": _swept("--views", "views", "Augmented views to draw from, or to fill up with"),
    "val_fraction": _swept("--val-fraction", "val_fraction", "Share kept for validation"),
    "seeds": click.option(
        "--seeds", type=_number("seeds"), default=1, show_default=True,
        help="Heads of each configuration, from --seed on.",
    ),
    "cv": click.option(
        "--cv", type=_number("cv"), help="Judge each configuration by so many folds."
    ),
    "repeats": click.option(
        "--repeats", type=_number("repeats"), default=1, show_default=True,
        help="How often --cv redraws its folds.",
    ),
    "grid": click.option(
        "--grid", type=click.Path(dir_okay=False, exists=True, path_type=Path),
        help="A TOML file that says what to train; see recipes/.",
    ),
    "on": click.option(
        "--on", is_eager=True, type=click.Choice(["local", "ray"]), default="local",
        show_default=True, help="Who computes: this process, or a Ray cluster.",
    ),
    "address": click.option(
        "--address", metavar="auto|HOST:PORT|ray://…", callback=_with_ray,
        help="The Ray cluster [default: RAY_ADDRESS, or one of this machine's cores].",
    ),
    "resources": click.option(
        "--resources", default='{"CPU": 2}', show_default=True, metavar="JSON", callback=_with_ray,
        help="What each worker on Ray is given.",
    ),
    "shard_size": click.option(
        "--shard-size", type=click.IntRange(min=1), default=2048, show_default=True,
        callback=_with_ray, help="Files that a worker on Ray takes at once.",
    ),
    "max_failed_shards": click.option(
        "--max-failed-shards", type=click.IntRange(min=0), default=0, show_default=True,
        callback=_with_ray, help="Shards that may fail on Ray before the run is given up.",
    ),
    "cache_at": click.option(
        "--cache", "cache_at", type=IMAGES, metavar="DIR|URL",
        help="Where the caches are [default: in the workspace]; see `cache fetch`.",
    ),
    "train_on": click.option(
        "--train-on", type=click.Choice(list(DEVICES)), default="cpu", show_default=True,
        help="Device that trains the heads.",
    ),
}  # fmt: skip
FIELD_OPTIONS = tuple(name for name in FIELDS if name not in ("head", "optimizer"))
PLAN = ("seed", "seeds", "cv", "repeats")
FEWER = ("per_class", "test_per_class")
PICTURES = ("fast_decode", "fit", "normalize", "full_scale", "augment")
RAY = ("address", "resources")  # who computes, if not this process
RECIPE = "recipe"
TRAINING = (*FIELD_OPTIONS, *PLAN, "grid", "no_group", "train_on", "tensorboard")


def takes(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command these options, shown by --help in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = OPTIONS[name](command)
        return command

    return decorate
