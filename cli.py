"""The command line: parse, call, echo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache.errors import FrostlineError, WeightsError
from evaluate.printable import printable
from evaluate.terminal import bar, say, show_findings, tell_failures, warn
from extract.backbones import ALIASES, BACKBONES, WEIGHTS_WORDS
from extract.devices import DEVICES, present_devices, require_device
from extract.engines import ENGINES, PRECISIONS, choose_engine
from heads.architectures import HEADS
from heads.optimizers import OPTIMIZERS

# torch, h5py, pandas and rich are imported where they are used: --help answers at once.
if TYPE_CHECKING:
    from cache.store import Cache
    from evaluate.workspace import Workspace
    from extract.scan import ImageSet
    from heads.configuration import Configuration
    from heads.files import SavedHead

DATASET, TEST = Path("dataset"), Path("test_images")


class Frostline(click.Group):
    """The one place where our errors become messages, and Ctrl-C a promise."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; see the class."""
        try:
            return super().invoke(ctx)
        except FrostlineError as error:
            raise click.ClickException(printable(str(error))) from error
        except OSError as error:  # the disk or its rights; our own faults raise other things
            raise click.ClickException(
                printable(
                    f"{error}: mend that, or choose another folder; what was finished is kept"
                )
            ) from error
        except KeyboardInterrupt:
            say("\nStopped. What was finished is kept: the same command goes on from there.")
            raise click.exceptions.Exit(130) from None


def _distinct(ctx: click.Context, parameter: click.Parameter, names: Sequence[str]) -> list[str]:
    """Take each name once, by the table's own name."""
    return list(dict.fromkeys(ALIASES.get(name, name) for name in names))


def _many(flag: str, choices: Sequence[str], text: str) -> Callable[..., Any]:
    choice = click.Choice(choices)
    return click.option(
        flag, type=choice, multiple=True, callback=_distinct, help=f"{text}; repeatable."
    )


FOLDER = click.Path(file_okay=False, path_type=Path)


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


