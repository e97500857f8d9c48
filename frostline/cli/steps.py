"""The steps that commands are made of: each does its work, shows progress, and says what was done.

Everything heavy is imported where it is used: `cli.py --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache.errors import (
    CacheError,
    DatasetError,
    HeadError,
    ResultsError,
    UnreadableImageError,
    WeightsError,
)
from evaluate.text import REHASH, STUDYS_OWN
from extract.backbones import STANDARD, WEIGHTS_WORDS
from extract.backends.backend import usable_engines
from extract.devices import present_devices, require_device
from extract.imaging.preprocessing import AUTO, FULL_SCALE
from extract.sources.class_names import between_sets
from frostline.cli.console import bar, console, print_extractions, say, warn

if TYPE_CHECKING:
    from cache.store import Cache
    from evaluate.audit.findings import Audit
    from evaluate.audit.split import SplitOptions
    from evaluate.backbone_loader import ModelLoader
    from evaluate.constraints import Limits
    from evaluate.test_set import TestSet
    from evaluate.workspace.layout import Workspace
    from extract.dataset import ImageSet
    from extract.embedding_spec import EmbeddingSpec, Normalization
    from frostline.cli.option_groups import EmbeddingOptions, TrainingOptions
    from heads.batched.fit import Trainer
    from heads.store import TrainedHead


SETS = ("dataset", "test")  # options whose defaults are taken together or not at all


def find(workspace: Workspace, arch: Sequence[str] = (), device: Sequence[str] = ()) -> list[Cache]:
    """Return the caches of these backbones and devices. Raises CacheError if there is none."""
    from evaluate.selection import Wanted, find_wanted

    workspace.require()
    found = find_wanted(workspace, Wanted(arch, device))
    if not found:
        raise CacheError(
            f"{workspace.cache} has no such cache: run extract first, or see --workspace"
        )
    return found


def scan_present(
    ctx: click.Context, dataset: Path, test: Path, workspace: Workspace
) -> list[ImageSet]:
    """Scan both folders; see `scan_if_there`."""
    given = {"dataset": dataset, "test": test}
    found = [scan_if_there(ctx, name, folder, workspace) for name, folder in given.items()]
    return [images for images in found if images]


def scan_if_there(
    ctx: click.Context,
    option: str,
    folder: Path,
    workspace: Workspace,
    per_class: int | None = None,
) -> ImageSet | None:
    """Scan an option's folder; None if it is missing and was not asked for."""
    return scan(folder, workspace, per_class) if is_meant(ctx, option, folder) else None


def is_meant(ctx: click.Context, option: str, folder: Path) -> bool:
    """Tell whether an option's folder was asked for, or neither was and the default is there."""
    return is_given(ctx, option) or (not any(map(partial(is_given, ctx), SETS)) and folder.exists())


def is_given(ctx: click.Context, option: str) -> bool:
    """Tell whether an option is given, on the command line or by a recipe."""
    return ctx.get_parameter_source(option) != click.core.ParameterSource.DEFAULT


def check_sets(ctx: click.Context, hint: str = "") -> None:
    """Make sure that --dataset and --test are given together: their defaults belong together.

    Raises:
        DatasetError: only one is given. hint: what else could be given than --test.
    """
    if is_given(ctx, "dataset") and not is_given(ctx, "test"):
        raise DatasetError(f"No test images given. Use --test DIR{hint}.")
    if is_given(ctx, "test") and not is_given(ctx, "dataset"):
        raise DatasetError("No training images given. Use --dataset DIR.")


def take_current(ctx: click.Context, workspace: Workspace, choices: dict[str, Any]) -> list[Path]:
    """Return --dataset and --test; where neither is given, those of the study run last.

    Args:
        choices: Get its --per-class and --test-per-class, too.

    Raises:
        ResultsError: what says which study was run last is damaged.
    """
    from evaluate.workspace.current_study import read_current

    given = [ctx.params[name] for name in SETS if name in ctx.params]
    if any(map(partial(is_given, ctx), SETS)) or not (current := read_current(workspace)):
        return given
    parts = {"per_class": current.training, "test_per_class": current.test}
    for option, part in parts.items():
        if option in choices and choices[option] is None:
            choices[option] = part.per_class
    say(f"Images of the study run last: {current.title}", err=True)
    found = [current.path_of(part, workspace) for part in parts.values()]
    return found[: len(given)]


