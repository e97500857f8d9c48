"""The steps that commands are made of: each does its work, shows progress, and says what was done.

Everything heavy is imported where it is used: `cli.py --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cache.errors import CacheError, HeadError, UnreadableImageError, WeightsError
from evaluate.terminal import bar, say, tell_extractions, warn
from extract.backbones import BACKBONES, WEIGHTS_WORDS
from extract.devices import present_devices, require_device
from extract.engines import usable_engines

if TYPE_CHECKING:
    from cache.store import Cache
    from evaluate.findings import Audit
    from evaluate.workspace import Workspace
    from extract.scan import ImageSet
    from extract.target import Target
    from heads.files import SavedHead
    from heads.grid import Sweep


def find(place: Workspace, arch: Sequence[str] = (), device: Sequence[str] = ()) -> list[Cache]:
    """Return the caches of these backbones and devices. Raises CacheError if there is none."""
    from evaluate.select import Wanted, find_wanted

    place.require()
    found = find_wanted(place, Wanted(arch, device))
    if not found:
        raise CacheError(f"{place.cache} has no such cache: run extract first, or see --workspace")
    return found


def scan_present(ctx: click.Context, dataset: Path, test: Path, place: Workspace) -> list[ImageSet]:
    """Scan both folders; see `scan_if_there`."""
    given = {"dataset": dataset, "test": test}
    found = [scan_if_there(ctx, name, folder, place) for name, folder in given.items()]
    return [images for images in found if images]


def scan_if_there(
    ctx: click.Context, option: str, folder: Path, place: Workspace
) -> ImageSet | None:
    """Scan an option's folder; None if it is missing and was not asked for."""
    default = click.core.ParameterSource.DEFAULT
    if ctx.get_parameter_source(option) == default and not folder.exists():
        return None
    return scan(folder, place)


def scan(folder: Path, place: Workspace) -> ImageSet:
    """List and hash the images of a folder."""
    from extract.scan import scan

    with bar(f"Reading {folder}", "files") as progress:
        images = scan(folder, progress, place.scan_table)
    for remark in images.remarks:
        warn(remark)
    return images


def extract(
    sets: Sequence[ImageSet], place: Workspace, arch: Sequence[str], device: Sequence[str],
    weights: str, precision: str, engine: str | None, fast_decode: bool, seed: int, strict: bool,
    workers: int | None = None, images_at_once: int | None = None, augmented: int = 0,
) -> list[Target]:  # fmt: skip
    """Fill the caches of every backbone and device asked for."""
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
            targets, images, place.cache, progress, strict, workers, images_at_once, shelf,
            augmented, place.looks,
        )  # fmt: skip
    tell_extractions(done, len(images), failed, place.failures)
    return targets


def look_over(
    training: ImageSet, testing: ImageSet | None, place: Workspace, anew: bool = False
) -> Audit:
    """Audit the images, or read what was found before, and say in a line what is wrong."""
    from evaluate.audit import audit, kept_audit
    from evaluate.findings import FINDINGS

    found = None if anew else kept_audit(training, testing, place)
    if found is None:
        with bar("Looking for copies", "images") as progress:
            found = audit(training, testing, place, progress)
    counts = {name: finding.count(found) for name, finding in FINDINGS.items()}
    if any(counts.values()) and not anew:
        told = [f"{n} {FINDINGS[name].summary}" for name, n in counts.items() if n]
        warn(f"{training.name}: {'; '.join(told)} (`cli.py audit` shows them)")
    return found


def train(
    caches: Sequence[Cache], training: ImageSet, place: Workspace, sweep: Sweep,
    groups: Mapping[bytes, int], train_on: str, tensorboard: Path | None,
) -> list[SavedHead]:  # fmt: skip
    """Train the heads of a sweep on each cache. groups: of images that no split divides."""
    from evaluate.sweeps import tell_heads
    from extract.devices import torch_device
    from heads.run import train_heads

    device = torch_device(train_on)
    heads: list[SavedHead] = []
    for cache in caches:
        with bar(f"Heads on {cache.identity.name}", "epochs") as progress:
            done = train_heads(
                cache, training.labels, training.name, sweep, place.heads, progress, device,
                groups,
            )  # fmt: skip
        tell_heads(cache.identity.name, done, place.heads, len(training.labels))
        heads += done.heads
    if not heads:
        raise HeadError("no head is left: every training diverged; give a smaller --lr")
    if tensorboard:
        from evaluate.tensorboard import write_tensorboard

        write_tensorboard(heads, tensorboard)
        say(f"{len(heads)} run(s) for TensorBoard in {tensorboard}")
    return heads


