"""Host processes: everything that unrelu computes, from each kind of process, thread and setting around it.

    python fuzz/hosts.py [--quick] [--seed N] [--output FILE]

Each host runs in a process of its own, which has used PyTorch's threads before, so that one that hangs costs no other
its answer. An answer counts if it is right (codes of noiseless observations, to 1e-6) and if nothing that belongs to
the user was left changed: thread counts, modes, default dtype and device, random generators.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_info
from torch import nn

import unrelu
from unrelu_studies.kit.numbers_file import write_results

TIMES = 20
# Seconds after which a trial counts as a hang; one takes about one second on an idle core.
PATIENCE = 120.0

Trial = Callable[[], list[str]]

# The only thing that is drawn: when an inversion is interrupted.
MOMENTS = random.Random(0)

# --- what is asked of unrelu ------------------------------------------------------------------------------------------


class Branching(nn.Module):
    """A generator that is no chain of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 40)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Two branches that join."""
        h = torch.tanh(self.first(z))
        return self.last(h + torch.tanh(self.second(h)))


@functools.cache
def modules() -> dict[str, nn.Module]:
    """Modules on the CPU in float32: a user has made them before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolutional = nn.Sequential(
            nn.ConvTranspose2d(4, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.ConvTranspose2d(8, 2, 3, 2)
        )
        return {"branching": Branching().eval(), "convolutional": convolutional.eval()}


def dense(*sizes: int) -> unrelu.Network:
    """A generator of Gaussian layers."""
    rng = np.random.default_rng(20)
    return unrelu.from_arrays([rng.normal(0, (2 / n) ** 0.5, (m, n)) for n, m in pairwise(sizes)])


@functools.cache
def loaded() -> dict[str, Any]:
    """Generators that were loaded before: a small one, and one whose layers are worth several threads."""
    return {"small": dense(4, 20, 60), "large": dense(4, 2048, 2048)}


def codes() -> np.ndarray:
    """The true codes, (2, 4)."""
    return np.random.default_rng(21).normal(size=(2, 4))


def answers() -> list[str]:
    """Names of what is not as it should be, of everything that computes."""
    z, wrong = codes(), []

    def check(name: str, holds: Any) -> None:
        if not np.all(holds):
            wrong.append(name)

    read = {
        "branching": unrelu.from_torch(modules()["branching"], latent_shape=4),
        "convolutional": unrelu.from_torch(modules()["convolutional"], latent_shape=(4, 1, 1)),
    }
    for name, network in (loaded() | read).items():
        y = network(z)
        r = unrelu.invert(network, y, "lm", z0=z + 1e-2)
        check(f"{name}: invert", np.abs(r.z - network.shaped(z)) <= 1e-6)
        check(f"{name}: verdict", r.success & r.identifiable)
        check(f"{name}: residual", np.maximum(r.residual(), np.abs(r.reconstruction - y).max()) <= 1e-6)
        check(f"{name}: jacobian", np.linalg.matrix_rank(network.jacobian(z[0])) == 4)
        check(f"{name}: identifiability", unrelu.identifiability(network, z).identifiable)
        check(f"{name}: inspect", unrelu.inspect(network, samples=4).samples == 4)
    check("zoo", unrelu.zoo.load("mnist-relu")(np.zeros(20)) == 0)  # it has no biases
    network = dense(4, 20, 60)
    y = network(z)
    for method in ("auto", "exact", "linf"):
        check(f"small: {method}", np.abs(unrelu.invert(network, y, method).z - z) <= 1e-6)
    single = unrelu.invert(network.to(torch.float32), y)
    check("float32", np.abs(single.z - z) <= 1e-3)
    certificate = unrelu.certify(network, y[0] + 0.01, z[0])
    check("certify", certificate.lower <= certificate.upper <= 0.011 and certificate.verify(network, y[0] + 0.01))
    with tempfile.TemporaryDirectory() as folder:
        run = unrelu.run(network, np.repeat(y, 2, axis=0), Path(folder, "run"), "lm", chunk=2, workers=1)
        check("run", run.finished and np.isfinite(run.read("codes")))
    return wrong


# --- what belongs to the user -----------------------------------------------------------------------------------------


def settings() -> dict[str, Any]:
    """Everything global that a computation might leave changed."""
    told: list[int] = []
    thread = threading.Thread(target=lambda: told.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return {
        "PyTorch's threads": torch.get_num_threads(),
        "threads of new threads": told[0],
        **{f"threads of {Path(library['filepath']).name}": library["num_threads"] for library in threadpool_info()},
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "subnormal numbers": sys.float_info.min * 0.5 > 0,
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "floating-point errors": np.geterr(),
        "Python's random numbers": random.getstate(),
        "NumPy's random numbers": hashlib.sha256(pickle.dumps(np.random.get_state())).digest(),  # noqa: NPY002
        "PyTorch's random numbers": torch.get_rng_state().tolist(),
    }


def changed(before: dict[str, Any]) -> list[str]:
    """What is not as it was before."""
    now = settings()
    return [f"left changed: {name}" for name, value in before.items() if now[name] != value]


def careful() -> list[str]:
    """The answers, and what they left changed in this process."""
    before = settings()
    return answers() + changed(before)


def use_threads() -> None:
    """Start the threads of PyTorch, of its BLAS and of its autograd, and those of NumPy's."""
    a = torch.randn(400, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (torch.linalg.svdvals(a).sum() + (a @ a).exp().tanh().sum()).backward()
    modules()["convolutional"](torch.ones(64, 4, 9, 9)).sum()
    np.linalg.svd(a.detach().numpy())


# --- the hosts --------------------------------------------------------------------------------------------------------


def in_process(method: str, trial: Trial = careful) -> list[str]:
    """A process that multiprocessing starts."""
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, trial))
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(PATIENCE) else [f"no answer in {PATIENCE:.0f} s"]
    except EOFError:
        return ["the process died"]
    finally:
        process.kill()
        process.join()


def _send(sender: Any, trial: Trial) -> None:
    sender.send(trial())


def fork_amid_inversion() -> list[str]:
    """A fork while another thread is inside: its limits and locks are none of the child's."""
    inside, go_on = threading.Event(), threading.Event()

    def callback(progress: unrelu.Progress) -> bool:
        inside.set()
        return not go_on.wait(2 * PATIENCE)

    network = loaded()["small"]
    other = threading.Thread(target=lambda: unrelu.invert(network, network(codes()), "lm", callback=callback))
    outside = settings()
    other.start()
    inside.wait(PATIENCE)
    try:
        wrong = in_process("fork", functools.partial(_as_outside, outside))
    finally:
        go_on.set()
        other.join()
    return wrong + changed(outside)


def _as_outside(outside: dict[str, Any]) -> list[str]:
    del outside["Python's random numbers"]  # it draws others in a fork
    return changed(outside) + careful()


def fork_of_thread() -> list[str]:
    """A fork by a thread that is not the main one."""
    return in_thread(functools.partial(in_process, "fork"))


def pool() -> list[str]:
    """A pool of forked daemons."""
    with multiprocessing.get_context("fork").Pool(2) as workers:
        asked = [workers.apply_async(careful) for _ in range(2)]
        return [name for one in asked for name in one.get(PATIENCE)]


class Answers(torch.utils.data.Dataset):
    """A data set each of whose items is computed by unrelu."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int) -> list[str]:
        return careful()


def data_loader() -> list[str]:
    """Workers of a DataLoader."""
    loader = torch.utils.data.DataLoader(
        Answers(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=PATIENCE
    )
    return [name for item in loader for name in item]


def joblib(backend: str) -> list[str]:
    """Two workers of joblib, on processes ("loky") or threads."""
    from joblib import Parallel, delayed  # noqa: PLC0415 -- only this host needs it

    before = settings()
    trial = careful if backend == "loky" else answers
    found = Parallel(2, backend=backend, timeout=PATIENCE)(delayed(trial)() for _ in range(2))
    return [name for item in found for name in item] + changed(before)


def dask_threads() -> list[str]:
    """Dask's scheduler of threads."""
    import dask  # noqa: PLC0415 -- only this host needs it

    before = settings()
    found = dask.compute(*(dask.delayed(answers)() for _ in range(2)), scheduler="threads", num_workers=2)
    return [name for item in found for name in item] + changed(before)


def dask_cluster() -> list[str]:
    """A run on a cluster whose workers are threads of this process."""
    from distributed import Client  # noqa: PLC0415 -- only this host needs it

    network, before = loaded()["small"], settings()
    with (
        tempfile.TemporaryDirectory() as folder,
        Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0") as client,
    ):
        y = np.repeat(network(codes()), 4, axis=0)
        run = unrelu.run(network, y, Path(folder, "run"), "lm", chunk=2, executor=client.get_executor())
        wrong = [] if run.finished else ["not finished"]
        del before["Python's random numbers"]  # Dask draws some
    return wrong + changed(before)


def in_thread(trial: Trial = careful) -> list[str]:
    """A thread that is not the main one."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(trial()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return [f"no answer in {PATIENCE:.0f} s"] if thread.is_alive() else found


def many_threads() -> list[str]:
    """Three threads at once, and another call on one of them."""
    before = settings()
    with ThreadPoolExecutor(3) as threads:
        found = [one.result(PATIENCE) for one in [threads.submit(answers) for _ in range(4)]]
    return [name for item in found for name in item] + changed(before)


def event_loop() -> list[str]:
    """The thread of an event loop, and one that it starts."""

    async def both() -> list[str]:
        return careful() + await asyncio.to_thread(careful)

    return asyncio.run(both())


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """PyTorch's default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    """PyTorch's default device."""
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def flushed_subnormals() -> Iterator[None]:
    """Subnormal numbers flushed to zero by this thread."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def thread_count(count: int) -> Iterator[None]:
    """PyTorch's number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def under(context: Callable[[], Any]) -> list[str]:
    """This process, under settings of PyTorch or NumPy."""
    with context():
        return careful()


def interrupted() -> list[str]:
    """Ctrl-C at a random moment."""
    network, before = loaded()["small"], settings()
    y = network(codes())

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    handler, moment = signal.signal(signal.SIGALRM, stop), MOMENTS.uniform(1e-3, 0.1)
    try:
        signal.setitimer(signal.ITIMER_REAL, moment)
        while True:
            unrelu.invert(network, y)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGALRM, handler)
    return changed(before) + careful()


HOSTS: dict[str, Trial] = {
    "a plain process": careful,
    "multiprocessing, fork": functools.partial(in_process, "fork"),
    "multiprocessing, spawn": functools.partial(in_process, "spawn"),
    "multiprocessing, forkserver": functools.partial(in_process, "forkserver"),
    "fork of a fork": functools.partial(in_process, "fork", functools.partial(in_process, "fork")),
    "fork while a thread inverts": fork_amid_inversion,
    "fork by another thread": fork_of_thread,
    "multiprocessing pool": pool,
    "DataLoader workers": data_loader,
    "joblib loky": functools.partial(joblib, "loky"),
    "joblib threading": functools.partial(joblib, "threading"),
    "Dask threads": dask_threads,
    "Dask cluster of threads": dask_cluster,
    "not the main thread": in_thread,
    "several threads at once": many_threads,
    "an event loop": event_loop,
    "torch.autocast": functools.partial(under, functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)),
    "set_default_device": functools.partial(under, functools.partial(default_device, "meta")),
    **{
        f"set_default_dtype {dtype}".replace("torch.", ""): functools.partial(
            under, functools.partial(default_dtype, dtype)
        )
        for dtype in (torch.float64, torch.float16, torch.bfloat16)
    },
    "inference mode": functools.partial(under, torch.inference_mode),
    "no_grad": functools.partial(under, torch.no_grad),
    "subnormals flushed": functools.partial(under, flushed_subnormals),
    "NumPy raises": functools.partial(under, functools.partial(np.errstate, all="raise")),
    **{f"{n} threads": functools.partial(under, functools.partial(thread_count, n)) for n in (1, 3, 8)},
    "interrupted": interrupted,
}


# --- the trials -------------------------------------------------------------------------------------------------------


def try_hosts(names: list[str], times: int) -> None:
    """In a process of its own: a line of JSON a trial, with the name of the host and what is wrong."""
    threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    torch.set_num_threads(max(2, threads))
    use_threads()
    _ = loaded()
    for name in names:
        for _ in range(times):
            try:
                wrong = HOSTS[name]()
            except Exception as error:  # whatever it is, it is what this looks for
                wrong = [f"{type(error).__name__}: {error}"]
            print(json.dumps([name, wrong]), flush=True)


def trials(names: Iterable[str], times: int, patience: float, seed: int = 0) -> dict[str, list[list[str]]]:
    """What was wrong in every trial of these hosts, all in one process, which is killed after so many seconds."""
    # Imported rather than run, so that other processes find what they are asked for.
    asked = ["--seed", str(seed), "--times", str(times), "--host", *names]
    command = [sys.executable, "-c", "import hosts; hosts.main()", *asked]
    path = os.pathsep.join(filter(None, (os.path.dirname(os.path.abspath(__file__)), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
    ) as process:
        guard = threading.Timer(patience, os.killpg, (process.pid, signal.SIGKILL))
        guard.start()
        assert process.stdout is not None
        found: dict[str, list[list[str]]] = defaultdict(list)
        for line in process.stdout:
            name, wrong = json.loads(line)
            found[name].append(wrong)
        guard.cancel()
    return found


def tried(name: str, times: int, seed: int) -> dict[str, Any]:
    """A row of the table: how often a host was tried, how often it answered, and what went wrong."""
    found = trials([name], times, PATIENCE * (times + 1), seed)[name]
    failed = sorted({text for wrong in found for text in wrong})
    if len(found) < times:
        failed.append(f"{times - len(found)} without an answer")
    return {"what": name, "tried": times, "answered": sum(not wrong for wrong in found), "failed": failed}


def main() -> None:
    """Try every host, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="each host once")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of interrupts")
    parser.add_argument("--output", type=Path, default=Path("fuzz-hosts.json"), help="the file to write")
    parser.add_argument("--host", nargs="+", choices=HOSTS, help="these only, a line a trial")
    parser.add_argument("--times", type=int, default=TIMES, help="trials of each of these")
    asked = parser.parse_args()
    MOMENTS.seed(asked.seed)
    if asked.host:
        try_hosts(asked.host, asked.times)
        return
    began, rows = time.perf_counter(), []
    for name in HOSTS:
        rows.append(tried(name, 1 if asked.quick else TIMES, asked.seed))
        row = rows[-1]
        print(f"{row['what']:32} {row['answered']:3} of {row['tried']:3}  {'; '.join(row['failed'])}", flush=True)
    command = {"measurement": "hosts", "quick": asked.quick, "seed": asked.seed}
    stated = {"script": "hosts", "seed": asked.seed, "quick": asked.quick, "rows": rows}
    write_results(asked.output, command, stated, time.perf_counter() - began)


if __name__ == "__main__":
    main()
