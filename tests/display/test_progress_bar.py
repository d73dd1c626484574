"""The bar of ``progress=True``: where it is drawn, and that nothing depends on it."""

from __future__ import annotations

import io
import signal
import sys
import threading

import numpy as np
import pytest

import unrelu
from tests.support import random_network
from unrelu.display import progress_bar
from unrelu.errors import OptionError

NET = random_network((3, 8, 20), bias=True)
Y = NET(np.random.default_rng(7).standard_normal((3, 3))) + 0.1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(monkeypatch, stream, method="lm", **options):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress_bar, "_EVERY", 0.0)
    return unrelu.invert(NET, Y, method, **options), stream.getvalue()


def test_a_terminal_shows_how_many_are_done_and_a_file_nothing_unless_asked(monkeypatch):
    _, text = drawn(monkeypatch, Terminal(), progress=True)
    assert all(said in text for said in ("lm", "3/3", "iteration"))
    assert drawn(monkeypatch, io.StringIO(), progress=True)[1] == ""
    assert drawn(monkeypatch, Terminal())[1] == ""
    assert "3/3" in drawn(monkeypatch, io.StringIO(), progress="always")[1]


@pytest.mark.parametrize("method", ["auto", "lm", "linf", "adam"])
def test_results_have_the_same_bits_with_a_bar(monkeypatch, method):
    options = {"max_iterations": 50} if method == "adam" else {}
    plain = unrelu.invert(NET, Y, method, **options)
    shown, _ = drawn(monkeypatch, Terminal(), method, progress=True, **options)
    for name in ("z", "fun", "status", "confidence", "nit"):
        np.testing.assert_array_equal(getattr(shown, name), getattr(plain, name))


def test_the_callback_is_called_and_signals_threads_and_streams_are_left_alone(monkeypatch):
    def process():
        return signal.getsignal(signal.SIGINT), threading.active_count(), sys.stdout

    before, calls, seen = process(), [], set()

    def callback(progress):
        calls.append(progress.nit)
        seen.add(process())
        return progress.nit >= 2

    result, _ = drawn(monkeypatch, Terminal(), progress=True, callback=callback)
    assert calls[-1] == 2
    assert {status.name for status in result.status} <= {"STOPPED", "CONVERGED"}
    assert seen == {before}


def test_an_interrupt_goes_through_and_the_terminal_is_restored(monkeypatch):
    def interrupt(progress):
        raise KeyboardInterrupt

    terminal = Terminal()
    with pytest.raises(KeyboardInterrupt):
        drawn(monkeypatch, terminal, progress=True, callback=interrupt)
    assert terminal.getvalue().endswith("\x1b[?25h")  # the cursor is shown again


@pytest.mark.parametrize("asked", ["yes", 1, None])
def test_other_words_are_refused(asked):
    with pytest.raises(OptionError, match=r"progress=.*: use True, False, or 'always'"):
        unrelu.invert(NET, Y, "lm", progress=asked)
