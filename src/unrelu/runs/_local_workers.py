"""Chunks on this machine: in this process, or in one process a core."""

from __future__ import annotations

import pickle
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from unrelu.errors import OptionError, SolverError
from unrelu.runs.chunk_work import Outcome, Task, Work
from unrelu.runtime.file_writing import storing
from unrelu.runtime.interrupts import STOPS, fresh_processes, without_interrupts

# Computes tasks, and yields their outcomes in any order, and texts about failed workers. After the event is set, only
# the tasks that were handed out are finished.
Engine = Callable[[Sequence[Task], threading.Event], Iterator[Outcome | str]]

# Tasks handed out for each worker: one at work, and one that waits for it.
AHEAD = 2
# Times that workers may die with no chunk finished in between.
_LIVES = 3


def locally(work: Work, workers: int) -> Engine:
    """An engine of so many processes; of one, this one."""
    if workers == 1:
        return lambda tasks, stopping: _here(work, tasks, stopping)
    content = pickled(work, "pass workers=1")
    return lambda tasks, stopping: _in_processes(content, workers, tasks, stopping)


def pickled(work: Work, otherwise: str) -> bytes:
    """The work as bytes; ``otherwise`` is what else to do where a part of it cannot be pickled."""
    try:
        return pickle.dumps(work)
    except Exception as error:  # objects of the user's raise errors of any kind
        raise OptionError(
            f"the network or operator= cannot be sent to other processes ({error}); define what it is made of in a "
            f"module that can be imported, pass the operator as a matrix, or {otherwise}"
        ) from error


def _here(work: Work, tasks: Sequence[Task], stopping: threading.Event) -> Iterator[Outcome]:
    for task in tasks:
        if stopping.is_set():
            return
        yield work.settle(task)


def _in_processes(
    content: bytes, workers: int, tasks: Sequence[Task], stopping: threading.Event
) -> Iterator[Outcome | str]:
    """The tasks in fresh processes. If one dies, all are started again for what is left; its own chunk comes last."""
    left, lives = deque(tasks), _LIVES
    with tempfile.TemporaryDirectory(prefix="unrelu-") as scratch:
        path, needed = Path(scratch, "work"), f"{len(content) / 2**20:.0f} MiB"
        with storing(path, f"free {needed} there, set TMPDIR to another folder, or pass workers=1"):
            path.write_bytes(content)  # more than the arguments of a process can be
        while left and not stopping.is_set():
            begun: dict[Future[Outcome], Task] = {}
            try:
                with fresh_processes(min(workers, len(left)), _take, str(path)) as pool:
                    for outcome in _through(pool, workers * AHEAD, left, begun, stopping):
                        lives = _LIVES
                        yield outcome
            except BrokenProcessPool:
                lives -= 1
                dead = list(begun.values())
                left.extend([*dead[1:], *dead[:1]])
                if not lives:
                    raise SolverError(
                        f"worker processes were killed {_LIVES} times without finishing a chunk: memory ran out, or a "
                        "script that starts them has no if __name__ == '__main__'; what is finished is kept: run it "
                        "again, perhaps with fewer workers or smaller chunks"
                    ) from None
                yield "a worker process was killed; its chunks are computed again"


def _through(
    pool: ProcessPoolExecutor, most: int, left: deque[Task], begun: dict[Future[Outcome], Task],
    stopping: threading.Event,
) -> Iterator[Outcome]:  # fmt: skip
    """What becomes of the tasks, which go from ``left`` to ``begun``, so many at a time, until they are finished."""
    while begun or (left and not stopping.is_set()):
        with without_interrupts(STOPS):
            while left and len(begun) < most and not stopping.is_set():
                future = pool.submit(_settle, left[0])
                begun[future] = left.popleft()
        for future in wait(begun, return_when=FIRST_COMPLETED).done:
            outcome = future.result()
            del begun[future]
            yield outcome


_work: Work | None = None


def _take(path: str) -> None:
    """In a worker: what it will be asked to do, written by the process that started it."""
    global _work  # noqa: PLW0603 -- a process has one
    _work = pickle.loads(Path(path).read_bytes())


def _settle(task: Task) -> Outcome:
    assert _work is not None
    return _work.settle(task)
