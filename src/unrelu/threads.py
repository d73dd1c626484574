"""One thread for small linear algebra.

Inverting a network is a long row of small factorisations and convolutions. Splitting one of them over the cores gains
nothing, and the threads' waiting for each other costs a factor of 50 when another process wants a core. What can be
worked on side by side is observations, not matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController

from unrelu.affine import Dense
from unrelu.network import Network

__all__ = ["suitable_threads"]

# Entries of a dense matrix, and outputs of any layer, from which more than one thread is worth its while.
_LARGE_MATRIX = 4_000_000
_LARGE_OUTPUT = 2**16


@contextmanager
def suitable_threads(network: Network) -> Iterator[None]:
    """Run BLAS and PyTorch on one thread for networks of small layers, as they are for others; restored after."""
    small = all(
        layer.n_out < _LARGE_OUTPUT
        and (layer.n_in * layer.n_out < _LARGE_MATRIX or not any(isinstance(s, Dense) for s in layer.affine.steps))
        for layer in network.layers
    )
    if not small:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _libraries().limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _libraries() -> ThreadpoolController:
    """The BLAS libraries loaded in this process, looked up once."""
    return ThreadpoolController()