def set_current(
    workspace: Workspace,
    sets: Sequence[ImageSet],
    given: Sequence[Path],
    choices: Mapping[str, Any],
) -> None:
    """Note which study is run.

    Args:
        sets: Training and test images.
        given: Their paths.
    """
    from evaluate.workspace.current_study import part_of, write_current

    (training, testing), (dataset, test) = sets, given
    write_current(
        workspace,
        part_of(training, dataset, choices["per_class"]),
        part_of(testing, test, choices["test_per_class"]),
        list(training.labels.values()),
    )


def rehash_asked() -> bool:
    """Tell whether the command has --rehash."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(REHASH))


def scan(
    folder: Path, workspace: Workspace, per_class: int | None = None, opened: bool = True
) -> ImageSet:
    """List and hash the images of a folder, list, or archive, which is unpacked; or of a URL.

    With --rehash, files that were read before are read, fetched and unpacked again.

    Args:
        per_class: Take so many of each class, chosen by their content.
        opened: The images will be; else those behind a URL, whose SHA-256 a list says, are not
            fetched.
    """
    from extract.dataset import scan
    from extract.sources.local_copy import make_local

    rehash, source = rehash_asked(), folder
    with bar(f"Unpacking {folder}", "files") as progress:
        folder = make_local(folder, workspace.images, progress, warn, opened, rehash)
    with bar(f"Reading {folder}", "files") as progress:
        images = replace(scan(folder, progress, workspace.scan_table, rehash), source=source)
    for remark in images.remarks:
        warn(remark)
    return images.at_most(per_class) if per_class else images


def extract(
    sets: Sequence[ImageSet],
    workspace: Workspace,
    options: EmbeddingOptions,
    root: Path | None = None,
) -> list[EmbeddingSpec]:
    """Fill the caches of every backbone and device asked for.

    Args:
        sets: Of training images first.
        root: Where the caches are, unless in the workspace.
    """
    from evaluate.workspace.known_datasets import record
    from extract.distributed.local_devices import extract_on_local_devices, local_devices
    from extract.embedding_spec import engine_artifacts
    from extract.pipeline import RunnerOptions, extract

    devices = list(options.device) or present_devices()
    for name in devices:
        require_device(name)
    check_weights(options.arch, options.weights)
    engines = {name: usable_engines(name, options.engine, options.precision) for name in devices}
    workspace.prepare()
    for images in sets:
        hashes = (file.sha256 for file in images.files)
        record(root or workspace.cache, images.source or images.folder, hashes)
    found = {name: local_devices(name) for name in devices}
    failed = [failure for images in sets for failure in images.unopened]
    if options.strict and failed:
        raise UnreadableImageError(f"{failed[0].path} can't be opened: {failed[0].reason}")
    artifacts = engine_artifacts(workspace.cache)
    mean_and_std = normalization(options, sets[0], workspace)
    specs = targets_of(options, engines, workspace, mean_and_std)
    if options.precision == "int8":
        from extract.backends.int8 import calibrate

        first = sets[0].files  # not the test images, which take no part in any choice
        specs = [calibrate(spec, first, artifacts) for spec in specs]
    runner = RunnerOptions(
        options.strict, options.workers, options.images_at_once, artifacts, options.augmented,
        workspace.image_index,
    )  # fmt: skip
    # Views are for training.
    whole = len(sets) == 1 or not options.augmented
    without = replace(runner, views=0)
    parts = [(sets, runner)] if whole else [(sets[:1], runner), (sets[1:], without)]
    done = []
    for part, how in parts:
        files = [file for images in part for file in images.files]
        # 0: chips that are not counted yet may be there all the same.
        if one := [spec for spec in specs if found[spec.device] < 2]:
            with bar("Embedding", "rows") as progress:
                done += extract(one, files, root or workspace.cache, progress, how)
        for name in devices:
            if many := [t for t in specs if t.device == name and found[name] > 1]:
                with bar(f"Embedding on {found[name]} chips", "rows") as progress:
                    done += extract_on_local_devices(
                        many, files, root or workspace.cache, progress, how
                    )
    print_extractions(done, sum(len(images.files) for images in sets), failed, workspace.failures)
    return specs


def check_weights(arch: Sequence[str], weights: str) -> None:
    """Make sure that weights are for every backbone asked for. Raises WeightsError."""
    if weights not in WEIGHTS_WORDS and len(arch) != 1:
        raise WeightsError(f"--weights {weights}: a file fits one backbone; name it with --arch")


def targets_of(
    options: EmbeddingOptions, engines: Mapping[str, tuple[str, ...]], workspace: Workspace,
    mean_and_std: Normalization | None = None,
) -> list[EmbeddingSpec]:  # fmt: skip
    """Return what every backbone asked for fills on each device.

    Args:
        engines: To try there.
    """
    from extract.embedding_spec import EmbeddingSpec, engine_artifacts, load_backbone

    specs, artifacts = list[EmbeddingSpec](), engine_artifacts(workspace.cache)
    for name in options.arch or STANDARD:
        backbone = load_backbone(name, options.weights, options.seed, artifacts, mean_and_std)
        if backbone.source.notice:
            warn(backbone.source.notice)
        specs += [
            EmbeddingSpec(backbone, where, chosen, options.precision, options.preprocessing)
            for where, chosen in engines.items()
        ]
    return specs


def white_value(full_scale: int | str | None, training: ImageSet, workspace: Workspace) -> int:
    """Return the value of 9 to 16 bits that becomes white: see `Preprocessing`.

    Args:
        full_scale: Of the option; `auto` goes by the training images.
    """
    from extract.dataset_statistics.image_index import stats_of
    from extract.imaging.image_stats import smallest_white

    if full_scale != AUTO:
        return FULL_SCALE if full_scale is None else int(full_scale)
    with bar("Measuring bit depth", "images") as progress:
        image_stats, _ = stats_of(training.unique, workspace.image_index, progress, None)
    white = smallest_white(image_stats.values())
    if white == FULL_SCALE:
        say(f"--full-scale auto: {training.name} uses the full scale of its files")
    else:
        largest = max(stats.largest for stats in image_stats.values() if stats.full_scale > 255)
        say(f"--full-scale auto: {white}, as the largest value in {training.name} is {largest}")
    return white


def print_bit_depth(sets: Mapping[str, ImageSet], workspace: Workspace, white: int) -> None:
    """Say what of the images' bit depth is worth knowing, as far as they were decoded before.

    Args:
        sets: By what they are for.
        white: See `white_value`.
    """
    from evaluate.audit.set_properties import Shown, of_depth
    from extract.dataset_statistics.image_index import known_stats

    files = [(part, file) for part, images in sets.items() for file in images.unique]
    try:
        image_stats = known_stats({file.sha256 for _, file in files}, workspace.image_index, white)
    except CacheError as error:
        warn(f"The bit depth of the images is not known: {error}")
        return
    known = [(part, file) for part, file in files if file.sha256 in image_stats]
    for each in of_depth(
        [Shown(file.path, file.label, part, image_stats[file.sha256]) for part, file in known]
    ):
        warn(each.note)


def normalization(
    options: EmbeddingOptions, training: ImageSet, workspace: Workspace
) -> Normalization | None:
    """Return mean and standard deviation of the training images, or None for the weights' own."""
    from extract.dataset_statistics.image_index import stats_of
    from extract.dataset_statistics.normalization import fit_normalization

    if options.normalize != "dataset":
        return None
    with bar("Looking at gray levels", "images") as progress:
        image_stats, _ = stats_of(
            training.unique, workspace.image_index, progress, options.preprocessing.full_scale
        )
    found = fit_normalization(image_stats.values())
    say(f"{training.name}: mean {found[0][0]:g}, standard deviation {found[1][0]:g} of full scale")
    return found


