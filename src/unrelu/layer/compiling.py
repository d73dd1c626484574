"""Compiling the kernels before their first use, with a word to the user if it takes time."""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from unrelu.host import forkable_lock
from unrelu.layer.central_largest import central_largest
from unrelu.layer.central_sum import central_sum
from unrelu.layer.dense import ROUTINES
from unrelu.layer.exchange import exchange, invert_basis
from unrelu.layer.start import least_squares_point

__all__ = ["compile_kernels", "with_notice"]

_LOG = logging.getLogger("unrelu")
# Loading what is cached on disk takes a third of a second; only what takes longer is worth a message.
_PATIENCE = 1.0
_MESSAGE = "unrelu is compiling its kernels: up to 15 seconds, once for each installation"
_EVERY_TIME = (
    "unrelu is compiling its kernels: up to 15 seconds in every process, as there is no folder to keep them in; "
    "set NUMBA_CACHE_DIR to one that can be written"
)

# Held while compiling: a child that inherits a compiler at work would wait for it forever.
_lock = forkable_lock()


def compile_kernels(norm: str) -> None:
    """Compile, or load from the cache beside the installed files, what the programs of a norm run.

    Says so through the logger "unrelu", at level WARNING, if it takes more than a second. A cache with damaged files is
    made anew.
    """
    with _lock:
        _once(norm)


@cache
def _once(norm: str) -> None:
    with_notice(exchange, lambda: _run(norm))


def with_notice(kernel: Any, run: Callable[[], None]) -> None:
    """Run something that compiles ``kernel`` and others, with the message if that takes long."""
    with _lock:
        _noticed(kernel.stats.cache_path, run)


def _noticed(folder: str, run: Callable[[], None]) -> None:
    message = threading.Timer(_PATIENCE, _LOG.warning, [_MESSAGE if folder else _EVERY_TIME])
    message.daemon = True
    message.start()
    try:
        run()
    except (EOFError, pickle.UnpicklingError):
        # A process that was killed, or a full disk, leaves half a file.
        for path in Path(folder).glob("*.nb[ci]"):
            path.unlink(missing_ok=True)
        run()
    finally:
        message.cancel()


def _run(norm: str) -> None:
    """A program of three rows and one unknown."""
    matrix, r, one, zero = np.ones((3, 1)), np.array([-1.0, 0.5, 1.0]), np.ones(3), np.zeros(3)
    lower, upper = np.zeros(1), np.ones(1)
    column, basis, edges = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros((1, 1))
    least_squares_point(ROUTINES, matrix, r, one, one, lower, upper)
    if norm == "linf":
        central_largest(ROUTINES, matrix, r, one, one, one, lower, upper, 1.0, 2)
    else:
        central_sum(ROUTINES, matrix, r, one, -one, one, 1.0, lower, upper, 1.0, 2)
    invert_basis(ROUTINES, matrix, column, basis, edges)
    shift, lo, hi, y = np.append(r, 0.0), np.append(-one, 0.0), np.append(one, 0.0), np.zeros(4)
    state = np.zeros(3, np.int64)
    exchange(ROUTINES, matrix, shift, lo, hi, y.copy(), column, zero[:1], basis, edges, y, state, 9)
