"""The command line: parse, call, echo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache.errors import CacheError, FrostlineError, HeadError, UnreadableImageError, WeightsError
from evaluate.options import TRAINING, takes
from evaluate.printable import printable
from evaluate.terminal import bar, say, show_findings, tell_extractions, warn
from extract.backbones import BACKBONES, WEIGHTS_WORDS
from extract.devices import present_devices, require_device
from extract.engines import usable_engines

# torch, h5py, pandas and rich are imported where they are used: --help answers at once.
if TYPE_CHECKING:
    from cache.store import Cache
    from evaluate.workspace import Workspace
    from extract.scan import ImageSet
    from extract.target import Target
    from heads.files import SavedHead
    from heads.grid import Sweep


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
    training, testing = _scan(dataset, place), _scan(test, place)
    check_trainable(training.labels, sweep.cv)
    check_classes(set(training.labels.values()), testing)
    views = max(candidate.views for candidate in sweep.candidates)
    targets = _extract([training, testing], place, **_only(choices, _EXTRACT), augmented=views)
    caches = [open_cache(place.cache, target.identity) for target in targets]
    heads = _train(caches, training, place, sweep, choices["train_on"])
    new = unmeasured(heads, testing, place, choices["engine"])
    if old := len(heads) - len(new):
        say(f"{old} model(s) measured before: `evaluate` measures them again")
    _evaluate(new, training, testing, place, choices["engine"], choices["weights"])
    _report(place)


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
    _extract(_scan_present(ctx, dataset, test, place), place, **choices)


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
    training = _scan(dataset, place)
    caches, remarks = select_caches(training, place, Wanted(arch, device))
    for remark in remarks:
        warn(remark)
    _train(caches, training, place, sweep, choices["train_on"])


@cli.command()
@takes("dataset", "test", "workspace", "arch", "only_device", "head", "optimizer", "weights",
       "engine", "max_pixels")  # fmt: skip
def evaluate(dataset: Path, test: Path, workspace: Path, **choices: Any) -> None:
    """Put backbone and head together again, test and time each whole model."""
    from evaluate.select import Wanted, select_heads
    from evaluate.workspace import Workspace

    place = Workspace(workspace)
    place.require()
    training, testing = _scan(dataset, place), _scan(test, place)
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


@cli.group("cache")
def caches() -> None:
    """Look after the cached embeddings."""


@caches.command()
@takes("workspace")
def ls(workspace: Path) -> None:
    """Say what each cache holds, whose it is, and how it came to be."""
    from evaluate.inventory import describe
    from evaluate.workspace import Workspace

    for cache in _find(Workspace(workspace)):
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

    for cache in _find(Workspace(workspace), arch, device):
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
    found = _find(place, arch, device)
    there = images_there(_scan_present(ctx, dataset, test, place), place.scan_table)
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
    found = _find(place, arch, device)
    images = {f.sha256: f for s in _scan_present(ctx, dataset, test, place) for f in s.unique}
    for path in export(found, images, out):
        say(f"Written: {path}")


_EXTRACT = ("arch", "device", "weights", "precision", "engine", "fast_decode", "seed", "strict")


def _only(choices: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: choices[name] for name in names}


def _find(place: Workspace, arch: Sequence[str] = (), device: Sequence[str] = ()) -> list[Cache]:
    from evaluate.select import Wanted, find_wanted

    place.require()
    found = find_wanted(place, Wanted(arch, device))
    if not found:
        raise CacheError(f"{place.cache} has no such cache: run extract first, or see --workspace")
    return found


def _scan_present(
    ctx: click.Context, dataset: Path, test: Path, place: Workspace
) -> list[ImageSet]:
    """Scan both folders; one that is missing is left out, unless it was asked for."""
    given = {"dataset": dataset, "test": test}
    default = click.core.ParameterSource.DEFAULT
    missing = [
        name
        for name, folder in given.items()
        if ctx.get_parameter_source(name) == default and not folder.exists()
    ]
    return [_scan(folder, place) for name, folder in given.items() if name not in missing]


def _scan(folder: Path, place: Workspace) -> ImageSet:
    from extract.scan import scan

    with bar(f"Reading {folder}", "files") as progress:
        images = scan(folder, progress, place.scan_table)
    for remark in images.remarks:
        warn(remark)
    return images


def _extract(
    sets: Sequence[ImageSet], place: Workspace, arch: Sequence[str], device: Sequence[str],
    weights: str, precision: str, engine: str | None, fast_decode: bool, seed: int, strict: bool,
    workers: int | None = None, images_at_once: int | None = None, augmented: int = 0,
) -> list[Target]:  # fmt: skip
    from extract.load import load_backbone
    from extract.run import extract
    from extract.target import Target, engines_folder

    if weights not in WEIGHTS_WORDS and len(arch) != 1:
        raise WeightsError(f"--weights {weights}: a file fits one backbone; name it with --arch")
    devices = list(device) or present_devices()
    for name in devices:
        require_device(name)
    engines = {name: usable_engines(name, engine, precision) for name in devices}
    place.prepare()
    images = [file for images in sets for file in images.files]
    failed = [failure for images in sets for failure in images.unopened]
    if strict and failed:
        raise UnreadableImageError(f"{failed[0].path} can't be opened: {failed[0].reason}")
    targets, shelf = list[Target](), engines_folder(place.cache)
    for name in arch or BACKBONES:
        backbone = load_backbone(name, weights, seed, shelf)
        if backbone.notice:
            warn(backbone.notice)
        targets += [
            Target(backbone, where, chosen, precision, fast_decode)
            for where, chosen in engines.items()
        ]
    if precision == "int8":
        from extract.int8 import calibrated

        first = sets[0].files  # not the test images, which take no part in any choice
        targets = [calibrated(target, first, shelf) for target in targets]
    with bar("Embedding", "rows") as progress:
        done = extract(
            targets,
            images,
            place.cache,
            progress,
            strict,
            workers,
            images_at_once,
            shelf,
            augmented,
        )
    tell_extractions(done, len(images), failed, place.failures)
    return targets


def _train(
    caches: Sequence[Cache], training: ImageSet, place: Workspace, sweep: Sweep, train_on: str
) -> list[SavedHead]:
    from evaluate.sweeps import tell_heads
    from extract.devices import torch_device
    from heads.run import train_heads

    device = torch_device(train_on)
    heads: list[SavedHead] = []
    for cache in caches:
        with bar(f"Heads on {cache.identity.name}", "epochs") as progress:
            done = train_heads(
                cache, training.labels, training.name, sweep, place.heads, progress, device
            )
        tell_heads(cache.identity.name, done, place.heads, len(training.labels))
        heads += done.heads
    if not heads:
        raise HeadError("no head is left: every training diverged; give a smaller --lr")
    return heads


def _evaluate(
    heads: Sequence[SavedHead], training: ImageSet, testing: ImageSet, place: Workspace,
    engine: str | None, weights: str,
) -> None:  # fmt: skip
    from evaluate.run import evaluate

    if not heads:
        return
    with bar("Whole models, file to label", "images") as progress:
        ids = evaluate(heads, testing, training.labels, place, engine, weights, progress, warn)
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
