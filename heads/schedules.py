"""The table of learning rate schedules."""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi


@dataclass(frozen=True)
class Schedule:
    """A factor of the learning rate in each epoch.

    Attributes:
        summary: For the help text.
        gamma: Whether it uses gamma.
        factor: (epoch from 0, number of epochs, gamma) → factor.
    """

    summary: str
    gamma: bool
    factor: Callable[[int, int, float], float]


SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule("always the same", False, lambda epoch, epochs, gamma: 1.0),
    "exponential": Schedule(
        "falls by gamma after every epoch", True, lambda epoch, epochs, gamma: gamma**epoch
    ),
    "step": Schedule(
        "falls by gamma after half and after three quarters of the epochs",
        True,
        lambda epoch, epochs, gamma: gamma ** ((2 * epoch >= epochs) + (4 * epoch >= 3 * epochs)),
    ),
    "cosine": Schedule(
        "down to 0 along half a cosine (Loshchilov & Hutter 2017)",
        False,
        lambda epoch, epochs, gamma: (1 + cos(pi * epoch / epochs)) / 2,
    ),
}


def factor(schedule: str, gamma: float, warmup: int, epoch: int, epochs: int) -> float:
    """Return the factor of an epoch; it rises linearly in the first `warmup` epochs."""
    if epoch < warmup:
        return (epoch + 1) / (warmup + 1)
    return SCHEDULES[schedule].factor(epoch - warmup, epochs - warmup, gamma)
