"""The settings of process and thread for our computations, independent of the user's settings of PyTorch.

Every public function that computes enters :func:`computing`, the only place that makes these settings.

Inverting a network is a long sequence of small factorisations and convolutions. Splitting one of them over the cores
gains nothing. It is far slower when another process needs a core, because the threads wait for each other. So linear
algebra has one thread, and observations are processed in parallel instead of matrices: :func:`in_threads`.
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import sys
import threading
from collections import Counter, abc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar, copy_context
from functools import cache
from typing import Any, TypeVar

import numpy as np
import scipy.linalg  # noqa: F401 -- its BLAS must be loaded before the libraries are looked up
import torch
from threadpoolctl import ThreadpoolController

from unrelu.errors import HostError

# NumPy's defaults. Our code detects overflows itself, so they must not raise even if the user's settings say so.
_ERRORS: dict[str, Any] = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
# Beginnings of PyTorch's messages about a forked process that cannot use the state of its parent.
_OF_THE_PARENT = ("Cannot re-initialize CUDA in forked subprocess", "Unable to handle autograd's threading")
# PyTorch's message about memory that it cannot get on the CPU.
_FULL = "DefaultCPUAllocator: can't allocate memory"

# OpenMP's omp_pause_hard: free all resources.
_HARD = 2

_stop: ContextVar[threading.Event | None] = ContextVar("stop", default=None)
_alone: ContextVar[bool] = ContextVar("alone", default=False)

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def computing(one_thread: bool = False) -> Iterator[None]:
    """The settings for our computations, as a context or a decorator; all are restored afterwards.

    For the calling thread: no autocast, no inference mode, gradients allowed, the CPU as default device, NumPy's
    floating-point errors not raised, subnormal numbers flushed to zero. The default dtype is shared by the process, so
    our code always states its own. For the process: products in single precision keep all their digits.

    A forked process always uses one thread for linear algebra. Its copy of OpenMP's pool has none of the parent's
    threads and would wait for them forever.

    Args:
        one_thread: run BLAS and PyTorch on one thread.

    Raises:
        HostError: PyTorch cannot compute this in a forked process, or the memory is full.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
            stack.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if not _creates_on_cpu():
            stack.enter_context(torch.device("cpu"))
        if "raise" in np.geterr().values():
            stack.enter_context(np.errstate(**_ERRORS))
        if (one_thread or os.getpid() != _first_process) and not is_on_one_thread():
            stack.enter_context(_limited())
        if torch.cuda.is_initialized() or torch.get_float32_matmul_precision() != "highest":  # type: ignore[no-untyped-call]
            stack.enter_context(_full_precision())
        stack.enter_context(flush_subnormals())
        try:
            yield
        except torch.OutOfMemoryError as error:
            said = str(error).partition("\n")[0]
            raise HostError(
                f"the memory of the device is full ({said}); invert fewer observations at once, or on the CPU"
            ) from error
        except RuntimeError as error:
            if _FULL in str(error):
                raise HostError(
                    f"the memory of this machine is too small ({error}); invert fewer observations at once"
                ) from error
            if not str(error).startswith(_OF_THE_PARENT):
                raise
            raise HostError(
                f"PyTorch cannot compute this in a forked process, as its parent has used the GPU ({error}); start "
                "processes with multiprocessing's 'spawn' or 'forkserver'"
            ) from error


@contextmanager
def flush_subnormals(flush: bool = True) -> Iterator[None]:
    """Whether this thread replaces subnormal numbers by zero: below 2^-126 in single, 2^-1022 in double precision.

    PyTorch's convolutions take up to twenty times as long where numbers are subnormal. With ``flush=False``, they are
    kept: for bounds with outward rounding, and for exact changes of units. A processor that cannot flush them keeps
    them.

    The mode holds for this thread and the pool of threads that PyTorch's operations use here. It is restored
    afterwards. Other threads are not affected, but threads that are started meanwhile begin in it.
    """
    if _flushes() == flush:
        yield
        return
    several = torch.get_num_threads() > 1
    try:
        torch.set_flush_denormal(flush)
        if several:
            _end_pool()
        yield
    finally:
        torch.set_flush_denormal(not flush)
        if several:
            _end_pool()


def _flushes() -> bool:
    """Whether this thread replaces subnormal numbers by zero; PyTorch cannot be asked."""
    return sys.float_info.min * 0.5 == 0.0


def _end_pool() -> None:
    """End the OpenMP threads of this thread. The next parallel operation starts others, in the mode of this thread.

    GCC's OpenMP needs this. The others (LLVM's and Intel's) pass on the mode with every parallel operation.
    """
    openmp = _openmp()
    if hasattr(openmp, "omp_pause_resource_all") and not hasattr(openmp, "__kmpc_fork_call"):
        openmp.omp_pause_resource_all(_HARD)


@cache
def _openmp() -> ctypes.CDLL:
    """PyTorch's binary, in which the functions of its OpenMP are found."""
    return ctypes.CDLL(importlib.import_module("torch._C").__file__)


def forkable_lock() -> threading.RLock:
    """A lock that is acquired before a fork: otherwise a child could inherit it locked, and a half-made change."""
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


def is_on_one_thread() -> bool:
    """Whether this thread is within :func:`computing` on one thread."""
    return _one_thread.holds_here()


# --- work in parallel -------------------------------------------------------------------------------------------------