def audit_datasets(
    training: ImageSet, testing: ImageSet | None, workspace: Workspace, full_scale: int,
    again: bool = False,
) -> Audit:  # fmt: skip
    """Audit the images, or read what was found before, and say in a line what is wrong.

    Args:
        full_scale: Of the decoding.
    """
    from evaluate.audit.audit import audit, kept_audit
    from evaluate.audit.findings import FINDINGS

    found = None
    if not again:
        try:
            found = kept_audit(training, testing, workspace, full_scale)
        except ResultsError as error:
            warn(f"Audited again: {error}")
    if found is None:
        with bar("Looking for copies", "images") as progress:
            found = audit(training, testing, workspace, progress, full_scale)
    if testing:
        mine, others = ({file.label for file in images.files} for images in (training, testing))
        for line in between_sets(mine, others):
            warn(f"{testing.folder}: {line}")
    counts = {name: f.count(found) for name, f in FINDINGS.items() if name != "property"}
    if any(counts.values()) and not again:
        told = [f"{n} {FINDINGS[name].summary}" for name, n in counts.items() if n]
        warn(f"{training.name}: {'; '.join(told)} (`cli.py audit` shows them)")
    for each in found.properties:
        warn(each.note)
    return found


def train(
    caches: Sequence[Cache], training: ImageSet, workspace: Workspace, options: TrainingOptions,
    groups: Mapping[bytes, int], trainer_of: Callable[[Cache], Trainer] | None = None,
) -> list[TrainedHead]:  # fmt: skip
    """Train the heads of a plan on each cache.

    Args:
        groups: Of images that no split divides.
        trainer_of: Who trains on a cache, if not this process.
    """
    from extract.devices import torch_device
    from frostline.cli.sweep_tables import tell_heads
    from heads.batched.fit import train as train_here
    from heads.training import TrainingSettings, train_heads

    here = partial(train_here, device=torch_device(options.train_on))
    heads: list[TrainedHead] = []
    for cache in caches:
        with bar(f"Heads on {cache.key.name}", "epochs") as progress:
            settings = TrainingSettings(groups, trainer_of(cache) if trainer_of else here, progress)
            done = train_heads(
                cache, training.labels, training.name, options.plan, workspace.heads, settings
            )
        tell_heads(cache.key.name, done, workspace.heads, len(training.labels))
        heads += done.heads
    if not heads:
        raise HeadError("no head is left: every training diverged; give a smaller --lr")
    if options.tensorboard:
        from evaluate.export.tensorboard import write_tensorboard

        write_tensorboard(heads, options.tensorboard)
        say(f"{len(heads)} run(s) for TensorBoard in {options.tensorboard}")
    return heads


