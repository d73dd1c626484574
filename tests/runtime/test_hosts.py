"""Hosts: whatever process, thread or setting it is called from, there is an answer or a named error, and no trace."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import sys
import threading

import numpy as np
import pytest
import sklearn.cluster  # noqa: F401 -- its OpenMP library has a number of threads of its own
import torch
from threadpoolctl import threadpool_info, threadpool_limits

import unrelu
from hosts import changed, default_device, default_dtype, flushed_subnormals, settings
from tests.support import random_network
from unrelu.certification import certificate, certifying
from unrelu.certification.certified_chain import chain_of
from unrelu.errors import HostError
from unrelu.methods import METHODS
from unrelu.runtime.host import computing, flush_subnormals, in_threads, is_on_one_thread

# Seconds that a thread waits for another: only a hang takes so long.
PATIENCE = 900.0
NETWORK = random_network((3, 8, 20), bias=True)
Y = NETWORK(np.random.default_rng(0).normal(size=(2, 3))) + 0.01
SETTINGS = {
    "autocast": functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "default device": functools.partial(default_device, "meta"),
    "a device context": functools.partial(torch.device, "meta"),
    "float64": functools.partial(default_dtype, torch.float64),
    "float16": functools.partial(default_dtype, torch.float16),
    "floating-point errors": functools.partial(np.errstate, all="raise"),
    "subnormals flushed": flushed_subnormals,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_pytorch_change_no_bit(setting, dtype):
    network = NETWORK.to(dtype)
    plain = unrelu.invert(network, Y, noise="uniform:0.02", seed=1)
    with SETTINGS[setting]():
        found = unrelu.invert(network, Y, noise="uniform:0.02", seed=1)
    for name in ("z", "reconstruction", "fun", "status", "rank", "p_value"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))


# --- thread limits ----------------------------------------------------------------------------------------------------


def test_blas_is_on_one_thread_inside_and_as_before_outside():
    def counts():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    with threadpool_limits(2, user_api="blas"):
        before = counts()
        with computing(one_thread=True):
            assert set(counts()) == {1}
        assert counts() == before
        with pytest.raises(ZeroDivisionError), computing(one_thread=True):
            raise ZeroDivisionError
        assert counts() == before


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(2, user_api="blas"):
        yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_overlapping_calls_restore_the_threads(two_threads, first_ends_first):
    """Of two threads, the first of which changes what is the process's, either may end last."""
    before, inside = settings(), threading.Event()
    go_on, own = threading.Event(), []

    def other():
        with computing(one_thread=True):
            own.append(torch.get_num_threads())
            inside.set()
            go_on.wait(PATIENCE)
            own.append(torch.get_num_threads())
        own.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    with computing(one_thread=True):
        thread.start()
        inside.wait(PATIENCE)
        if not first_ends_first:
            go_on.set()
            thread.join()
        assert torch.get_num_threads() == 1
        assert {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"} == {1}
    go_on.set()
    thread.join()
    assert own == [1, 1, 2]
    assert changed(before) == []


def test_threads_that_are_started_inside_are_limited(two_threads):
    with computing(one_thread=True):
        assert list(in_threads(lambda _: (torch.get_num_threads(), is_on_one_thread()), range(4), 2)) == [(1, True)] * 4
    assert list(in_threads(lambda _: (torch.get_num_threads(), is_on_one_thread()), range(4), 2)) == [(2, False)] * 4


# --- subnormal numbers ------------------------------------------------------------------------------------------------


def kept() -> list[bool]:
    """Whether each of PyTorch's threads keeps subnormal numbers, here, in a convolution and in a derivative."""
    with torch.enable_grad():
        x = torch.full((2, 4, 256, 256), 1e-20, requires_grad=True)
        half = 1e-20 * torch.nn.functional.conv2d(x, torch.eye(4)[:, :, None, None])
        (slope,) = torch.autograd.grad(half.sum(), x, 1e-20 * torch.ones(()))
    return [sys.float_info.min * 0.5 > 0, *((part != 0).all().item() for a in (half, slope) for part in a.flatten(1))]


def test_subnormals_are_flushed_inside_by_all_threads_of_pytorch_and_as_before_outside(two_threads):
    assert all(kept())
    with computing():
        assert not any(kept())
        with computing(one_thread=True):
            assert not any(kept())
        with flush_subnormals(False):
            assert all(kept())
        assert not any(kept())
    assert all(kept())
    with pytest.raises(ZeroDivisionError), computing():
        raise ZeroDivisionError
    assert all(kept())


def test_a_processor_that_cannot_flush_subnormals_keeps_them(monkeypatch):
    monkeypatch.setattr(torch, "set_flush_denormal", lambda flush: False)
    with computing():
        assert all(kept())
        assert NETWORK(np.zeros(3)).shape == (20,)


@pytest.mark.parametrize("host", [contextlib.nullcontext, flushed_subnormals])
def test_certificates_are_proved_and_verified_with_subnormals(monkeypatch, host):
    """Their chains are compared exactly, and their bounds rounded outwards by the smallest subnormal number."""
    seen = []

    def spied(*args):
        seen.append(sys.float_info.min * 0.5)
        return chain_of(*args)

    monkeypatch.setattr(certifying, "chain_of", spied)
    monkeypatch.setattr(certificate, "chain_of", spied)
    with host():
        found = unrelu.certify(NETWORK, Y[0], np.zeros(3), max_nodes=1, box=False)
        assert found.verify(NETWORK, Y[0])
    assert seen == [sys.float_info.min * 0.5] * 2


# --- the user's own errors --------------------------------------------------------------------------------------------


class Mine(Exception):
    """An error of the user's."""


@pytest.mark.parametrize("error", [Mine("mine"), KeyboardInterrupt(), StopIteration(), RuntimeError("mine")], ids=repr)
@pytest.mark.parametrize("method", METHODS)
def test_what_a_callback_raises_comes_out_unchanged(method, error):
    def callback(progress):
        raise error

    before = settings()
    with pytest.raises(type(error)) as raised:
        unrelu.invert(NETWORK, Y, method, callback=callback)
    assert raised.value is error
    assert changed(before) == []
    assert not is_on_one_thread()


# --- what cannot work -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use 'spawn'",
        "Unable to handle autograd's threading in combination with fork-based multiprocessing. See https://...",
    ],
)
def test_a_gpu_that_the_parent_of_a_fork_used_is_named(said):
    with pytest.raises(HostError, match=r"forked process.*'spawn'"), computing():
        raise RuntimeError(said)


def test_a_daemon_cannot_start_processes(monkeypatch, tmp_path):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with pytest.raises(HostError, match=r"is a daemon.*pass workers=1"):
        unrelu.run(NETWORK, Y, tmp_path / "out", "lm", chunk=1, workers=2)
    assert not (tmp_path / "out").exists()
    assert unrelu.run(NETWORK, Y, tmp_path / "out", "lm", chunk=1).finished
