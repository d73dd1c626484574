"""The limits of a run: its clock, and its callback, which can stop it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from unrelu.runtime.run_control import Control, Progress


def test_the_clock_runs_from_the_start():
    control = Control(0.01)
    assert control.elapsed() >= 0
    assert control.remaining() <= 0.01
    time.sleep(0.02)
    assert control.expired()
    assert control.remaining() == 0
    assert not Control().expired()


def test_the_callback_stops_and_is_asked_only_if_there_is_one():
    progress = Progress("lm", 1, 0, 1, np.zeros((1, 3)))
    answers = iter([False, True])
    control = Control(callback=lambda p: next(answers))
    assert [control.stopped(lambda: progress) for _ in range(4)] == [False, True, True, True]
    assert control.halted
    assert not Control(callback=lambda p: None).stopped(lambda: progress)
    assert not Control().stopped(lambda: pytest.fail("the report was built for nobody"))


def test_a_part_of_a_run_has_the_time_that_is_left_and_stops_the_whole():
    seen = []
    whole = Control(10.0, lambda p: seen.append(p) or len(seen) == 2)
    part = whole.part(lambda progress: -progress)
    assert 9 < part.time_limit <= whole.time_limit - part.elapsed() + 1e-3
    assert not part.stopped(lambda: 1)
    assert not part.halted
    assert part.stopped(lambda: 2)
    assert part.halted
    assert whole.halted
    assert whole.part(lambda p: p).halted
    assert seen == [-1, -2]
    assert Control().part(lambda p: p).callback is None
