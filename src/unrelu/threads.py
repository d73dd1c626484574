"""One thread for small linear algebra.

Inverting a dense network is a long row of factorisations of small matrices. Splitting one of them over the cores gains
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

# Entries of a dense matrix from which its products are worth more than one thread.
_LARGE = 4_000_000


@contextmanager
def suitable_threads(network: Network) -> Iterator[None]:
    """Run BLAS and PyTorch on one thread for networks of small dense layers, as they are for others; restored after."""
    small = all(
        all(isinstance(step, Dense) for step in layer.affine.steps) and layer.n_in * layer.n_out < _LARGE
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
