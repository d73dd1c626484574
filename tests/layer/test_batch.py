"""Batches on threads: the answers of one program at a time, in order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from unrelu.activations import Activation
from unrelu.errors import OptionError
from unrelu.host import computing
from unrelu.layer import LayerSystem, batch, rows
from unrelu.layer.batch import least_violation_many
from unrelu.layer.convex import engine, least_violation
from unrelu.layer.highs import LpStatus
from unrelu.layer.proof import prove

NORMS = pytest.mark.parametrize("norm", ["linf", "l1"])


def batch_of(count=9, n=50, k=6, seed=0):
    rng = np.random.default_rng(seed)
    free = np.full(k, np.inf)
    system = LayerSystem(rng.normal(size=(n, k)), 0.1 * rng.normal(size=n), Activation("relu"), np.zeros(k), free)
    noises = 10.0 ** rng.integers(-6, 0, count)
    targets = [system.value(np.abs(rng.normal(size=k))) + noise * rng.uniform(-1, 1, n) for noise in noises]
    return system, [rows(system, x, noise) for x, noise in zip(targets, noises, strict=True)]


@NORMS
@pytest.mark.parametrize("threads", [1, 2, 3, None])
def test_a_batch_has_the_answers_of_its_elements(norm, threads):
    system, many = batch_of()
    with computing(one_thread=True):
        alone = [least_violation(system, one, norm) for one in many]
    # A fresh system, so that what threads share is not prepared yet.
    answers = least_violation_many(replace(system), many, norm, threads)
    assert len(answers) == len(many)
    for a, b in zip(answers, alone, strict=True):
        np.testing.assert_array_equal(a.h, b.h)
        np.testing.assert_array_equal(a.multipliers, b.multipliers)
        assert (a.objective, a.bound, a.status, a.pivots, a.engine, a.fallback) == (
            b.objective, b.bound, b.status, b.pivots, b.engine, b.fallback
        )  # fmt: skip


@NORMS
def test_a_batch_backwards_is_the_batch_backwards(norm):
    system, many = batch_of()
    there = least_violation_many(system, many, norm, 2)
    back = least_violation_many(system, many[::-1], norm, 2)[::-1]
    assert [a.objective for a in there] == [a.objective for a in back]


@pytest.mark.parametrize("threads", [None, 1, 4])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_nothing_in_nothing_out(threads, device):
    system, _ = batch_of(0)
    assert least_violation_many(system, [], "l1", threads, device) == []


@pytest.mark.parametrize("threads", [0, -2, 1.5])
@pytest.mark.parametrize("count", [0, 3])
def test_threads_that_are_no_number_of_threads_are_an_error(threads, count):
    system, many = batch_of(count)
    with pytest.raises(OptionError, match=f"threads={threads} must be a whole number of at least 1"):
        least_violation_many(system, many, "l1", threads)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta2"])
def test_a_device_that_is_not_there_is_an_error(device):
    system, many = batch_of(2)
    with pytest.raises(OptionError, match=f"device '{device}' cannot be used"):
        least_violation_many(system, many, "l1", device=device)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_norm_that_is_not_there_is_an_error(device):
    system, many = batch_of(2)
    with pytest.raises(OptionError, match="norm 'l2' is not one of linf, l1"):
        least_violation_many(system, many, "l2", device=device)


@NORMS
def test_the_engine_of_the_caller_is_that_of_the_threads(norm):
    system, many = batch_of(4)
    with engine("highs"):
        answers = least_violation_many(system, many, norm, 2)
    assert {a.engine for a in answers} <= {"highs", "least squares"}
    for a, b in zip(answers, least_violation_many(system, many, norm, 2), strict=True):
        assert b.engine == "exchange"
        assert a.objective == pytest.approx(b.objective, rel=1e-8)


def test_a_sparse_batch():
    system, many = batch_of(4)
    sparse_system = replace(system, matrix=sparse.csr_array(system.matrix))
    dense = least_violation_many(system, many, "l1", 2)
    for a, b in zip(least_violation_many(sparse_system, many, "l1", 2), dense, strict=True):
        assert a.status is LpStatus.OPTIMAL
        assert a.objective == pytest.approx(b.objective, rel=1e-8)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_a_thread_reaches_the_caller(monkeypatch, threads):
    system, many = batch_of(8)
    solve = batch.least_violation

    def sabotaged(system, one, norm):
        if one is many[4]:
            raise ZeroDivisionError("the fifth")
        return solve(system, one, norm)

    monkeypatch.setattr(batch, "least_violation", sabotaged)
    with pytest.raises(ZeroDivisionError, match="the fifth"):
        least_violation_many(system, many, "l1", threads)


@NORMS
def test_a_device_gives_the_same_minima(norm):
    system, many = batch_of()
    answers = least_violation_many(system, many, norm, device="cpu")
    for a, b, one in zip(answers, least_violation_many(system, many, norm), many, strict=True):
        assert a.status is LpStatus.OPTIMAL
        assert a.engine == ("exchange" if a.fallback else "interior point")
        assert a.objective == pytest.approx(b.objective, rel=1e-7)
        assert prove(system, one, norm, a.h, a.multipliers).holds


@NORMS
def test_what_a_device_leaves_unproved_goes_to_the_kernel(monkeypatch, norm):
    system, many = batch_of()
    interior = batch.least_violation_batch

    def sabotaged(system, some, norm, device):
        answers = interior(system, some, norm, device)
        for i in (0, 3, 8):
            answers[i] = replace(answers[i], h=answers[i].h + 1, objective=1e9, status=LpStatus.FAILED)
        return answers

    monkeypatch.setattr(batch, "least_violation_batch", sabotaged)
    answers = least_violation_many(system, many, norm, 2, "cpu")
    for i, (a, b) in enumerate(zip(answers, least_violation_many(system, many, norm), strict=True)):
        assert a.status is LpStatus.OPTIMAL
        assert a.objective == pytest.approx(b.objective, rel=1e-7)
        if i in {0, 3, 8}:
            assert a.fallback
            assert a.engine == "exchange"
            np.testing.assert_array_equal(a.h, b.h)
        else:
            assert not a.fallback
            assert a.engine == "interior point"
