"""The commands that look after cached embeddings: `cli.py cache …`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cache.errors import CacheError
from frostline.cli import steps
from frostline.cli.console import bar, say, warn
from frostline.cli.options import IMAGES, takes


@click.group("cache")
def caches() -> None:
    """Look after the cached embeddings."""


@caches.command()
@takes("workspace")
def ls(workspace: Path) -> None:
    """Describe each cache: its rows, its key, and how they were computed."""
    from evaluate.report.cache_summary import describe
    from evaluate.workspace.layout import Workspace

    for cache in steps.find(Workspace(workspace)):
        say(*describe(cache))


@caches.command()
@takes("workspace")
def verify(workspace: Path) -> None:
    """Read every cached number and hold it against its checksum."""
    from cache.maintenance.verify import verify
    from evaluate.workspace.layout import Workspace

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
@click.argument("source", metavar="URL", type=IMAGES)
@takes("workspace")
def fetch(source: Path, workspace: Path) -> None:
    """Copy caches from elsewhere into the workspace, each segment verified."""
    from cache.maintenance.transfer import fetch
    from evaluate.workspace.known_datasets import record
    from evaluate.workspace.layout import Workspace

    place = Workspace(workspace)
    place.prepare()
    record(place.cache)
    with bar(f"Fetching {source}", "segments") as progress:
        done = fetch(source, place.cache, progress)
    for each in done:
        say(
            f"{each.folder}: {each.copied} segment(s) copied, {each.present} whose rows are present"
        )
    if damaged := [str(error) for each in done for error in each.damaged]:
        raise CacheError(*damaged, "all others are there")


@caches.command()
@takes("workspace", "arch", "only_device")
def compact(workspace: Path, arch: list[str], device: list[str]) -> None:
    """Make one file of each cache's segments, which is read without copying."""
    from cache.maintenance.compact import compact
    from evaluate.workspace.layout import Workspace

    for cache in steps.find(Workspace(workspace), arch, device):
        before = len(cache.segments)
        with bar(f"Compacting {cache.key.name}", "rows") as progress:
            path = compact(cache, progress=progress)
        say(f"{before} segment(s) → {path}")


@caches.command()
@takes("dataset", "test", "workspace", "arch", "only_device", "forget", "yes", "rehash")
@click.pass_context
def prune(
    ctx: click.Context, /, dataset: Path, test: Path, workspace: Path, forget: tuple[Path, ...],
    **choices: Any,
) -> None:  # fmt: skip
    """Drop the rows of images that are gone from every data set that they were found in."""
    from cache.maintenance.compact import compact
    from evaluate.workspace import known_datasets
    from evaluate.workspace.layout import Workspace
    from evaluate.workspace.prune import gone_from, images_there

    place = Workspace(workspace)
    found = steps.find(place, choices["arch"], choices["device"])
    given = steps.scan_present(ctx, dataset, test, place)
    known, there = images_there(place.cache, forget, given, lambda root: steps.scan(root, place))
    drop = {cache.folder: gone_from(cache, known, there) for cache in found}
    for cache in found:
        say(f"{cache.key.name}: {len(drop[cache.folder].gone)} image(s) are gone")
        if unknown := len(drop[cache.folder].unknown):
            say(f"{cache.key.name}: {unknown} image(s) of no known data set are kept")
    if any(each.gone for each in drop.values()):
        if not choices["yes"]:
            click.confirm("Drop their rows?", abort=True)
        for cache in found:
            if drop[cache.folder].gone:
                with bar(f"Pruning {cache.key.name}", "rows") as progress:
                    compact(cache, drop[cache.folder].gone, progress)
    known_datasets.forget(place.cache, map(known_datasets.root_of, forget))


@caches.command("export")
@takes("out", "dataset", "test", "workspace", "arch", "only_device", "rehash")
@click.pass_context
def export_rows(
    ctx: click.Context, /, out: Path, dataset: Path, test: Path, workspace: Path, **choices: Any
) -> None:
    """Write the cached rows, with paths and labels, for other tools."""
    from evaluate.export.embeddings import export
    from evaluate.workspace.layout import Workspace

    place = Workspace(workspace)
    found = steps.find(place, choices["arch"], choices["device"])
    images = {f.sha256: f for s in steps.scan_present(ctx, dataset, test, place) for f in s.unique}
    for path in export(found, images, out):
        say(f"Written: {path}")
