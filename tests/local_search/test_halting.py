"""The watch: when it says stop, and why."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from unrelu.local_search.halting import Watch
from unrelu.result import Status
from unrelu.runtime import run_control
from unrelu.runtime.run_control import Control, Progress


class Clock:
    """Time as the test has it."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(run_control, "_state", (None, 0.0))

    def watch(self, time_limit=math.inf, callback=None, progress=None):
        control = Control(time_limit, callback, self.now)
        return Watch(control, progress or (lambda: Progress("auto", 3, 1, 2, np.zeros((2, 1)))))


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_it_says_stop_when_the_time_is_up(clock):
    watch = clock.watch(10)
    clock.now += 10
    assert watch() is True
    assert watch.reason is Status.TIME_LIMIT


@pytest.mark.parametrize(("steps", "begun"), [([1] * 20, 9), ([3] * 20, 3), ([1, 4, 1, 1, 1, 1], 3), ([6], 1)])
def test_a_step_that_would_end_beyond_the_limit_is_not_begun(clock, steps, begun):
    """By the longest so far. The limit is 10 s, of which 1 s passes before the first step."""
    watch = clock.watch(10)
    clock.now += 1
    count = 0
    for length in steps:
        if watch():
            break
        clock.now += length
        count += 1
    else:
        assert watch()
    assert count == begun
    assert watch.reason is Status.TIME_LIMIT


def test_what_was_no_step_does_not_count_as_one(clock):
    resting, counting = clock.watch(10), clock.watch(10)
    for watch in (resting, counting):
        watch()
    clock.now += 6
    resting.rest()
    assert not resting()
    assert counting()


def test_once_it_said_stop_it_stays_so_and_asks_nobody(clock):
    asked = []
    for time_limit, reason in ((math.inf, Status.STOPPED), (1.0, Status.TIME_LIMIT)):
        watch = clock.watch(time_limit, lambda p: asked.append(p) or True)
        clock.now += 1.5
        calls = len(asked)
        assert [watch() for _ in range(4)] == [True] * 4
        assert watch.reason is reason
        assert len(asked) - calls == (reason is Status.STOPPED)


def test_the_time_limit_comes_before_the_callback(clock):
    watch = clock.watch(1, lambda p: pytest.fail("too late"))
    clock.now += 1
    assert watch()


def test_errors_of_the_callback_come_through(clock):
    watch = clock.watch(10, lambda p: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        watch()
    assert watch.reason is None
