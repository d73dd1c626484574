"""Work on threads: in order, stopped by its caller, with the caller's context and one BLAS thread each."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from contextvars import ContextVar

import pytest

from unrelu.runtime.host import abandoned, cores, in_threads

THREADS = pytest.mark.parametrize("threads", [1, 3])
# Long enough for any machine; no test waits for it unless it fails.
PATIENCE = 30.0
COUNT = 100

setting: ContextVar[str] = ContextVar("setting", default="default")


@THREADS
def test_results_come_in_the_order_of_the_items(threads):
    """The first item ends last where there is more than one thread."""
    others = threading.Event()

    def work(item):
        if item == 0 and threads > 1:
            assert others.wait(PATIENCE)
        if item == 5:
            others.set()
        return item * item

    assert list(in_threads(work, range(8), threads)) == [i * i for i in range(8)]
    for items in ([], [1], [1, 2]):
        assert list(in_threads(str, items, threads)) == list(map(str, items))


def test_items_see_the_callers_context_and_keep_their_own():
    def work(item):
        seen = setting.get()
        setting.set(f"item {item}")
        return seen

    token = setting.set("mine")
    try:
        assert list(in_threads(work, range(6), 3)) == ["mine"] * 6
        assert setting.get() == "mine"
    finally:
        setting.reset(token)


@pytest.fixture
def gate(monkeypatch):
    """Opens once every future has been cancelled, so that nothing more can begin."""
    event, left, cancel = threading.Event(), [COUNT], Future.cancel

    def counted(future):
        result = cancel(future)
        left[0] -= 1
        if left[0] == 0:
            event.set()
        return result

    monkeypatch.setattr(Future, "cancel", counted)
    return event


@THREADS
def test_after_an_error_nothing_is_begun(threads, gate):
    begun = []

    def work(item):
        begun.append(item)
        if item == 2:
            raise ZeroDivisionError("item 2")
        assert item < 2 or gate.wait(PATIENCE)
        return item

    results = in_threads(work, range(COUNT), threads)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError, match="item 2"):
        next(results)
    # What the other threads held, and what the first took up after its error.
    assert len(begun) <= threads + 3
    assert list(results) == []


@THREADS
def test_items_are_not_begun_once_the_caller_stops(threads, gate):
    begun, ended = [], []

    def work(item):
        begun.append(item)
        assert item == 0 or gate.wait(PATIENCE)
        ended.append(item)
        return item

    results = in_threads(work, range(COUNT), threads)
    assert begun == []
    assert next(results) == 0
    results.close()
    assert len(begun) <= threads + 1
    assert sorted(ended) == sorted(begun)


def test_the_cores_are_those_of_this_process(monkeypatch):
    assert 1 <= cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cores() == 7


def test_work_that_has_begun_learns_that_nobody_waits_for_it():
    ended, begun = [], threading.Barrier(3)

    def work(item):
        begun.wait(PATIENCE)
        clock = threading.Event()
        for _ in range(int(PATIENCE / 0.01)):
            if item == 0 or abandoned():
                break
            clock.wait(0.01)
        ended.append((item, abandoned()))
        return item

    results = in_threads(work, range(3), 3)
    assert next(results) == 0
    results.close()
    assert sorted(ended) == [(0, False), (1, True), (2, True)]
    assert not abandoned()
