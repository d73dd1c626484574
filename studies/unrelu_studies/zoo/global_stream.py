"""PyTorch's global generator as a random stream of a purpose, for layers that draw their first weights from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unrelu.runtime.streams import torch_stream


@contextmanager
def global_torch_stream(purpose: str, *keys: int | float | str) -> Iterator[None]:
    """Inside a ``with``, PyTorch's global generator on the CPU is :func:`torch_stream`; after it, what it was before.

    For layers, which draw their first weights from the global generator and take no other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch_stream(purpose, *keys).get_state())
        yield
