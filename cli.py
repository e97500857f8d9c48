"""The command line: parse, call, echo."""

from __future__ import annotations

import os
import sys
from codecs import BOM_UTF8 as BOM
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache.errors import CacheError, DatasetError, FrostlineError
from evaluate import steps
from evaluate.options import TRAINING, takes
from evaluate.printable import printable
from evaluate.terminal import bar, say, show_findings, warn

# torch, h5py, pandas and rich are imported where they are used: --help answers at once.
if TYPE_CHECKING:
    from extract.scan import ImageSet


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


@click.group(cls=Frostline, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option("0.1.0", prog_name="frostline")
def cli() -> None:
    """Run every frozen image backbone once, train every head, believe the result."""


@cli.command()
@takes("dataset", "test", "workspace", "arch", "device", "head", "optimizer", "weights",
       "precision", "engine", "fast_decode", "strict", "max_pixels", *TRAINING)  # fmt: skip
def run(dataset: Path, test: Path, workspace: Path, **choices: Any) -> None:
    """Do everything: extract, train-heads, evaluate, report."""
    from cache.store import open_cache
    from evaluate.run import check_classes, unmeasured
    from evaluate.workspace import Workspace
    from heads.grid import asked
    from heads.splits import check_trainable

    place, sweep = Workspace(workspace), asked(choices)
    training, testing = steps.scan(dataset, place), steps.scan(test, place)
    check_trainable(training.labels, sweep.cv)
    check_classes(set(training.labels.values()), testing)
    views = max(candidate.views for candidate in sweep.candidates)
    targets = steps.extract([training, testing], place, **_only(choices, _EXTRACT), augmented=views)
    caches = [open_cache(place.cache, target.identity) for target in targets]
    audit = steps.look_over(training, testing, place)
    groups = {} if choices["no_group"] else audit.group_of
    training_options = choices["train_on"], choices["tensorboard"]
    heads = steps.train(caches, training, place, sweep, groups, *training_options)
    leaked = audit.exactly_leaked if choices["no_group"] else audit.leaked
    new = unmeasured(heads, testing, place, choices["engine"], leaked)
    if old := len(heads) - len(new):
        say(f"{old} model(s) measured before: `evaluate` measures them again")
    how = place, choices["engine"], choices["weights"]
    if new:
        steps.evaluate(new, testing, leaked, *how)
    steps.learn_to_doubt(heads, training, testing, audit, *how)
    steps.report(place)


@cli.command()
@takes("dataset", "test", "workspace", "arch", "device", "weights", "precision", "engine",
       "fast_decode", "workers", "images_at_once", "augmented", "seed", "strict",
       "max_pixels")  # fmt: skip
@click.pass_context
def extract(
    ctx: click.Context, /, dataset: Path, test: Path, workspace: Path, **choices: Any
) -> None:
    """Run each backbone once over every image that is not in its cache yet."""
    from evaluate.workspace import Workspace

    place = Workspace(workspace)
    sets = steps.scan_present(ctx, dataset, test, place)
    if choices["precision"] == "int8" and sets[0].folder != dataset:
        raise DatasetError(
            f"--precision int8 takes its ranges from training images, and {dataset} is not there: "
            "test images take no part in any choice"
        )
    steps.extract(sets, place, **choices)


@cli.command("train-heads")
@takes("dataset", "workspace", "arch", "only_device", "head", "optimizer", *TRAINING)
def train_heads(
    dataset: Path, workspace: Path, arch: list[str], device: list[str], **choices: Any
) -> None:
    """Train every head with every optimizer on every cache found."""
    from evaluate.select import Wanted, select_caches
    from evaluate.workspace import Workspace
    from heads.grid import asked

    place, sweep = Workspace(workspace), asked(choices)
    place.require()
    training = steps.scan(dataset, place)
    caches, remarks = select_caches(training, place, Wanted(arch, device))
    for remark in remarks:
        warn(remark)
    audit = steps.look_over(training, None, place)
    groups = {} if choices["no_group"] else audit.group_of
    training_options = choices["train_on"], choices["tensorboard"]
    steps.train(caches, training, place, sweep, groups, *training_options)


@cli.command()
@takes("dataset", "test", "workspace", "arch", "only_device", "head", "optimizer", "weights",
       "engine", "no_group", "max_pixels")  # fmt: skip
def evaluate(dataset: Path, test: Path, workspace: Path, **choices: Any) -> None:
    """Put backbone and head together again, test and time each whole model."""
    from evaluate.select import Wanted, select_heads
    from evaluate.workspace import Workspace

    place = Workspace(workspace)
    place.require()
    training, testing = steps.scan(dataset, place), steps.scan(test, place)
    wanted = Wanted(**_only(choices, ("arch", "device", "head", "optimizer")))
    heads, remarks = select_heads(training, place, wanted)
    for remark in remarks:
        warn(remark)
    audit = steps.look_over(training, testing, place)
    leaked = audit.exactly_leaked if choices["no_group"] else audit.leaked
    how = place, choices["engine"], choices["weights"]
    steps.evaluate(heads, testing, leaked, *how)
    steps.learn_to_doubt(heads, training, testing, audit, *how)


@cli.command()
@takes("workspace", "baseline")
def report(workspace: Path, baseline: Path | None) -> None:
    """Show the ranked results and write report/index.html."""
    from evaluate.workspace import Workspace

    steps.report(Workspace(workspace), baseline)


@cli.command()
@takes("dataset", "test", "workspace", "html", "audit_format", "fail_on", "max_pixels")
@click.pass_context
def audit(
    ctx: click.Context, /, dataset: Path, test: Path, workspace: Path, html: Path | None,
    audit_format: str, fail_on: list[str],
) -> None:  # fmt: skip
    """Look for copies, leaks into the test set, conflicting labels, unreadable and odd images."""
    from evaluate.findings import FINDINGS, as_json, in_words
    from evaluate.workspace import Workspace

    place = Workspace(workspace)
    training = steps.scan(dataset, place)
    if {"leak", "repeat"} & {*fail_on}:  # then there must be a test folder to look at
        testing: ImageSet | None = steps.scan(test, place)
    else:
        testing = steps.scan_if_there(ctx, "test", test, place)
    found = steps.look_over(training, testing, place, anew=True)
    say(as_json(found) if audit_format == "json" else "\n".join(in_words(found)))
    if html:
        from evaluate.report import write_audit_page

        warn(f"Page: {write_audit_page(found, html)}")
    if failed := [name for name in fail_on if FINDINGS[name].count(found)]:
        warn(f"--fail-on {' '.join(failed)}: found")
        ctx.exit(1)


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@takes("model", "workspace", "answers", "heatmap", "weights", "engine", "max_pixels")
def predict(paths: tuple[Path, ...], model: str, workspace: Path, **choices: Any) -> None:
    """Classify files, folders, or the paths on standard input (-), and say where there is doubt."""
    from evaluate.workspace import Workspace

    if paths == (Path("-"),):
        given = sys.stdin.buffer.read().removeprefix(BOM)
        lines = given.split(b"\0" if b"\0" in given else b"\n")
        paths = tuple(Path(os.fsdecode(line.strip(b"\r"))) for line in lines if line.strip())
    steps.predict(paths, model, Workspace(workspace), **choices)


@cli.command()
@takes("model", "file_format", "file", "workspace", "weights", "max_pixels")
def export(model: str, file_format: str, out: Path, workspace: Path, weights: str) -> None:
    """Write a whole model as one file for other programs, with a model card beside it."""
    from evaluate.workspace import Workspace

    steps.export(model, file_format, out, Workspace(workspace), weights)


@cli.command()
def doctor() -> None:
    """Say which devices, engines and weights this machine has, and how to get the others."""
    from extract.doctor import examine

    show_findings(examine())


@cli.group("cache")
def caches() -> None:
    """Look after the cached embeddings."""


@caches.command()
@takes("workspace")
def ls(workspace: Path) -> None:
    """Say what each cache holds, whose it is, and how it came to be."""
    from evaluate.inventory import describe
    from evaluate.workspace import Workspace

    for cache in steps.find(Workspace(workspace)):
        say("\n".join(describe(cache)))


@caches.command()
@takes("workspace")
def verify(workspace: Path) -> None:
    """Read every cached number and hold it against its checksum."""
    from cache.verify import verify
    from evaluate.workspace import Workspace

    place = Workspace(workspace)
    place.require()
    with bar("Verifying", "segments") as progress:
        found = list(verify(place.cache, progress))
    if not found:
        raise CacheError(f"{place.cache} has no cache: run extract first, or see --workspace")
    damage = [error for _, error in found if error]
    for error in damage:
        warn(str(error))
    if damage:
        raise CacheError(
            f"{len(damage)} of {len(found)} segments are damaged; all others are whole"
        )
    say(f"{len(found)} segment(s) in {place.cache}: every one is as it was written")


@caches.command()
@takes("workspace", "arch", "only_device")
def compact(workspace: Path, arch: list[str], device: list[str]) -> None:
    """Make one file of each cache's segments, which is read without copying."""
    from cache.compact import compact
    from evaluate.workspace import Workspace

    for cache in steps.find(Workspace(workspace), arch, device):
        before = len(cache.segments)
        with bar(f"Compacting {cache.identity.name}", "rows") as progress:
            path = compact(cache, progress=progress)
        say(f"{before} segment(s) → {path}")


@caches.command()
@takes("dataset", "test", "workspace", "arch", "only_device", "yes")
@click.pass_context
def prune(
    ctx: click.Context, /, dataset: Path, test: Path, workspace: Path, arch: list[str],
    device: list[str], yes: bool,
) -> None:  # fmt: skip
    """Drop the rows of images that are gone: neither in these folders nor in any seen before."""
    from cache.compact import compact
    from evaluate.prune import gone, images_there
    from evaluate.workspace import Workspace

    place = Workspace(workspace)
    found = steps.find(place, arch, device)
    there = images_there(steps.scan_present(ctx, dataset, test, place), place.scan_table)
    drop = {cache.folder: gone(cache, there) for cache in found}
    for cache in found:
        say(f"{cache.identity.name}: {len(drop[cache.folder])} image(s) are gone")
    if not any(drop.values()):
        return
    if not yes:
        click.confirm("Drop their rows?", abort=True)
    for cache in found:
        if drop[cache.folder]:
            with bar(f"Pruning {cache.identity.name}", "rows") as progress:
                compact(cache, drop[cache.folder], progress)


@caches.command("export")
@takes("out", "dataset", "test", "workspace", "arch", "only_device")
@click.pass_context
def export_rows(
    ctx: click.Context, /, out: Path, dataset: Path, test: Path, workspace: Path,
    arch: list[str], device: list[str],
) -> None:  # fmt: skip
    """Write the cached rows, with paths and labels, for other tools."""
    from evaluate.export import export
    from evaluate.workspace import Workspace

    place = Workspace(workspace)
    found = steps.find(place, arch, device)
    images = {f.sha256: f for s in steps.scan_present(ctx, dataset, test, place) for f in s.unique}
    for path in export(found, images, out):
        say(f"Written: {path}")


_EXTRACT = ("arch", "device", "weights", "precision", "engine", "fast_decode", "seed", "strict")


def _only(choices: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: choices[name] for name in names}


if __name__ == "__main__":
    cli()