def test_set(images: ImageSet, audit: Audit, no_group: bool, name: str = STUDYS_OWN) -> TestSet:
    """Return a test set by what an audit found.

    Args:
        no_group: Only exact copies count as leaked.
    """
    from evaluate.test_set import TestSet

    if no_group:
        return TestSet(images, audit.exactly_leaked, name=name)
    return TestSet(images, audit.leaked, audit.repeat_of, name)


def evaluate(heads: Sequence[TrainedHead], test: TestSet, loader: ModelLoader) -> None:
    """Measure whole models on the test images."""
    from evaluate.evaluation import evaluate

    with bar("Whole models, file to label", "images") as progress:
        ids = evaluate(heads, test, loader, progress, warn)
    results = loader.workspace.results
    say(f"{len(ids)} whole model(s) measured on {test.images.name}: {results}")


def fit_uncertainty(
    heads: Sequence[TrainedHead], training: ImageSet, testing: ImageSet,
    groups: Mapping[bytes, int], loader: ModelLoader,
) -> None:  # fmt: skip
    """Fit the review flags of the best of some models, unless they are known.

    Args:
        groups: Of training images, that no fold divides.
    """
    from evaluate.predict import best_of, measured_doubt
    from evaluate.uncertainty.fitting import measure_doubt
    from heads.config import fingerprint

    workspace = loader.workspace
    best = best_of(workspace, heads, fingerprint(testing.labels))
    if best and best.info.network:
        warn("No review flags for the best model: it was not trained on cached embeddings")
    elif best:
        try:
            if measured_doubt(best):
                return
        except (ResultsError, OSError) as error:
            warn(f"Measured again: {error}")
        spec = loader.spec(best.info)
        try:
            with bar("Fitting review flags on corrupted images", "parts") as progress:
                measure_doubt(best, training, groups, spec, workspace, progress)
        except HeadError as error:  # the results are there, and stay
            warn(f"No review flags for the best model: {error}")


