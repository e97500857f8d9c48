"""Ctrl-C, a closed terminal and `kill`, as a question that a loop can ask."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
ANSWER = b"\nStopping after this batch. Press Ctrl-C again to stop at once.\n"
STDERR = 2

_asked: list[int] = []  # the signals since the current `stoppable` began


def asked_to_stop() -> bool:
    """Return whether the user asked to stop the work that is `stoppable` now."""
    return bool(_asked)


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether the user asked to stop; asked twice, stop at once.

    On leaving after such a wish, KeyboardInterrupt is raised. Only a process's main thread can
    listen to signals; in another, nobody asks.
    """
    _asked.clear()

    def ask(number: int, frame: FrameType | None) -> None:
        if _asked:
            raise KeyboardInterrupt
        _asked.append(number)

    try:
        with _handled_by(ask), _answered():
            yield asked_to_stop
        if _asked:
            raise KeyboardInterrupt
    finally:
        _asked.clear()


@contextmanager
def _answered() -> Iterator[None]:
    """Print ANSWER as soon as a signal arrives.

    A thread does it: the main thread hears of signals only when a long call into C ends.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = {getattr(signal, name) for name in SIGNALS if hasattr(signal, name)}
    ours, wakeup = socket.socketpair()
    wakeup.setblocking(False)

    def answer() -> None:
        while received := ours.recv(1):
            if received[0] in numbers:
                with suppress(OSError):  # the terminal is closed
                    os.write(STDERR, ANSWER)
                return

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        wakeup.close()
        thread.join()
        ours.close()


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
