"""`kill` and a closed terminal, heard as Ctrl-C is."""

import os
import signal
import time

import pytest

from extract.stopping import interruptible, stoppable


def test_a_loop_can_ask_whether_it_is_to_stop() -> None:
    seen = []
    with pytest.raises(KeyboardInterrupt), stoppable() as asked_to_stop:
        seen.append(asked_to_stop())
        os.kill(os.getpid(), signal.SIGTERM)
        seen.append(asked_to_stop())
    assert seen == [False, True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_others_do_is_left_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert signal.getsignal(number) == before


def test_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible():
        os.kill(os.getpid(), signal.SIGHUP)
    signal.signal(signal.SIGHUP, before)
