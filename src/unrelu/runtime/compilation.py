"""Compilation of kernels by Numba before their first use. If it takes time, a message tells the user."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from functools import cache, partial
from logging import getLogger
from typing import Any

import numba

from unrelu.runtime.host import forkable_lock
from unrelu.runtime.run_control import standing_still

# Sums may be reordered and multiply-adds fused, but NaN, infinities and division follow IEEE.
_SUMS = {"reassoc", "contract", "nsz", "arcp"}
_njit: Any = partial(numba.njit, nogil=True, error_model="numpy", no_cfunc_wrapper=True, fastmath=_SUMS)


def kernel(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function to run without the GIL, and cache it on disk if there is a folder for that."""
    try:
        return _njit(cache=True, **options)(function)
    except RuntimeError:
        # Numba finds no folder that it may write to. :func:`compile_by` tells the user.
        return _njit(**options)(function)


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function that only compiled functions call. It has no Python wrapper: a call from Python would crash.

    For a small function, the wrapper takes a quarter of the compilation time.
    """
    return kernel(function, no_cpython_wrapper=True, **options)


def inlined(function: Callable[..., Any]) -> Any:
    """Inline a function into the only function that calls it.

    LLVM optimises a function without inlining on its own, and again with each direct or indirect caller.
    """
    return jit(function, inline="always")


_LOG = getLogger("unrelu")
# Loading kernels from the cache takes a third of a second; only a longer time is worth a message.
_PATIENCE = 1.0
_COMPILING = "unrelu compiles its kernels before their first use, which takes some seconds; "
_KEPT, _LOST = "they are kept", "there is no folder to keep them in: set NUMBA_CACHE_DIR to one that can be written"

# Held while compiling: a process forked at that time would wait for the compiler forever.
_lock = forkable_lock()
_compiled: set[str] = set()


@cache
def _announce(message: str) -> None:
    """Tell the user that kernels are compiled, once in a process."""
    _LOG.warning(message)


def compile_by(run: Callable[[], None], folder: str | None, what: str) -> None:
    """Compile or load the kernels that ``run`` calls, once in a process.

    Args:
        run: solves a small problem, which calls every kernel.
        folder: Numba's cache of these kernels; None if Numba found no place for a cache.
        what: the name of these kernels. Kernels of the same name are compiled once.
    """
    with _lock:
        if what in _compiled:
            return
        message = threading.Timer(_PATIENCE, _announce, [_COMPILING + (_KEPT if folder else _LOST)])
        message.daemon = True
        message.start()
        # Numba creates so many objects that the garbage collector would scan the whole memory again and again.
        collecting = gc.isenabled()
        gc.disable()
        try:
            with standing_still():
                run()
        finally:
            message.cancel()
            if collecting:
                gc.enable()
        _compiled.add(what)