@click.group(cls=Frostline, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option("0.1.0", prog_name="frostline")
def cli() -> None:
    """Run every frozen image backbone once, train every head, believe the result."""


@cli.command()
@takes("dataset", "test", "workspace", "arch", "device", "head", "optimizer", "weights",
       "precision", "engine", *TRAINING)  # fmt: skip
def run(dataset: Path, test: Path, workspace: Path, **choices: Any) -> None:
    """Do everything: extract, train-heads, evaluate, report."""
    from evaluate.run import check_classes, unmeasured
    from evaluate.workspace import Workspace
    from heads.splits import check_trainable

    place = Workspace(workspace)
    training, testing = _scan(dataset), _scan(test)
    check_trainable(training.labels)
    check_classes(set(training.labels.values()), testing)
    caches = _extract([training, testing], place, **_only(choices, _EXTRACT))
    heads = _train(caches, training, place, _configurations(choices))
    new = unmeasured(heads, testing, place, choices["engine"])
    if old := len(heads) - len(new):
        say(f"{old} model(s) measured before: `evaluate` measures them again")
    _evaluate(new, training, testing, place, choices["engine"], choices["weights"])
    _report(place)


@cli.command()
@takes("dataset", "test", "workspace", "arch", "device", "weights", "precision", "engine", "seed")
@click.pass_context
def extract(
    ctx: click.Context, /, dataset: Path, test: Path, workspace: Path, **choices: Any
) -> None:
    """Run each backbone once over every image that is not in its cache yet."""
    from evaluate.workspace import Workspace

    # Without test images there is still something to extract, unless they were asked for.
    default = ctx.get_parameter_source("test") == click.core.ParameterSource.DEFAULT
    folders = [dataset] if default and not test.exists() else [dataset, test]
    _extract([_scan(folder) for folder in folders], Workspace(workspace), **choices)


@cli.command("train-heads")
@takes("dataset", "workspace", "arch", "only_device", "head", "optimizer", *TRAINING)
def train_heads(
    dataset: Path, workspace: Path, arch: list[str], device: list[str], **choices: Any
) -> None:
    """Train every head with every optimizer on every cache found."""
    from evaluate.select import Wanted, select_caches
    from evaluate.workspace import Workspace

    place, training = Workspace(workspace), _scan(dataset)
    caches, remarks = select_caches(training, place, Wanted(arch, device))
    for remark in remarks:
        warn(remark)
    _train(caches, training, place, _configurations(choices))


@cli.command()
@takes("dataset", "test", "workspace", "arch", "only_device", "head", "optimizer", "weights",
       "engine")  # fmt: skip
def evaluate(dataset: Path, test: Path, workspace: Path, **choices: Any) -> None:
    """Put backbone and head together again, test and time each whole model."""
    from evaluate.select import Wanted, select_heads
    from evaluate.workspace import Workspace

    place = Workspace(workspace)
    training, testing = _scan(dataset), _scan(test)
    wanted = Wanted(**_only(choices, ("arch", "device", "head", "optimizer")))
    heads, remarks = select_heads(training, place, wanted)
    for remark in remarks:
        warn(remark)
    _evaluate(heads, training, testing, place, choices["engine"], choices["weights"])


@cli.command()
@takes("workspace")
def report(workspace: Path) -> None:
    """Show the ranked results and write report/index.html."""
    from evaluate.workspace import Workspace

    _report(Workspace(workspace))


@cli.command()
def doctor() -> None:
    """Say which devices, engines and weights this machine has, and how to get the others."""
    from extract.doctor import examine

    show_findings(examine())


_EXTRACT = ("arch", "device", "weights", "precision", "engine", "seed")


def _only(choices: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: choices[name] for name in names}


def _scan(folder: Path) -> ImageSet:
    from extract.scan import scan

    with bar(f"Reading {folder}", "files") as progress:
        images = scan(folder, progress)
    for remark in images.remarks:
        warn(remark)
    return images


def _extract(
    sets: Sequence[ImageSet], place: Workspace, arch: Sequence[str], device: Sequence[str],
    weights: str, precision: str, engine: str | None, seed: int,
) -> list[Cache]:  # fmt: skip
    from extract.load import load_backbone
    from extract.run import extract

    if weights not in WEIGHTS_WORDS and len(arch) != 1:
        raise WeightsError(f"--weights {weights}: a file fits one backbone; name it with --arch")
    devices = list(device) or present_devices()
    for name in devices:
        require_device(name)
    engines = {name: choose_engine(name, engine) for name in devices}
    place.prepare()
    images = [file for images in sets for file in images.files]
    caches = []
    for name in arch or BACKBONES:
        backbone = load_backbone(name, weights, seed)
        if backbone.notice:
            warn(backbone.notice)
        for where, chosen in engines.items():
            with bar(f"{name} on {where}", "images") as progress:
                done = extract(backbone, images, place.cache, where, chosen, precision, progress)
            say(
                f"{name} on {where}: {done.computed} image(s) computed, {done.present} already in "
                f"{done.cache.folder}"
            )
            caches.append(done.cache)
            tell_failures(done.failed, len(images))
    return caches


def _configurations(choices: dict[str, Any]) -> list[Configuration]:
    from heads.configuration import Configuration

    settings = _only(choices, TRAINING)
    return [
        Configuration(head, optimizer, **settings)
        for head in choices["head"] or HEADS
        for optimizer in choices["optimizer"] or OPTIMIZERS
    ]


def _train(
    caches: Sequence[Cache],
    training: ImageSet,
    place: Workspace,
    configurations: Sequence[Configuration],
) -> list[SavedHead]:
    from heads.run import train_heads

    heads: list[SavedHead] = []
    for cache in caches:
        with bar(f"Heads on {cache.identity.name}", "heads") as progress:
            done = train_heads(
                cache, training.labels, training.name, configurations, place.heads, progress
            )
        say(
            f"{cache.identity.name}: {done.trained} head(s) trained, "
            f"{len(done.heads) - done.trained} already in {place.heads}"
        )
        if done.left_out:
            warn(f"{done.left_out} of {len(training.labels)} images could not be read: left out")
        heads += done.heads
    return heads


def _evaluate(
    heads: Sequence[SavedHead], training: ImageSet, testing: ImageSet, place: Workspace,
    engine: str | None, weights: str,
) -> None:  # fmt: skip
    from evaluate.run import evaluate

    if not heads:
        return
    with bar("Whole models, file to label", "images") as progress:
        ids = evaluate(heads, testing, training.labels, place, engine, weights, progress)
    say(f"{len(ids)} whole model(s) measured on {testing.folder}: {place.results}")


def _report(place: Workspace) -> None:
    from rich.console import Console

    from evaluate.report import cautions, describe_best, studies, write_report
    from evaluate.terminal import ranked_table

    path = write_report(place)
    console = Console(width=None if Console().is_terminal else 160)
    for study in reversed(studies(place.results)):
        console.print(ranked_table(study, console.width))
        for caution in cautions(study):
            warn(caution)
        say(f"Best: {describe_best(study)}")
    say(f"Report: {path}")


if __name__ == "__main__":
    cli()
