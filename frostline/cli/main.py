"""The command line: parse, call, echo."""

from __future__ import annotations

import os
import sys
from codecs import BOM_UTF8 as BOM
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache.errors import DatasetError, FrostlineError
from evaluate.text import printable
from extract.imaging.preprocessing import AUTO
from frostline.cli import inference, steps
from frostline.cli.cache import caches
from frostline.cli.console import quiet_when_unread, say, show_findings, use_utf8_output, warn
from frostline.cli.option_groups import EmbeddingOptions, TrainingOptions, group
from frostline.cli.options import (
    FEWER,
    FIELD_OPTIONS,
    IMAGES,
    PICTURES,
    RAY,
    RECIPE,
    TRAINING,
    takes,
)
from frostline.cli.recipes import check_recipe, cut_by, invoke

# torch, h5py, pandas and rich are imported where they are used: --help answers at once.
if TYPE_CHECKING:
    from evaluate.workspace.layout import Workspace
    from extract.dataset import ImageSet
    from frostline.cli.recipes import Recipe


class Frostline(click.Group):
    """The one place where our errors become messages, and Ctrl-C a promise."""

    def main(self, *arguments: Any, **extra: Any) -> Any:
        """Run the command line."""
        use_utf8_output()
        return super().main(*arguments, **extra)

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        """Read the options; --help prints meanwhile."""
        with quiet_when_unread():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; see the class."""
        with quiet_when_unread():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except FrostlineError as error:
            raise click.ClickException("\n".join(map(printable, error.lines))) from error
        except OSError as error:  # the disk or its rights; our own faults raise other things
            raise click.ClickException(
                printable(f"{error}. Fix this or choose another folder. Finished work is saved.")
            ) from error
        except KeyboardInterrupt:
            say("", "Interrupted. Finished work is saved; run the same command again to resume.")
            raise click.exceptions.Exit(130) from None


@click.group(cls=Frostline, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option("0.1.0", prog_name="frostline")
def cli() -> None:
    """Run every frozen image backbone once, train every head, believe the result."""


@cli.command()
@takes("recipe", "dataset", "test", "hold_out", "also", *FEWER, "workspace", "arch", "device",
       "head", "optimizer", "weights", "precision", "engine", *PICTURES, "strict", "max_pixels",
       "rehash", *TRAINING)  # fmt: skip
@click.pass_context
def run(
    ctx: click.Context, /, dataset: Path, test: Path, hold_out: float | None, workspace: Path,
    also: dict[str, Path], **choices: Any,
) -> None:  # fmt: skip
    """Do everything: extract, train-heads, evaluate, report; with a recipe, a whole study."""
    from cache.store import open_cache
    from evaluate.audit.split import SplitOptions
    from evaluate.backbone_loader import ModelLoader
    from evaluate.evaluation import unmeasured
    from evaluate.test_set import check_classes
    from evaluate.workspace.layout import Workspace
    from heads.search.space import plan_from_options
    from heads.splits import check_trainable

    place, sweep = Workspace(workspace), plan_from_options(choices)
    recipe: Recipe | None = ctx.meta.get(RECIPE)
    if recipe:
        check_recipe(recipe, ctx)
    if recipe and recipe.split is not None:
        dataset, test = invoke(split, cut_by(recipe.split, ctx), ctx)
    elif hold_out is not None:
        if steps.is_given(ctx, "test"):
            raise DatasetError("--test and --test-fraction exclude each other. Give one of them.")
        cut = SplitOptions(hold_out, choices["seed"], not choices["no_group"])
        dataset, test = steps.split(dataset, place, None, cut, choices["full_scale"])
    else:
        steps.check_sets(ctx, ", or --test-fraction 0.2 to hold out a part")
    training, testing = _scan(dataset, test, place, choices)
    others = {name: steps.scan(folder, place) for name, folder in also.items()}
    check_trainable(training.labels, sweep.cv)
    for images in (testing, *others.values()):
        check_classes(set(training.labels.values()), images)
    choices["full_scale"] = white = steps.white_value(choices["full_scale"], training, place)
    views = max(candidate.views for candidate in sweep.candidates)
    embedding = replace(group(EmbeddingOptions, choices), augmented=views)
    specs = steps.extract([training, testing, *others.values()], place, embedding)
    caches = [open_cache(place.cache, spec.key) for spec in specs]
    audit = steps.audit_datasets(training, testing, place, white)
    groups = {} if choices["no_group"] else audit.group_of
    options = TrainingOptions(sweep, choices["train_on"], choices["tensorboard"])
    heads = steps.train(caches, training, place, options, groups)
    own = steps.test_set(testing, audit, choices["no_group"])
    loader = ModelLoader(place, choices["weights"], choices["engine"])
    steps.set_current(place, (training, testing), (dataset, test), choices)
    new = unmeasured(heads, own, loader)
    if old := len(heads) - len(new):
        say(f"{old} model(s) measured before: `evaluate` measures them again")
    if new:
        steps.evaluate(new, own, loader)
    steps.fit_uncertainty(heads, training, testing, audit.group_of, loader)
    external = steps.external_sets(others, training, place, choices["no_group"], white)
    failed = steps.evaluate_external(heads, external, loader)
    ctx.params |= {"dataset": dataset, "test": test}  # those cut by a recipe
    for given in recipe.baselines if recipe else ():
        try:
            invoke(baseline, given, ctx)
        except FrostlineError as error:  # the report tells of what is there
            failed += error.lines
    invoke(report, (recipe and recipe.report) or {}, ctx)
    _stop_if(failed)


@cli.command()
@takes("dataset", "test", *FEWER, "workspace", "arch", "device", "weights", "precision", "engine",
       *PICTURES, "workers", "images_at_once", "augmented", "seed", "strict", "max_pixels",
       "rehash", "cache_at", "on", *RAY, "shard_size", "max_failed_shards")  # fmt: skip
@click.pass_context
def extract(
    ctx: click.Context, /, dataset: Path, test: Path, workspace: Path, on: str,
    cache_at: Path | None, **choices: Any,
) -> None:  # fmt: skip
    """Run each backbone once over every image that is not in its cache yet."""
    from evaluate.workspace.layout import Workspace

    place = Workspace(workspace)
    folders = {"dataset": dataset, "test": test}
    there = {name: path for name, path in folders.items() if steps.is_meant(ctx, name, path)}
    if not there:
        raise DatasetError(f"{dataset} and {test} are not there: say with --dataset what is")
    if on == "ray":
        from frostline.cli.distributed import Cluster, extract_at_scale

        cluster = group(Cluster, choices)
        extract_at_scale(there, place, cache_at or place.cache, cluster, choices)
        return
    given = {"dataset": (dataset, choices.pop("per_class"))}
    given["test"] = (test, choices.pop("test_per_class"))
    found = {
        name: steps.scan_if_there(ctx, name, folder, place, per_class)
        for name, (folder, per_class) in given.items()
    }
    for option, value in (("precision", "int8"), ("normalize", "dataset"), ("full_scale", AUTO)):
        if choices[option] == value and not found["dataset"]:
            raise DatasetError(
                f"--{option.replace('_', '-')} {value} goes by training images, and {dataset} is "
                "not there: test images take no part in any choice"
            )
    sets = [images for images in found.values() if images]
    choices["full_scale"] = steps.white_value(choices["full_scale"], sets[0], place)
    steps.extract(sets, place, group(EmbeddingOptions, choices), cache_at)
    parts = {"training": found["dataset"], "test": found["test"]}
    steps.print_bit_depth({k: v for k, v in parts.items() if v}, place, choices["full_scale"])


@cli.command("train-heads")
@takes("dataset", "per_class", "workspace", "only_arch", "only_device", "head", "optimizer",
       *TRAINING, "rehash", "on", *RAY)  # fmt: skip
@click.pass_context
def train_heads(ctx: click.Context, /, dataset: Path, workspace: Path, **choices: Any) -> None:
    """Train every head with every optimizer on every cache found."""
    from evaluate.selection import Wanted, select_caches, smallest_full_scale
    from evaluate.workspace.layout import Workspace
    from heads.search.space import plan_from_options

    place, sweep = Workspace(workspace), plan_from_options(choices)
    place.require()
    (dataset,) = steps.take_current(ctx, place, choices)
    training = steps.scan(dataset, place, choices["per_class"], opened=not choices["no_group"])
    caches, remarks = select_caches(training, place, group(Wanted, choices))
    for remark in remarks:
        warn(remark)
    groups = dict[bytes, int]()
    if not choices["no_group"]:
        white = smallest_full_scale(cache.key for cache in caches)
        groups = {**steps.audit_datasets(training, None, place, white).group_of}
    options = TrainingOptions(sweep, choices["train_on"], choices["tensorboard"])
    if choices["on"] == "ray":
        from frostline.cli.distributed import Cluster, train_at_scale

        train_at_scale(caches, training, place, options, groups, group(Cluster, choices))
    else:
        steps.train(caches, training, place, options, groups)


@cli.command()
@takes("dataset", "test", "also", *FEWER, "workspace", "only_arch", "only_device", "head",
       "optimizer", "weights", "engine", "no_group", "max_pixels", "rehash")  # fmt: skip
@click.pass_context
def evaluate(
    ctx: click.Context, /, dataset: Path, test: Path, also: dict[str, Path], workspace: Path,
    **choices: Any,
) -> None:  # fmt: skip
    """Put backbone and head together again, test and time each whole model."""
    from evaluate.backbone_loader import ModelLoader
    from evaluate.selection import Wanted, select_heads, smallest_full_scale
    from evaluate.test_set import TestSet
    from evaluate.workspace.layout import Workspace

    place = Workspace(workspace)
    place.require()
    steps.check_sets(ctx)
    dataset, test = steps.take_current(ctx, place, choices)
    training, testing = _scan(dataset, test, place, choices)
    others = {name: steps.scan(folder, place) for name, folder in also.items()}
    wanted = group(Wanted, choices)
    heads, remarks = select_heads(training, place, wanted)
    for remark in remarks:
        warn(remark)
    own, groups = TestSet(testing, training.labels.keys() & testing.labels.keys()), {}
    white = smallest_full_scale(saved.info.identity for saved in heads)
    if not choices["no_group"]:
        audit = steps.audit_datasets(training, testing, place, white)
        own, groups = steps.test_set(testing, audit, no_group=False), {**audit.group_of}
    loader = ModelLoader(place, choices["weights"], choices["engine"])
    steps.set_current(place, (training, testing), (dataset, test), choices)
    steps.evaluate(heads, own, loader)
    steps.fit_uncertainty(heads, training, testing, groups, loader)
    external = steps.external_sets(others, training, place, choices["no_group"], white)
    _stop_if(steps.evaluate_external(heads, external, loader, again=True))


@cli.command()
@takes("dataset", "test", "also", *FEWER, "workspace", "mode", "some_arch", "training_device",
       "head", "optimizer", "weights", "training_precision", "engine", "fit", "normalize",
       "full_scale", "augment_or_none", "max_pixels", "rehash", *FIELD_OPTIONS, "seed",
       "no_group")  # fmt: skip
@click.pass_context
def baseline(
    ctx: click.Context, /, dataset: Path, test: Path, also: dict[str, Path], workspace: Path,
    **choices: Any,
) -> None:  # fmt: skip
    """Train whole networks in the ordinary way, to see what freezing costs and saves."""
    from evaluate.backbone_loader import ModelLoader
    from evaluate.evaluation import unmeasured
    from evaluate.test_set import check_classes
    from evaluate.workspace.layout import Workspace
    from frostline.cli.baseline import train_whole

    place = Workspace(workspace)
    steps.check_sets(ctx)
    dataset, test = steps.take_current(ctx, place, choices)
    training, testing = _scan(dataset, test, place, choices)
    others = {name: steps.scan(folder, place) for name, folder in also.items()}
    for images in (testing, *others.values()):
        check_classes(set(training.labels.values()), images)
    choices["full_scale"] = white = steps.white_value(choices["full_scale"], training, place)
    audit = steps.audit_datasets(training, testing, place, white)
    groups = {} if choices["no_group"] else audit.group_of
    own = steps.test_set(testing, audit, choices["no_group"])
    external = steps.external_sets(others, training, place, choices["no_group"], white)
    loader = ModelLoader(place, choices["weights"], choices["engine"])
    steps.set_current(place, (training, testing), (dataset, test), choices)
    failed = list[str]()
    for saved in train_whole(training, groups, place, choices):
        if unmeasured([saved], own, loader):
            steps.evaluate([saved], own, loader)
        failed += steps.evaluate_external([saved], external, loader)
    _stop_if(failed)


@cli.command()
@takes("workspace", "published", "max_latency_ms", "max_size_mb")
def report(workspace: Path, baseline: Path | None, **limits: float | None) -> None:
    """Show the ranked results and write report/index.html."""
    from evaluate.constraints import Limits
    from evaluate.workspace.layout import Workspace

    steps.report(Workspace(workspace), baseline, Limits(**limits))


@cli.command()
@click.argument("source", type=IMAGES)
@takes("split_out", "test_fraction", "copy", "seed", "no_group", "full_scale", "workspace",
       "max_pixels", "rehash")  # fmt: skip
def split(source: Path, workspace: Path, **choices: Any) -> tuple[Path, Path]:
    """Cut one folder of images into a training and a test set: by class, copies on one side."""
    from evaluate.audit.split import SplitOptions
    from evaluate.workspace.layout import Workspace

    cut = SplitOptions(
        choices["test_fraction"], choices["seed"], not choices["no_group"], choices["copy"]
    )
    return steps.split(source, Workspace(workspace), choices["out"], cut, choices["full_scale"])


@cli.command()
@takes("dataset", "test", *FEWER, "workspace", "full_scale", "html", "audit_format", "fail_on",
       "max_pixels", "rehash")  # fmt: skip
@click.pass_context
def audit(
    ctx: click.Context, /, dataset: Path, test: Path, workspace: Path, fail_on: list[str],
    **choices: Any,
) -> None:  # fmt: skip
    """Look for copies, leaks into the test set, conflicting labels, unreadable and odd images."""
    from evaluate.audit.findings import FINDINGS, as_json, in_words
    from evaluate.workspace.image_files import ImageFiles
    from evaluate.workspace.layout import Workspace, writable

    place = Workspace(workspace)
    dataset, test = steps.take_current(ctx, place, choices)
    if steps.is_given(ctx, "test"):
        steps.check_sets(ctx)
    files, place = ImageFiles(place), ctx.with_resource(writable(place, warn))
    training = steps.scan(dataset, place, choices["per_class"])
    if {"leak", "repeat"} & {*fail_on}:  # then there must be a test folder to look at
        steps.check_sets(ctx)
        testing: ImageSet | None = steps.scan(test, place, choices["test_per_class"])
    else:
        testing = steps.scan_if_there(ctx, "test", test, place, choices["test_per_class"])
    white = steps.white_value(choices["full_scale"], training, place)
    found = steps.audit_datasets(training, testing, place, white, again=True)
    say(*(as_json(found).split("\n") if choices["audit_format"] == "json" else in_words(found)))
    if html := choices["html"]:
        from evaluate.report.page import write_audit_page

        warn(f"Page: {write_audit_page(found, html, files)}")
        if files.remark:
            warn(files.remark)
    if failed := [name for name in fail_on if FINDINGS[name].count(found)]:
        warn(f"--fail-on {' '.join(failed)}: found")
        ctx.exit(1)


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@takes("model", "workspace", "answers", "heatmap", "weights", "engine", "max_pixels")
@click.pass_context
def predict(
    ctx: click.Context, /, paths: tuple[Path, ...], model: str, workspace: Path, **choices: Any
) -> None:
    """Classify files, folders, or the paths on standard input (-), and flag those to review."""
    from evaluate.backbone_loader import ModelLoader
    from evaluate.workspace.layout import Workspace, writable

    if paths == (Path("-"),):
        given = sys.stdin.buffer.read().removeprefix(BOM)
        lines = given.split(b"\0" if b"\0" in given else b"\n")
        paths = tuple(Path(os.fsdecode(line.strip(b"\r"))) for line in lines if line.strip())
    place = ctx.with_resource(writable(Workspace(workspace), warn))
    loader = ModelLoader(place, choices["weights"], choices["engine"])
    inference.predict(paths, model, loader, choices["out"], choices["heatmap"])


@cli.command()
@takes("model", "file_format", "file", "workspace", "weights", "max_pixels")
@click.pass_context
def export(
    ctx: click.Context, /, model: str, file_format: str, out: Path, workspace: Path, weights: str
) -> None:
    """Write a whole model as one file for other programs, with a model card beside it."""
    from evaluate.backbone_loader import ModelLoader
    from evaluate.workspace.image_files import ImageFiles
    from evaluate.workspace.layout import Workspace, writable

    files = ImageFiles(Workspace(workspace))
    loader = ModelLoader(ctx.with_resource(writable(Workspace(workspace), warn)), weights)
    inference.export(model, file_format, out, loader, files)


@cli.command()
def doctor() -> None:
    """Say which devices, engines and weights this machine has, and how to get the others."""
    from extract.backends.environment import examine

    show_findings(examine())


cli.add_command(caches)


def _scan(
    dataset: Path, test: Path, place: Workspace, choices: dict[str, Any]
) -> tuple[ImageSet, ImageSet]:
    training = steps.scan(dataset, place, choices["per_class"])
    return training, steps.scan(test, place, choices["test_per_class"])


def _stop_if(failed: Sequence[str]) -> None:
    """Raise what cost a part only, now that all else is done."""
    if failed:
        raise FrostlineError(*dict.fromkeys(failed))


def main() -> None:
    """Run the command line, in UTF-8 mode."""
    if sys.getfilesystemencoding() != "utf-8":
        # Such as with LC_ALL=C: names would not be what they are.
        os.execve(  # noqa: S606 - this very program
            sys.executable,
            [sys.executable, "-X", "utf8", *sys.orig_argv[1:]],
            {**os.environ, "PYTHONUTF8": "1"},
        )
    cli()