def external_sets(
    others: Mapping[str, ImageSet], training: ImageSet, workspace: Workspace, no_group: bool,
    full_scale: int,
) -> list[TestSet]:  # fmt: skip
    """Audit independent sets, by name.

    Args:
        full_scale: Of the decoding.
    """
    return [
        test_set(images, audit_datasets(training, images, workspace, full_scale), no_group, name)
        for name, images in others.items()
    ]


def evaluate_external(
    heads: Sequence[TrainedHead], tests: Sequence[TestSet], loader: ModelLoader, again: bool = False
) -> list[str]:
    """Measure whole models on independent sets; unless again, those that were not yet.

    A set that can't be used costs itself only; returns what was wrong with it.
    """
    from evaluate.evaluation import unmeasured

    failed = []
    for test in tests:
        todo = heads if again else unmeasured(heads, test, loader)
        try:
            if todo:
                evaluate(todo, test, loader)
        except DatasetError as error:
            failed.append(f"--also {test.name}: {error}")
    return failed


def split(
    source: Path, workspace: Workspace, out: Path | None, options: SplitOptions,
    full_scale: int | str | None,
) -> tuple[Path, Path]:  # fmt: skip
    """Cut one set of images into two, and return where they are.

    Args:
        out: None for a folder of this division in the workspace.
    """
    from evaluate.audit.split import (
        divide,
        divided_before,
        folder_of,
        sides,
        table_of,
        write_division,
    )

    images = scan(source, workspace)
    out = out or folder_of(images, options, workspace.splits)
    if divided_before(images, options, out):
        say(f"{out}: Reusing the existing split (same images and settings).")
    else:
        white = white_value(full_scale, images, workspace)
        division = divide(images, audit_datasets(images, None, workspace, white), options)
        for remark in division.remarks:
            warn(remark)
        with bar(f"Writing {out}", "files") as progress:
            write_division(division, images, out, progress)
        console().print(table_of(division))
    training, testing = sides(out, options)
    say(f"To train on: {training}; to test on: {testing}")
    return training, testing


def report(workspace: Workspace, baseline: Path | None, limits: Limits) -> None:
    """Write the report, and show its tables."""
    from evaluate.leaderboard import (
        cautions,
        describe_best,
        describe_confusions,
        describe_others,
        studies,
    )
    from evaluate.report.context import properties_of
    from evaluate.report.page import LEFT_OUT, write_report
    from evaluate.report.sections.constraints import choice_in_words
    from evaluate.workspace.current_study import current_first
    from frostline.cli.console import ranked_table

    workspace.require_folder()
    left_out = list[str]()
    path = write_report(workspace, baseline, limits, left_out.append)
    for line in left_out[:LEFT_OUT]:
        warn(f"Left out of the report: {line}")
    if len(left_out) > LEFT_OUT:
        warn(f"Left out of the report: {len(left_out) - LEFT_OUT} more files.")
    shown = console()
    for study in reversed(current_first(studies(workspace.results), workspace)):
        shown.print(ranked_table(study, shown.width))
        for caution in cautions(study):
            warn(caution)
        for note in properties_of(study, workspace):
            warn(note)
        say(f"Best: {describe_best(study)}")
        if confused := describe_confusions(study.best):
            say(confused)
        for line in describe_others(study):
            say(line)
        if limits.given:
            say(choice_in_words(study, limits, workspace))
    say(f"Report: {path}")
