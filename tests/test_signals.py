"""`kill` and a closed terminal, heard as Ctrl-C is."""

import os
import signal
import subprocess
import sys
import threading
import time
from hashlib import pbkdf2_hmac

import numpy as np
import pytest

from extract.backends.openvino import build
from extract.embedding_spec import load_backbone
from extract.signals import ANSWER, interruptible, stoppable


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


def test_a_signal_is_answered_while_the_main_thread_is_in_c(
    capfd: pytest.CaptureFixture[str],
) -> None:
    answered = []

    def watch() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        answered.append(capfd.readouterr().err)

    with pytest.raises(KeyboardInterrupt), stoppable() as asked_to_stop:
        threading.Timer(0.1, watch).start()
        pbkdf2_hmac("sha256", b"", b"", 3_000_000)  # a second or more, and it hears no signal
        asked_to_stop()
    assert answered == [ANSWER.decode()]


def test_a_batch_ends_early_and_keeps_the_rows_that_are_ready() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (400, 1, 224, 224), np.uint8)
    forward = build(load_backbone("mobilenet_v3_large", "random"), "fp32", len(pixels), None)
    whole = forward(pixels[:40])
    with pytest.raises(KeyboardInterrupt), stoppable():
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        rows = forward(pixels)
    assert 0 < len(rows) < len(pixels)
    both = min(len(rows), len(whole))
    assert (rows[:both] == whole[:both]).all()


BUILT_HERE_DROPPED_ELSEWHERE = """
import os, signal, threading
from extract.embedding_spec import load_backbone
from extract.backends.openvino import build
from extract.signals import interruptible

engines = [build(load_backbone("basic_cnn", "random"), "fp32", 1, None)]
thread = threading.Thread(target=engines.clear)
thread.start()
thread.join()
with interruptible():
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_is_handled_after_another_thread_dropped_an_engine() -> None:
    program = [sys.executable, "-X", "faulthandler", "-c", BUILT_HERE_DROPPED_ELSEWHERE]
    process = subprocess.run(program, capture_output=True, check=False)
    assert process.returncode == -signal.SIGINT, process.stderr  # and not -SIGSEGV
