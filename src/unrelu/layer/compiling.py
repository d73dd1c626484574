"""Compiling the kernels before their first use, with a word to the user if it takes time."""

from __future__ import annotations

import logging
import threading
from functools import cache

import numpy as np

from unrelu.layer.central import central_largest, central_sum
from unrelu.layer.dense import ROUTINES
from unrelu.layer.exchange import complete_basis, exchange, invert_basis
from unrelu.layer.start import least_squares_point

__all__ = ["compile_kernels"]

_LOG = logging.getLogger("unrelu")
# Loading what is cached on disk takes a third of a second; only what takes longer is worth a message.
_PATIENCE = 1.0
_MESSAGE = "unrelu is compiling its layer kernels: about 15 seconds, once for each installation"

_lock = threading.Lock()


def compile_kernels() -> None:
    """Compile, or load from the cache beside the installed files, everything that a layer program runs.

    Says so through the logger "unrelu", at level WARNING, if it takes more than a second.
    """
    with _lock:
        _once()


@cache
def _once() -> None:
    message = threading.Timer(_PATIENCE, _LOG.warning, [_MESSAGE])
    message.daemon = True
    message.start()
    try:
        _run_all()
    finally:
        message.cancel()


def _run_all() -> None:
    """A program of three rows and one unknown through every compiled function."""
    matrix, r, one, zero = np.ones((3, 1)), np.array([-1.0, 0.5, 1.0]), np.ones(3), np.zeros(3)
    lower, upper = np.zeros(1), np.ones(1)
    column, order, basis, edges = np.zeros(1, np.int64), np.arange(4), np.zeros(1, np.int64), np.zeros((1, 1))
    least_squares_point(ROUTINES, matrix, r, one, one, lower, upper)
    central_sum(ROUTINES, matrix, r, one, -one, one, 1.0, lower, upper, 1.0, 2)
    central_largest(ROUTINES, matrix, r, one, one, one, lower, upper, 1.0, 2)
    complete_basis(matrix, column, order, basis)
    invert_basis(ROUTINES, matrix, column, basis, edges)
    shift, lo, hi, y = np.append(r, 0.0), np.append(-one, 0.0), np.append(one, 0.0), np.zeros(4)
    state = np.zeros(3, np.int64)
    exchange(ROUTINES, matrix, shift, lo, hi, y.copy(), column, zero[:1], basis, edges, y, state, 9)
