"""Computing chunks in this process, in local worker processes, or in any ``concurrent.futures.Executor``."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from functools import lru_cache, partial
from itertools import chain

from unrelu.errors import OptionError, SolverError, UnreluError
from unrelu.runs.chunk_work import Chunk, Outcome, Work
from unrelu.runtime.interrupts import fresh_processes, without_interrupts

# Chunks submitted for each worker: one that it computes, and one that waits.
_AHEAD = 2
# How often workers may die before a chunk is finished.
_LIVES = 3
# Seconds after which the wait for a chunk begins anew: a signal that arrives just before a wait does not end it.
_WAIT = 1.0
_KEPT = "what is finished is kept: run it again"


def computed(
    work: Work, chunks: Iterable[Chunk], workers: int, executor: Executor | None, stopped: Callable[[], bool]
) -> Iterator[tuple[Chunk, Outcome] | str]:
    """Yield every chunk with its outcome, in any order, and warnings as texts.

    The work is sent with every chunk, as bytes that a worker unpacks once. Computing a chunk of hundreds of
    observations costs far more than sending a network. ``chunks`` are taken from the iterable when a worker needs one,
    so few are in memory. If a local process dies, all are started again, and the unfinished chunks are resubmitted.

    Args:
        work: the work, the same for all chunks.
        chunks: the chunks to compute.
        workers: the number of local processes; 1 computes here. With an executor, how many chunks it computes at once.
        executor: an executor of the user, if any.
        stopped: once it returns True, no further chunk is submitted; the submitted ones are finished.

    Raises:
        OptionError: the work cannot be sent to other processes.
        SolverError: workers die again and again.
    """
    source = iter(chunks)
    if executor is None and workers == 1:
        while not stopped() and (chunk := next(source, None)) is not None:
            yield chunk, work.compute(chunk)
        return
    submitted, lives = partial(_compute, _pickled(work)), _LIVES
    while True:
        pending: dict[Future[Outcome], Chunk] = {}
        try:
            with nullcontext(executor) if executor else fresh_processes(workers) as pool:
                while True:
                    while len(pending) < workers * _AHEAD and not stopped() and (chunk := next(source, None)):
                        pending[_handed_out(pool, submitted, chunk)] = chunk
                    if not pending:
                        return
                    for future in wait(pending, _WAIT, FIRST_COMPLETED).done:
                        yield pending[future], _result(future, pending[future])
                        del pending[future]
                        lives = _LIVES
        except BrokenProcessPool as error:
            lives -= 1
            if executor is not None or not lives:
                raise SolverError(
                    f"worker processes were killed {_LIVES - lives} times without finishing a chunk: memory ran out, "
                    "or a script that starts them has no if __name__ == '__main__'; what is finished is kept: run it "
                    "again, perhaps with fewer workers or smaller chunks"
                ) from error
            dead = list(pending.values())
            source = chain(dead[1:], dead[:1], source)  # the chunk that may have killed its worker comes last
        yield "a worker process was killed; its chunks are computed again"


def _handed_out(pool: Executor, submitted: Callable[[Chunk], Outcome], chunk: Chunk) -> Future[Outcome]:
    """Submit a chunk and return its future. If the pool is broken, the future has failed."""
    try:
        with without_interrupts():  # a process that starts now blocks interrupts for good
            return pool.submit(submitted, chunk)
    except BrokenExecutor as error:
        lost: Future[Outcome] = Future()
        lost.set_exception(error)
        return lost
    except RuntimeError as error:
        raise OptionError(f"executor= takes no chunk: {error}") from error


def _result(future: Future[Outcome], chunk: Chunk) -> Outcome:
    """Return the outcome of a chunk. Turn an executor's own errors into SolverErrors."""
    try:
        return future.result()
    except (UnreluError, BrokenProcessPool, MemoryError):
        raise
    except (Exception, CancelledError) as error:
        raise SolverError(f"chunk {chunk.index} was lost by its executor: {error!r}; {_KEPT}") from error


def _pickled(work: Work) -> bytes:
    try:
        return pickle.dumps(work)
    except Exception as error:  # objects of the user raise errors of any kind
        raise OptionError(
            f"the network, noise= or operator= cannot be sent to other processes ({error}); define what it is made of "
            "in a module that can be imported, pass the operator as a matrix, or pass workers=1"
        ) from error


def _compute(content: bytes, chunk: Chunk) -> Outcome:
    """Compute a chunk on a worker."""
    return _unpacked(content).compute(chunk)


@lru_cache(maxsize=1)
def _unpacked(content: bytes) -> Work:
    work: Work = pickle.loads(content)  # made by the run that this process works for
    return work