def cores() -> int:
    """The number of cores that this process may use; 1 within :func:`on_one_core`."""
    if _alone.get():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def on_one_core() -> Iterator[None]:
    """Process observations one after the other, because the other cores have workers of their own."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], threads: int
) -> abc.Generator[Result, None, None]:
    """Yield ``work(item)`` for all items in order, computed in ``threads`` threads.

    The threads have the caller's context variables and thread limits. If the caller stops iterating, no further item
    is begun, and :func:`abandoned` tells the running ones.
    """
    if threads <= 1 or len(items) <= 1:
        yield from map(work, items)
        return
    stop, limited = threading.Event(), is_on_one_thread()

    def run(item: Item) -> Result:
        _stop.set(stop)
        with computing(limited):
            return work(item)

    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        futures = [pool.submit(copy_context().run, run, item) for item in items]
        try:
            for future in futures:
                yield future.result()
        finally:
            stop.set()
            for future in futures:
                future.cancel()


def abandoned() -> bool:
    """Whether the result of this thread is no longer needed, as the caller was interrupted or stopped iterating."""
    stop = _stop.get()
    return stop is not None and stop.is_set()


# --- settings of the process ------------------------------------------------------------------------------------------


class Shared:
    """A process-wide setting shared by overlapping calls: the first call makes it, the last one restores it.

    A forked process keeps only the calls of its one thread.
    """

    def __init__(self, setting: Callable[[], AbstractContextManager[Any]]) -> None:
        self._setting, self._lock = setting, forkable_lock()
        self._made, self._value = ExitStack(), None
        self._calls: Counter[int] = Counter()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def holds_here(self) -> bool:
        """Whether this thread is inside."""
        return threading.get_ident() in self._calls

    @contextmanager
    def __call__(self) -> Iterator[Any]:
        """Enter the setting; yield the value of its context."""
        me = threading.get_ident()
        try:
            with self._lock:
                first = not self._calls
                self._calls[me] += 1  # counted before the setting is made, so that it is restored after an interrupt
                if first:
                    self._value = self._made.enter_context(self._setting())
            yield self._value
        finally:
            with self._lock:
                self._calls[me] -= 1
                self._leave()

    def _leave(self) -> None:
        self._calls = +self._calls
        if not self._calls:
            self._made.close()

    def _after_fork(self) -> None:
        me = threading.get_ident()
        self._calls = Counter({me: self._calls[me]})
        self._leave()


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Run every BLAS and PyTorch on one thread in this process; yield PyTorch's previous number of threads."""
    before = _torch_threads()
    libraries = _libraries().select(user_api="blas").lib_controllers
    counts = [library.num_threads for library in libraries]
    try:
        for library in libraries:
            _set_threads(library, 1)
        torch.set_num_threads(1)
        yield before
    finally:
        for library, count in zip(libraries, counts, strict=True):
            _set_threads(library, count)
        torch.set_num_threads(before)


@contextmanager
def _limited() -> Iterator[None]:
    """Run the linear algebra of this thread, and of threads that it starts, on one thread.

    OpenMP has a number of threads for each calling thread. PyTorch has one for the process, which MKL and new threads
    use. When PyTorch sets it, it also sets OpenMP's number for the calling thread.
    """
    own = process = torch.get_num_threads()
    # The OpenMP libraries that follow PyTorch. Others, such as that of scikit-learn, have their own number.
    openmp = _libraries().select(user_api="openmp").lib_controllers
    followers = [library for library in openmp if library.num_threads == own]
    try:
        with _one_thread() as process:
            torch.set_num_threads(1)
            yield
    finally:
        # A thread that first calls PyTorch while another thread is limited gets the number 1 here.
        for library in followers:
            library.set_num_threads(own if own > 1 else process)


@contextmanager
def _single_precision() -> Iterator[None]:
    """Switch TensorFloat-32 and bfloat16 off, which PyTorch may compute in in place of single precision.

    On a GPU, convolutions do so by default. Their 10 or 7 binary digits, in place of 23, are not what searches and
    their tolerances take single precision for.
    """
    libraries: Any = torch.backends
    kinds = (libraries.cuda.matmul, libraries.cudnn.conv, libraries.cudnn.rnn, libraries.mkldnn.matmul)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def _set_threads(library: Any, count: int) -> None:
    """Set the number of threads of a BLAS library, even if another thread set it before."""
    # threadpoolctl silently ignores changes of OpenBLAS by all threads but one, until this one is cleared.
    free = getattr(library, "clear_controlling_thread", lambda force: None)
    free(force=True)
    library.set_num_threads(count)
    free(force=True)


def _creates_on_cpu() -> bool:
    try:
        return torch.empty(0).device.type == "cpu"  # three times as fast as get_default_device
    except RuntimeError:  # a GPU that a forked process cannot use
        return False


def _began_as_fork() -> bool:
    """Whether this process was forked, possibly before this module was imported."""
    process = multiprocessing.current_process()
    method = getattr(process, "_start_method", None) or multiprocessing.get_start_method(allow_none=True)
    return multiprocessing.parent_process() is not None and method == "fork"


def _torch_threads() -> int:
    """PyTorch's number of threads for the process, which the main thread and new threads have."""
    if threading.current_thread() is threading.main_thread():
        return torch.get_num_threads()
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    try:
        thread.start()
    except RuntimeError:  # the interpreter is shutting down
        return torch.get_num_threads()
    thread.join()
    return found[0]


@cache
def _libraries() -> ThreadpoolController:
    """The BLAS and OpenMP libraries loaded in this process, looked up once."""
    return ThreadpoolController()


_one_thread = Shared(_one_thread_each)
_full_precision = Shared(_single_precision)
# The process id of the process that was not forked; 0 if this module was imported in a fork.
_first_process = 0 if _began_as_fork() else os.getpid()
