"""Work on threads: in order, stopped by its caller, with the caller's context and one BLAS thread each."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from contextvars import ContextVar

import pytest

from unrelu.runtime.host import abandoned, cores, in_threads

THREADS = pytest.mark.parametrize("threads", [1, 2, 3])
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


@pytest.mark.parametrize("threads", [-1, 0, 1, 5])
def test_few_items_or_threads(threads):
    assert list(in_threads(str, [], threads)) == []
    assert list(in_threads(str, [1], threads)) == ["1"]
    assert list(in_threads(str, [1, 2], threads)) == ["1", "2"]


@pytest.mark.parametrize("threads", [2, 3])
def test_as_many_items_at_a_time_as_threads(threads):
    meet, lock, inside, most = threading.Barrier(threads), threading.Lock(), set(), []

    def work(item):
        with lock:
            inside.add(item)
            most.append(len(inside))
        if item < threads:
            meet.wait(PATIENCE)
        with lock:
            inside.discard(item)
        return threading.get_ident()

    idents = list(in_threads(work, range(12), threads))
    assert max(most) == threads
    assert len(set(idents)) <= threads
    assert threading.get_ident() not in idents


@THREADS
def test_items_see_the_callers_context_and_keep_their_own(threads):
    def work(item):
        seen = setting.get()
        setting.set(f"item {item}")
        return seen

    token = setting.set("mine")
    try:
        results = list(in_threads(work, range(6), threads))
        if threads > 1:
            assert results == ["mine"] * 6
            assert setting.get() == "mine"
        assert results[0] == "mine"
    finally:
        setting.reset(token)


@THREADS
def test_an_error_reaches_the_caller_after_the_results_before_it(threads):
    def work(item):
        if item == 3:
            raise ZeroDivisionError("item 3")
        return item

    results = in_threads(work, range(50), threads)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError, match="item 3"):
        next(results)
    assert list(results) == []


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
        if item == 0:
            raise ZeroDivisionError
        assert gate.wait(PATIENCE)

    with pytest.raises(ZeroDivisionError):
        list(in_threads(work, range(COUNT), threads))
    # What the other threads held, and what the first took up after its error.
    assert len(begun) <= threads + 1


@THREADS
def test_items_are_not_begun_once_the_caller_stops(threads, gate):
    begun, ended = [], []

    def work(item):
        begun.append(item)
        if item > 0:
            assert gate.wait(PATIENCE)
        ended.append(item)
        return item

    results = in_threads(work, range(COUNT), threads)
    assert next(results) == 0
    results.close()
    assert len(begun) <= threads + 1
    assert sorted(ended) == sorted(begun)
    assert list(results) == []


def test_nothing_begins_before_it_is_asked_for():
    begun = []
    results = in_threads(begun.append, range(4), 2)
    results.close()
    assert begun == []


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
