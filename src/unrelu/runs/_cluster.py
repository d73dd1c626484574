"""Chunks on a Dask cluster, whose workers may die and join. Importing it needs Dask."""

from __future__ import annotations

import pickle
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from distributed import Client, KilledWorker, LocalCluster, WorkerPlugin, get_worker, wait

from unrelu._version import __version__
from unrelu.errors import InputError, OptionError, SolverError
from unrelu.runs._local_workers import AHEAD, Engine, pickled
from unrelu.runs.chunk_work import Outcome, Task, Work
from unrelu.runtime.interrupts import without_interrupts

# Seconds to wait for a scheduler to answer.
_PATIENCE = 30
# Seconds to wait for a worker where there is none, which is longer than a queue or a nanny takes to start one; and how
# often that is said.
_WITHOUT_WORKERS, _REMINDER = 300, 10

_KEPT = "what is finished is kept: start the cluster again, then the run"


@contextmanager
def on_cluster(work: Work, scheduler: Any) -> Iterator[Engine]:
    """An engine on the workers of a scheduler: an address, "local:N", or a ``distributed.Client``.

    Each worker gets the work once, when it joins, reads the observations and writes the results by itself; what travels
    for a chunk is its index and its record. Paths in the work have to mean the same on all workers. Dask gives the
    chunks of workers that die to others.
    """
    content = pickled(work, "run without a cluster")
    name = f"unrelu-{uuid.uuid4().hex}"
    with ExitStack() as stack:
        client = _client(scheduler, stack)
        try:
            client.register_plugin(Bringer(content), name=name)
        except Exception as error:  # of a worker, whatever it may be
            raise SolverError(f"the workers of {scheduler!r} cannot take part: {error}") from error
        stack.callback(_forget, client, name)
        yield lambda tasks, stopping: _through(client, name, tasks, stopping)


def _forget(client: Any, name: str) -> None:
    """Let the workers forget the work, where the cluster is still there."""
    with suppress(Exception):  # of connections, of many kinds; what ended the run is the error to be told
        client.unregister_worker_plugin(name)


class Bringer(WorkerPlugin):
    """Brings the work to every worker."""

    def __init__(self, content: bytes) -> None:
        self.content, self.version = content, __version__
        self.work: Work | None = None
        self.reason = ""

    def setup(self, worker: Any) -> None:
        """On a worker: unpack what the client has packed."""
        if self.version != __version__:
            self.reason = f"it has unrelu {__version__}, the client {self.version}; install the same"
            return  # Dask would go on to send it chunks all the same
        self.work = pickle.loads(self.content)


class ForeignWorker(Exception):
    """A worker cannot take part. Its arguments: why, and the address of the worker."""


def _client(scheduler: Any, stack: ExitStack) -> Any:
    if isinstance(scheduler, Client):
        return scheduler
    if not isinstance(scheduler, str):
        raise OptionError(f"scheduler={scheduler!r} must be an address such as tcp://host:8786, local:N, or a Client")
    kind, _, number = scheduler.partition(":")
    if kind == "local":
        if not number.isdecimal() or int(number) < 1:
            raise OptionError(f"scheduler={scheduler!r}: write local:N with the number of processes, such as local:2")
        # Its working files belong neither to the results nor into the current folder.
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="unrelu-dask-"))
        # A Ctrl-C is for this process; threads and processes that are started here are never told.
        with without_interrupts():
            cluster = LocalCluster(
                n_workers=int(number), threads_per_worker=1, dashboard_address=":0", local_directory=scratch
            )
        return stack.enter_context(Client(stack.enter_context(cluster)))
    try:
        return stack.enter_context(Client(scheduler, timeout=_PATIENCE))
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Dask scheduler answers at {scheduler!r}: {error}; check the address, such as tcp://host:8786, and "
            "that `dask scheduler` runs there"
        ) from error


def _through(client: Any, name: str, tasks: Sequence[Task], stopping: threading.Event) -> Iterator[Outcome | str]:
    """The tasks as they are finished. As many are handed out as there are threads, whose number may change.

    Every few seconds without a worker it is said that there is none, so that the run can be stopped meanwhile.
    """
    waiting, chunks = deque(tasks), dict[Any, Task]()
    foreign, patience = set[str](), _WITHOUT_WORKERS
    while True:
        threads = {address: n for address, n in client.nthreads().items() if address not in foreign}
        while waiting and not stopping.is_set() and len(chunks) < AHEAD * max(sum(threads.values()), 1):
            task = waiting.popleft()
            # A chunk has effects, so it is not pure; its key is of this run, and tells the chunk in Dask's pictures.
            key, where = f"{name}-chunk-{task.chunk}-{uuid.uuid4().hex[:6]}", list(threads) if foreign else None
            # Others may have to take it where these have died.
            future = client.submit(
                _settle, name, task, key=key, pure=False, workers=where, allow_other_workers=where is not None
            )
            chunks[future] = task
        if not chunks:
            return
        try:
            future = next(iter(wait(list(chunks), timeout=_REMINDER, return_when="FIRST_COMPLETED").done))
        except CancelledError as error:
            raise SolverError(f"the scheduler of the cluster is gone; {_KEPT}") from error
        except TimeoutError:
            if client.nthreads():
                patience = _WITHOUT_WORKERS
                continue
            if stopping.is_set():
                return
            if patience <= 0:
                raise SolverError(f"the cluster has had no worker for {_WITHOUT_WORKERS} s; {_KEPT}") from None
            yield f"the cluster has no worker; waiting {patience:.0f} s for one"
            patience -= _REMINDER
            continue
        patience, task = _WITHOUT_WORKERS, chunks.pop(future)
        try:
            yield future.result()
        except ForeignWorker as error:
            reason, address = error.args
            foreign.add(address)
            if not set(client.nthreads()) - foreign:
                raise SolverError(f"no worker of the cluster can take part: {reason}") from error
            waiting.appendleft(task)
            yield f"the worker at {address} is left out: {reason}"
        except KilledWorker as error:
            raise SolverError(
                f"chunk {task.chunk} killed its workers again and again: memory ran out, or they crash on it "
                f"({error}); what is finished is kept: run it again with more memory for each worker, or smaller chunks"
            ) from error


def _settle(name: str, task: Task) -> Outcome:
    """On a worker."""
    worker = get_worker()
    bringer: Any = worker.plugins[name]
    if bringer.work is None:
        raise ForeignWorker(bringer.reason, worker.address)
    outcome: Outcome = bringer.work.settle(task)
    return outcome
