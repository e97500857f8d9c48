"""The steps of `cli.py baseline`: whole networks trained in the ordinary way, and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

from cache.errors import GridError, HeadError, WeightsError
from evaluate.baseline.modes import MODES, check_start, starting_weights
from extract.backbones import WEIGHTS_WORDS, find_backbone
from frostline.cli import steps
from frostline.cli.console import bar, say, warn
from frostline.cli.option_groups import EmbeddingOptions, group

if TYPE_CHECKING:
    from evaluate.baseline.images import Readable
    from evaluate.baseline.run import TrainedNetwork
    from evaluate.workspace.layout import Workspace
    from extract.dataset import ImageSet
    from extract.embedding_spec import LoadedBackbone
    from extract.imaging.preprocessing import Preprocessing
    from heads.config import HeadConfig
    from heads.store import TrainedHead

    Load = Callable[[str, str], LoadedBackbone]


def configurations(mode: str, choices: Mapping[str, Any]) -> list[HeadConfig]:
    """Return every combination of the values given, with the defaults of a mode.

    Raises:
        GridError: a value has no effect here.
    """
    from heads.architectures import HEADS
    from heads.search.space import FIELDS, combinations

    usual: dict[str, list[Any]] = {"head": ["single"], "optimizer": ["adam"]}
    usual["learning_rate"] = [MODES[mode].learning_rate]
    values = usual | {name: choices[name] for name in FIELDS if choices[name]}
    if choices["nesterov"]:
        values["nesterov"] = [True]
    if fitted := [name for name in values["head"] if HEADS[name].fitted]:
        raise GridError(
            f"--head {fitted[0]} is fitted at once, not trained batch by batch: choose another"
        )
    return [replace(found, seed=choices["seed"]) for found in combinations(values)]


def train_whole(
    training: ImageSet,
    groups: Mapping[bytes, int],
    workspace: Workspace,
    choices: Mapping[str, Any],
) -> Iterator[TrainedHead]:
    """Train every backbone asked for in every mode and configuration, unless it was before; yield
    each as soon as it is trained. What is known to fail is reported before the first one.

    Args:
        groups: Of images that no split divides.
        choices: Of the command's options.

    Raises:
        GridError, HeadError, WeightsError: the options can't be followed.
        DeviceError: the device, or an engine on it, can't be used here.
        HeadError: at the end, if some could not be trained; it says which, and why.
    """
    from evaluate.baseline.run import NetworkOptions, train_network
    from extract.backends.backend import usable_engines
    from extract.devices import require_device
    from extract.embedding_spec import EmbeddingSpec
    from extract.imaging.preprocessing import Preprocessing

    wanted = _checked(choices)
    device = choices["device"] or default_device()
    require_device(device)
    workspace.prepare()
    engines = usable_engines(device, choices["engine"], choices["precision"])
    preprocessing = Preprocessing(fit=choices["fit"], full_scale=choices["full_scale"])
    how = device, engines, choices["precision"], preprocessing
    load = _loader(training, workspace, choices)
    starts, refused = _starts(choices, load)
    total = len(choices["arch"]) * sum(map(len, wanted.values()))
    todo = [(*start, c) for start in starts for c in wanted[start[1]]]
    for reason in refused if todo else ():  # otherwise it is the error, at once
        warn(reason)
    found, trained = _usable(training, how[-1]) if todo else None, 0
    for name, mode, weights, configuration in todo:
        try:
            with bar(f"{name}, {mode}", "images") as progress:
                spec = EmbeddingSpec(load(name, weights), *how)
                options = NetworkOptions(groups, choices["augment"], found, progress, warn)
                done = train_network(spec, configuration, mode, training, workspace, options)
        except (GridError, HeadError, WeightsError) as error:
            refused.append(f"{name}, {mode}, {_in_words(configuration)}: {error}")
            if total > 1:
                warn(refused[-1])
            continue
        _tell(done, name, mode)
        trained += 1
        yield done.head
    if refused:
        raise HeadError(f"{total - trained} of {total} trainings left out:", *refused)


def _checked(choices: Mapping[str, Any]) -> dict[str, list[HeadConfig]]:
    """Return the configurations of each mode, after a look at all that options say of them."""
    from evaluate.baseline.run import check

    for name in choices["arch"]:
        find_backbone(name)
    weights = choices["weights"]
    if weights not in WEIGHTS_WORDS and len(choices["arch"]) != 1:
        raise WeightsError(f"--weights {weights}: a file fits one backbone; name it with --arch")
    wanted = {mode: configurations(mode, choices) for mode in choices["mode"]}
    for mode, them in wanted.items():
        for configuration in them:
            check(configuration, mode, choices["augment"])
    return wanted


def _loader(training: ImageSet, workspace: Workspace, choices: Mapping[str, Any]) -> Load:
    """Return what loads a backbone by name and weights, the last one only once."""
    from extract.embedding_spec import engine_artifacts, load_backbone

    mean_and_std = steps.normalization(group(EmbeddingOptions, choices), training, workspace)
    artifacts, seed = engine_artifacts(workspace.cache), choices["seed"]
    return lru_cache(1)(
        lambda name, weights: load_backbone(name, weights, seed, artifacts, mean_and_std)
    )


def _starts(choices: Mapping[str, Any], load: Load) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Return the backbones, modes and weights that can be trained, and why others can't."""
    starts, refused = list[tuple[str, str, str]](), list[str]()
    for name, mode in product(choices["arch"], choices["mode"]):
        try:
            weights = starting_weights(mode, choices["weights"])
            backbone = load(name, weights)
            check_start(mode, backbone)
        except WeightsError as error:
            refused.append(f"{name}, {mode}: {error}")
            continue
        if backbone.source.notice and MODES[mode].pretrained:
            warn(backbone.source.notice)
        starts.append((name, mode, weights))
    return starts, refused


def _usable(training: ImageSet, preprocessing: Preprocessing) -> Readable:
    """Find out which images can be decoded, for all trainings, and say which can't."""
    from evaluate.baseline.images import readable

    tried, total = 0, len(training.unique)
    with bar("Decoding", "images") as progress:

        def advance(images: int) -> None:
            nonlocal tried
            progress(tried := tried + images, total)

        found = readable(training, preprocessing, advance)
    for failure in found.failures:
        warn(f"Left out: {failure.path}: {failure.reason}")
    return found


def _in_words(configuration: HeadConfig) -> str:
    c = configuration
    return f"{c.head} head, {c.optimizer}, --lr {c.learning_rate:g}"


def _tell(done: TrainedNetwork, name: str, mode: str) -> None:
    info = done.head.info
    accuracy = info.curves["validation_accuracy"][info.epoch]
    what = "was there already" if done.already else f"trained in {info.training_seconds:.1f} s"
    say(
        f"{name}, {mode}, {info.configuration.head} head: {what}, epoch {info.epoch + 1} of "
        f"{len(info.curves['validation_accuracy'])}, {accuracy:.1%} right on validation"
    )


def default_device() -> str:
    """Return the first accelerator that is there, else the processor."""
    from extract.devices import present_devices

    return next((name for name in present_devices() if name != "cpu"), "cpu")
