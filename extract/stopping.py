"""Ctrl-C, a closed terminal and `kill`, as a question that a loop can ask."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether the user asked to stop; asked twice, stop at once.

    On leaving after such a wish, KeyboardInterrupt is raised. Only a process's main thread can
    listen to signals; in another, nobody asks.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    with _handled_by(ask):
        yield lambda: bool(asked)
    if asked:
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Have a closed terminal and `kill` raise KeyboardInterrupt at once, as Ctrl-C does.

    For work that others do, and that ends well when its connection to them is closed.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled_by(interrupt):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
            # What is ignored stays so: `nohup` means to outlive its terminal.
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
