"""Ctrl-C while packages are imported: it is held back, since half of a package cannot be imported again."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from unrelu.runtime.interrupts import interrupts_held

# SIGINT in the middle of Numba's first import, then the same call again.
FIRST_CALL = """
import signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "numba.core.typing":
            sys.meta_path.remove(self)
            print("numba" in sys.modules, end=" ")
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
import unrelu

for _ in range(2):
    try:
        network = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
        print(unrelu.invert(network, [1.1, 0.0, 0.4], noise="gaussian:0.1").status.name)
    except KeyboardInterrupt:
        print("interrupted", end=" ")
"""


def test_ctrl_c_in_the_first_import_leaves_the_next_call_whole():
    done = subprocess.run([sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "interrupted", "NOISE_LEVEL"]


def test_ctrl_c_is_held_back_until_the_end():
    seen = []

    def work():
        with interrupts_held():
            with interrupts_held():
                signal.raise_signal(signal.SIGINT)
                seen.append("inner")
            seen.append("outer")

    with pytest.raises(ZeroDivisionError), interrupts_held():
        _ = 1 / 0
    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_leave_the_handler_alone():
    seen = []

    def work():
        with interrupts_held():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
