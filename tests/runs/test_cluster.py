"""Runs on Dask clusters: the same bytes as in this process, also when workers die and join."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from distributed import Client, LocalCluster

import unrelu
from tests.runs.small_runs import CHUNK, SIZE, Y, command, results, small_run
from unrelu.datasets.opening import open_source
from unrelu.datasets.sources import Source
from unrelu.errors import InputError, MissingPackageError


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two processes of one thread, which are replaced when they die."""
    scratch = tmp_path_factory.mktemp("dask")
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", local_directory=str(scratch)
    ) as running:
        yield running


@pytest.fixture
def client(cluster):
    with Client(cluster) as connected:
        yield connected


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, bytes]:
    return results(small_run(tmp_path_factory.mktemp("alone") / "out"))


def on(scheduler, output, **options) -> unrelu.Run:
    return small_run(output, workers=None, scheduler=scheduler, **options)


@pytest.mark.parametrize("kind", [None, "npy"])
def test_a_cluster_computes_the_same_bytes(client, alone, tmp_path, kind):
    run = on(client, tmp_path / "out", results=kind)
    assert run.manifest["results"] == (kind or "zarr")
    assert results(run) == alone
    assert {record.worker.split(":")[1] for record in run.records.values()} <= set(pids(client))
    assert not any(client.run(lambda dask_worker: [n for n in dask_worker.plugins if "unrelu" in n]).values())


def pids(client) -> list[str]:
    return [str(pid) for pid in client.run(os.getpid).values()]


def test_a_run_goes_on_elsewhere(client, alone, tmp_path):
    seen = []
    begun = small_run(
        tmp_path / "out", results="zarr", callback=lambda m: m.settled and (seen.append(m) or len(seen) == 2)
    )
    assert len(begun.records) == 2
    told = []
    ended = on(client, tmp_path / "out", callback=lambda m: m.settled and told.append(m.settled.how))
    assert told.count("kept") == len(begun.records)
    assert results(ended) == alone
    stopped = on(client, tmp_path / "two", seed=9, data=np.tile(Y, (10, 1)), callback=lambda m: m.done > 0)
    assert 0 < stopped.done < 10 * SIZE


class Killing(Source):
    """A data set that kills the worker that reads its third chunk, so many times."""

    location, size, shape, dtype = "the data", SIZE, (20,), np.dtype(np.float64)

    def __init__(self, folder, times):
        self.folder, self.times = folder, times

    def read(self, start, stop, seen=None):
        deaths = len(list(self.folder.glob("death-*")))
        if start == 2 * CHUNK and deaths < self.times:
            (self.folder / f"death-{deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return open_source(Y).read(start, stop, seen)

    def digest(self, start, stop):
        return open_source(Y).digest(start, stop)


def test_a_worker_that_is_killed_changes_nothing(client, alone, tmp_path):
    run = on(client, tmp_path / "out", data=Killing(tmp_path, 1))
    assert (tmp_path / "death-0").exists()
    assert results(run) == alone
    assert sorted(run.records) == list(range(5))


@pytest.mark.long
def test_a_chunk_that_kills_every_worker_is_told(client, tmp_path):
    with pytest.raises(unrelu.errors.SolverError, match="chunk 2 killed its workers again and again"):
        on(client, tmp_path / "out", data=Killing(tmp_path, 100))
    assert not unrelu.open_run(tmp_path / "out").finished


def test_a_worker_may_join(tmp_path, alone):
    """A cluster without workers gets one while the run waits for it."""
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=":0", local_directory=str(tmp_path)) as empty,
        Client(empty) as client,
    ):
        threading.Timer(2, lambda: empty.scale(1)).start()
        assert results(on(client, tmp_path / "out")) == alone


def test_a_cluster_that_stays_without_workers_is_told(monkeypatch, tmp_path):
    from unrelu.runs import _cluster

    monkeypatch.setattr(_cluster, "_WITHOUT_WORKERS", 1)
    monkeypatch.setattr(_cluster, "_REMINDER", 0.5)
    said = []
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=":0", local_directory=str(tmp_path)) as empty,
        Client(empty) as client,
    ):
        with pytest.raises(unrelu.errors.SolverError, match=r"has had no worker for 1 s; what is finished is kept"):
            on(client, tmp_path / "out", callback=lambda m: said.append(m.text) and False)
        assert said[1] == "the cluster has no worker; waiting 1 s for one"
        # Ctrl-C while it waits.
        assert not on(client, tmp_path / "out", callback=lambda m: bool(m.text)).finished


def test_a_scheduler_that_goes_away_is_told(tmp_path):
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=":0", local_directory=str(tmp_path)) as empty,
        Client(empty) as client,
    ):
        threading.Timer(1, empty.close).start()
        with pytest.raises(unrelu.errors.SolverError, match=r"the scheduler of the cluster is gone; what is finished"):
            on(client, tmp_path / "out")


def test_bad_data_are_rows_there_as_well(client, tmp_path):
    y = Y.copy()
    y[3] = np.inf
    assert on(client, tmp_path / "out", data=y).errors == {3: "20 of 20 values are NaN or infinite"}


@pytest.mark.long
def test_the_command_starts_a_cluster_or_goes_to_one(cluster, tmp_path):
    np.savez(tmp_path / "net.npz", W0=np.eye(8, 3), W1=np.ones((20, 8)) + np.eye(20, 8))
    np.save(tmp_path / "y.npy", np.abs(Y))
    arguments = ("net.npz", "y.npy", "--activation", "relu", "--method", "lm", "--chunk", "5", "-q")
    for name, where in (("a", ("--workers", "1", "--results", "zarr")), ("b", ("--dask", "local:2")),
                        ("c", ("--scheduler", cluster.scheduler_address))):  # fmt: skip
        done = subprocess.run(command("run", *arguments, "-o", name, *where), cwd=tmp_path, capture_output=True,
                              text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    a, b, c = (results(unrelu.open_run(tmp_path / name)) for name in "abc")
    assert a == b == c


def test_a_scheduler_that_is_not_there_is_told(monkeypatch, tmp_path):
    from unrelu.runs import _cluster

    monkeypatch.setattr(_cluster, "_PATIENCE", 1)
    with pytest.raises(InputError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        on("tcp://127.0.0.1:9", tmp_path / "out")
    with pytest.raises(InputError, match="no Dask scheduler answers at 'nonsense://x'"):
        on("nonsense://x", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_dask_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(
        MissingPackageError, match=r'runs on a cluster need distributed: pip install "dask\[distributed\]"'
    ):
        on("local:2", tmp_path / "out")


class Counted(Source):
    """A data set that notes every process that it is unpacked in."""

    location, size, shape, dtype = "the data", SIZE, (20,), np.dtype(np.float64)

    def __init__(self, folder):
        self.folder = folder

    def __setstate__(self, state):
        self.__dict__.update(state)
        with (self.folder / "unpacked").open("a") as notes:
            notes.write(f"{os.getpid()}\n")

    def read(self, start, stop, seen=None):
        return open_source(Y).read(start, stop, seen)

    def digest(self, start, stop):
        return open_source(Y).digest(start, stop)


@pytest.mark.parametrize("where", ["cluster", "processes"])
def test_what_is_asked_travels_once_to_each_worker(client, tmp_path, where):
    options = {"scheduler": client} if where == "cluster" else {}
    small_run(tmp_path / "out", data=Counted(tmp_path), workers=None if options else 2, chunk=1, **options)
    unpacked = (tmp_path / "unpacked").read_text().split()
    assert 1 <= len(unpacked) == len(set(unpacked)) <= 2
    assert str(os.getpid()) not in unpacked
