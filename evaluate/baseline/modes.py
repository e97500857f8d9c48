"""The table of modes: what of a network is trained in the ordinary way, and what it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache.errors import WeightsError

if TYPE_CHECKING:
    from extract.embedding_spec import LoadedBackbone

RANDOM = "random"  # the word for weights that are drawn


@dataclass(frozen=True)
class Mode:
    """How a network is trained.

    Attributes:
        pretrained: It starts from weights that were trained before, not from random ones.
        trains_backbone: Not the head alone.
        learning_rate: Used unless another is asked for.
    """

    summary: str
    pretrained: bool
    trains_backbone: bool
    learning_rate: float


MODES: dict[str, Mode] = {
    "scratch": Mode("everything is trained, from random weights", False, True, 1e-3),
    "finetune": Mode("everything is trained, from pretrained weights", True, True, 1e-4),
    "transfer": Mode(
        "the head is trained; the backbone is frozen, and run again for every image in every epoch",
        True,
        False,
        1e-3,
    ),
}


def starting_weights(mode: str, weights: str) -> str:
    """Return which weights to load for a mode, from `--weights`.

    Raises:
        WeightsError: the mode can't start from them.
    """
    if not MODES[mode].pretrained:
        if weights not in ("auto", RANDOM):
            raise WeightsError(
                f"--weights {weights}: --mode {mode} starts from random weights; leave the option "
                "out, or choose --mode finetune"
            )
        return RANDOM
    if weights == RANDOM and MODES[mode].trains_backbone:
        raise WeightsError(
            f"--weights {weights}: --mode {mode} starts from pretrained weights; leave the option "
            "out, or choose --mode scratch"
        )
    return weights


def check_start(mode: str, backbone: LoadedBackbone) -> None:
    """Make sure that a mode can start from a backbone's weights.

    Raises:
        WeightsError: it can't.
    """
    at_random = backbone.weights.partition(":")[0] == RANDOM
    if not MODES[mode].pretrained and not at_random:
        raise WeightsError(
            f"--mode {mode} starts {backbone.name} from random weights, not {backbone.weights}; "
            "choose --mode finetune"
        )
    if MODES[mode].pretrained and MODES[mode].trains_backbone and at_random:
        raise WeightsError(
            f"--mode {mode} starts {backbone.name} from pretrained weights, and there are none "
            "here: `python cli.py doctor` says how to get them. Or give --weights PATH, or choose "
            "--mode scratch"
        )
