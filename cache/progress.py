"""How long work tells its caller how far it is: a function of (done, total)."""

from collections.abc import Callable

Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Tell nobody."""
