"""One thread for small linear algebra.

Inverting a network is a long row of small factorisations and convolutions. Splitting one of them over the cores gains
nothing, and the threads' waiting for each other costs a factor of 50 when another process wants a core. What can be
worked on side by side is observations, not matrices: :func:`in_threads`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

from unrelu.affine import Dense
from unrelu.network import Network

__all__ = ["cores", "in_threads", "one_blas_thread", "small", "suitable_threads"]

Item = TypeVar("Item")
Result = TypeVar("Result")

# Entries of a dense matrix, and outputs of any layer, from which more than one thread is worth its while.
_LARGE_MATRIX = 4_000_000
_LARGE_OUTPUT = 2**16


def small(network: Network) -> bool:
    """Whether no layer is worth more than one thread."""
    return all(
        layer.n_out < _LARGE_OUTPUT
        and (layer.n_in * layer.n_out < _LARGE_MATRIX or not any(isinstance(s, Dense) for s in layer.affine.steps))
        for layer in network.layers
    )


@contextmanager
def suitable_threads(network: Network) -> Iterator[None]:
    """Run BLAS and PyTorch on one thread for networks of small layers, as they are for others; restored after."""
    if not small(network):
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with one_blas_thread():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep the BLAS libraries on one thread; restored after."""
    with _libraries().limit(limits=1, user_api="blas"):
        yield


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Generator[Result, None, None]:
    """``work`` of every item, in order, on so many threads; each sees the caller's context variables.

    Items are begun as threads become free. Where the caller stops iterating, what has begun is finished and the rest is
    not begun.
    """
    if threads <= 1 or len(items) <= 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        futures = [pool.submit(copy_context().run, work, item) for item in items]
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


@cache
def _libraries() -> ThreadpoolController:
    """The BLAS libraries loaded in this process, looked up once."""
    return ThreadpoolController()
