"""The steps of `cli.py baseline`: whole networks trained in the ordinary way, and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cache.errors import GridError
from evaluate import steps
from evaluate.conventional.modes import MODES
from evaluate.terminal import bar, say, warn

if TYPE_CHECKING:
    from evaluate.conventional.run import TrainedNetwork
    from evaluate.workspace import Workspace
    from extract.scan import ImageSet
    from heads.configuration import Configuration
    from heads.files import SavedHead


def configurations(mode: str, choices: Mapping[str, Any]) -> list[Configuration]:
    """Return every combination of the values given, with the defaults of a mode.

    Raises:
        GridError: a value means nothing here.
    """
    from heads.architectures import HEADS
    from heads.grid import FIELDS, combinations

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
    training: ImageSet, groups: Mapping[bytes, int], place: Workspace, choices: Mapping[str, Any]
) -> list[SavedHead]:
    """Train every backbone asked for in every mode and configuration, unless it was before.

    groups: of images that no split divides. choices: of the command's options.
    """
    from evaluate.conventional.modes import starting_weights
    from evaluate.conventional.run import train_network
    from extract.decoding import Decoding
    from extract.devices import require_device
    from extract.engines import usable_engines
    from extract.load import load_backbone
    from extract.target import Target, engines_folder

    device = choices["device"] or default_device()
    require_device(device)
    place.prepare()
    engines = usable_engines(device, choices["engine"], choices["precision"])
    how = engines, choices["precision"], Decoding(fit=choices["fit"])
    mean_and_std = steps.normalization(choices["normalize"], training, place)
    todo = [
        (name, mode, configuration)
        for name in choices["arch"]
        for mode in choices["mode"]
        for configuration in configurations(mode, choices)
    ]
    heads = []
    for name, mode, configuration in todo:
        weights = starting_weights(mode, choices["weights"])
        shelf = engines_folder(place.cache)
        backbone = load_backbone(name, weights, configuration.seed, shelf, mean_and_std)
        if backbone.notice and MODES[mode].pretrained:
            warn(backbone.notice)
        with bar(f"{name}, {mode}", "images") as progress:
            done = train_network(
                Target(backbone, device, *how), configuration, mode, training, place, groups,
                choices["augment"], progress,
            )  # fmt: skip
        _tell(done, name, mode)
        heads.append(done.head)
    return heads


def _tell(done: TrainedNetwork, name: str, mode: str) -> None:
    info = done.head.info
    accuracy = info.curves["validation_accuracy"][info.epoch]
    what = "was there already" if done.already else f"trained in {info.training_seconds:.1f} s"
    say(
        f"{name}, {mode}, {info.configuration.head} head: {what}, epoch {info.epoch + 1} of "
        f"{len(info.curves['validation_accuracy'])}, {accuracy:.1%} right on validation"
    )
    for failure in done.failures:
        warn(f"  left out: {failure.path}: {failure.reason}")


def default_device() -> str:
    """Return the first accelerator that is there, else the processor."""
    from extract.devices import present_devices

    return next((name for name in present_devices() if name != "cpu"), "cpu")