def evaluate(
    heads: Sequence[SavedHead], testing: ImageSet, leaked: Collection[bytes], place: Workspace,
    engine: str | None, weights: str,
) -> None:  # fmt: skip
    """Measure whole models on the test images."""
    from evaluate.run import evaluate

    with bar("Whole models, file to label", "images") as progress:
        ids = evaluate(heads, testing, leaked, place, engine, weights, progress, warn)
    say(f"{len(ids)} whole model(s) measured on {testing.folder}: {place.results}")


def learn_to_doubt(
    heads: Sequence[SavedHead], training: ImageSet, testing: ImageSet, audit: Audit,
    place: Workspace, engine: str | None, weights: str,
) -> None:  # fmt: skip
    """Measure how to doubt the answers of the best of some models, unless it is known."""
    from evaluate.doubt import doubt_path, is_known
    from evaluate.predict import best_of
    from evaluate.provoke import measure_doubt
    from evaluate.reload import reload_target
    from extract.target import engines_folder
    from heads.configuration import fingerprint

    best = best_of(place, heads, fingerprint(testing.labels))
    if best and not is_known(doubt_path(place.heads, best.info.id)):
        target = reload_target(best.info, weights, engine, engines_folder(place.cache))
        try:
            with bar("Provoking errors, to learn what to doubt", "parts") as progress:
                measure_doubt(best, training, audit.group_of, target, place, progress)
        except HeadError as error:  # the results are there, and stay
            warn(f"How to doubt the best model could not be measured: {error}")


def predict(
    given: Sequence[Path], model: str, place: Workspace, out: Path | None, heatmap: Path | None,
    weights: str, engine: str | None,
) -> None:  # fmt: skip
    """Classify files by a model, and print or write what it says."""
    from evaluate.predict import as_csv, check_out, find_model, listed, predict, write_answers
    from evaluate.reload import reload_target
    from extract.target import engines_folder

    check_out(out)
    model_id, saved = find_model(place, model)
    info, paths, shelf = saved.info, listed(given), engines_folder(place.cache)
    say(
        f"Model {model_id}: {info.identity.backbone} on {info.identity.device}, "
        f"{info.configuration.head} head, {info.configuration.optimizer}; trained on "
        f"{info.dataset} ({', '.join(info.classes)})",
        err=True,
    )
    target = reload_target(info, weights, engine, shelf)
    with bar("Embedding", "rows") as progress:
        found = predict(paths, saved, target, place, progress, shelf)
    for each in found:
        if each.error:
            warn(f"{each.path}: {each.error}")
    if out:
        write_answers(out, found, info, model_id)
        say(f"Written: {out}", err=True)
    else:
        say(as_csv(found, info.classes).rstrip())
    answered = [each for each in found if not each.error]
    if not answered:
        raise UnreadableImageError(f"none of the {len(found)} files is an image that can be read")
    doubted = sum(bool(each.doubt) for each in answered)
    say(f"{len(answered)} image(s) classified, {doubted} of them to be doubted", err=True)
    if answered[0].doubt is None:
        warn(
            f"Model {model_id}: its doubt was never measured; `cli.py evaluate` does it for the "
            "best of the models that it measures"
        )
    if heatmap:
        from evaluate.heatmaps import write_heatmaps

        with bar("Activation maps", "images") as progress:
            images = [Path(each.path) for each in answered]
            count = write_heatmaps(images, saved, target, heatmap, progress)
        say(f"{count} activation map(s) in {heatmap}", err=True)


def export(model: str, file_format: str, out: Path, place: Workspace, weights: str) -> None:
    """Write a model as one file, and say how near it answers to the model put together here."""
    from evaluate.model_file import export_model
    from evaluate.page.material import read_answers
    from evaluate.predict import find_model
    from evaluate.reload import reload_backbone
    from evaluate.study import studies
    from extract.target import engines_folder

    model_id, saved = find_model(place, model)
    rows = [row for study in studies(place.results) for row in study.rows]
    row = next(row for row in rows if row["model_id"] == int(model_id))
    info = saved.info
    answers = read_answers(row, place)
    if answers is None:
        raise HeadError(f"model {model_id} has no predictions in {place.heads}: run evaluate again")
    backbone = reload_backbone(info.identity, info.weights, weights, engines_folder(place.cache))
    written = export_model(backbone, saved, row, answers, file_format, out)
    say("Written: " + ", ".join(map(str, written.files)))
    say(
        f"Run by itself, it answers {written.check.images} test images within "
        f"{written.check.difference:.1g} of the model put together here"
    )


def report(place: Workspace, baseline: Path | None = None) -> None:
    """Write the report, and show its tables."""
    from rich.console import Console

    from evaluate.report import write_report
    from evaluate.study import cautions, describe_best, studies
    from evaluate.terminal import ranked_table

    path = write_report(place, baseline)
    console = Console(width=None if Console().is_terminal else 160)
    for study in reversed(studies(place.results)):
        console.print(ranked_table(study, console.width))
        for caution in cautions(study):
            warn(caution)
        say(f"Best: {describe_best(study)}")
    say(f"Report: {path}")
