"""Compilation of the kernels before their first use, announced to the user if it takes time."""

from __future__ import annotations

import gc
import math
import pickle
import threading
from collections.abc import Callable
from functools import partial
from logging import getLogger
from pathlib import Path

import numpy as np

from unrelu._version import __version__
from unrelu.lp.dense_linear_algebra import ROUTINES
from unrelu.lp.exchange_simplex import complete_basis, exchange, invert_basis
from unrelu.lp.interior_point import largest_violation_steps, least_squares_point, violation_sum_steps
from unrelu.lp.row_simplex import dual_simplex, primal_simplex
from unrelu.runtime.host import forkable_lock
from unrelu.runtime.work_clock import standing_still

_LOG = getLogger("unrelu")
# Loading kernels from the cache takes a third of a second; only a longer time is worth a message.
_PATIENCE = 1.0
_MESSAGE = (
    "unrelu compiles its kernels before their first use, which takes some seconds; they are kept for this installation"
)
_EVERY_TIME = (
    "unrelu compiles its kernels, which takes some seconds in every process, as there is no folder to keep them in; "
    "set NUMBA_CACHE_DIR to one that can be written"
)
# An empty file beside the compiled kernels, which says that the message has been shown.
_NOTE = f"compiling-{__version__}.said"

# Held while compiling: a process forked at that time would wait for the compiler forever.
_lock = forkable_lock()
_compiled: set[str] = set()
_said = False


def compile_kernels(norm: str) -> None:
    """Compile the kernels for the programs of a norm, or load them from the cache beside the installed files.

    If this takes more than a second, the logger "unrelu" says so at level WARNING, once for each installation. The
    clock of time limits stands still. Damaged files of the cache are replaced.
    """
    folder = exchange.stats.cache_path
    compile_by(partial(_run_interior_point, norm), folder, norm)
    compile_by(_run_exchange, folder, "exchange")


def compile_simplex() -> None:
    """Compile or load the dual and the primal simplex."""
    compile_by(_run_simplex, exchange.stats.cache_path, "simplex")


def compile_by(run: Callable[[], None], folder: str | None, what: str) -> None:
    """Compile or load the kernels that ``run`` calls, once in a process.

    Args:
        run: solves a small problem, which calls every kernel.
        folder: Numba's cache of these kernels, None if it found no place for one.
        what: the name of these kernels.
    """
    with _lock:
        if what in _compiled:
            return
        message = threading.Timer(_PATIENCE, _say, [folder])
        message.daemon = True
        message.start()
        # Numba makes so many objects that the collector would look at everything in memory again and again.
        collecting = gc.isenabled()
        gc.disable()
        try:
            with standing_still():
                _repaired(run, folder)
        finally:
            message.cancel()
            if collecting:
                gc.enable()
        _compiled.add(what)


def _repaired(run: Callable[[], None], folder: str | None) -> None:
    """Call ``run``; again without the files of the cache, if a killed process or a full disk has damaged them."""
    try:
        run()
    except (EOFError, pickle.UnpicklingError):
        for path in Path(folder or "").glob("*.nb[ci]"):
            path.unlink(missing_ok=True)
        run()


def _say(folder: str | None) -> None:
    """Say that kernels are compiled, unless it was said in this process or in this installation."""
    global _said  # noqa: PLW0603 -- once a process
    if not _said and (folder is None or _is_new(Path(exchange.stats.cache_path or folder))):
        _LOG.warning(_EVERY_TIME if folder is None else _MESSAGE)
    _said = True


def _is_new(folder: Path) -> bool:
    """Whether nothing was said in this installation before, whose kernels are in ``folder``; from now on it was."""
    try:
        (folder / _NOTE).touch(exist_ok=False)
    except OSError as error:
        return not isinstance(error, FileExistsError)
    return True


def _run_interior_point(norm: str) -> None:
    """Approach the optimum of a program of three rows and one unknown."""
    matrix, r, one = np.ones((3, 1)), np.array([-1.0, 0.5, 1.0]), np.ones(3)
    lower, upper = np.zeros(1), np.ones(1)
    least_squares_point(ROUTINES, matrix, r, one, one, lower, upper)
    if norm == "linf":
        largest_violation_steps(ROUTINES, matrix, r, one, one, one, lower, upper, 1.0, 2, -1.0)
    else:
        violation_sum_steps(ROUTINES, matrix, r, one, -one, one, 1.0, lower, upper, 1.0, 2)


def _run_exchange() -> None:
    """Solve that program, from the basis of its first row."""
    matrix, r, one, zero = np.ones((3, 1)), np.array([-1.0, 0.5, 1.0]), np.ones(3), np.zeros(3)
    column, basis, edges = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros((1, 1))
    complete_basis(matrix, column, np.zeros(1, np.int64), basis)
    invert_basis(ROUTINES, matrix, column, basis, edges)
    shift, lo, hi, y = np.append(r, 0.0), np.append(-one, 0.0), np.append(one, 0.0), np.zeros(4)
    state = np.zeros(3, np.int64)
    exchange(ROUTINES, matrix, shift, lo, hi, y.copy(), column, zero[:1], basis, edges, y, state, 9)


def _run_simplex() -> None:
    """Solve min x subject to 1 <= x <= 2."""
    rows, norms, hard = np.array([[1.0]]), np.ones(1), np.full(1, math.inf)
    lo, hi, cost = np.ones(1), np.full(1, 2.0), np.ones(1)
    basis, upper, state = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=bool), np.zeros(1, dtype=np.int8)
    edges, y, x, r = np.zeros((1, 1)), np.zeros(1), np.zeros(1), np.zeros(1)
    ray = np.zeros(2)
    dual_simplex(
        ROUTINES, rows, norms, lo, hi, hard, hard, cost, basis, upper, state, edges, True, y, x, r, ray, math.inf, 9
    )
    primal_simplex(ROUTINES, rows, norms, lo, hi, cost, basis, upper, edges, True, y, x, r, 9)
