"""Runs on Dask clusters: the same bytes as in this process, also when workers die and join."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster

import unrelu
from tests.runs.small_runs import Y, results, small_run


def local(workers: int, folder) -> LocalCluster:
    """Processes of one thread, which are replaced when they die."""
    return LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=":0", local_directory=str(folder)
    )  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with local(2, tmp_path_factory.mktemp("dask")) as cluster, Client(cluster) as connected:
        yield connected


class Killing(torch.nn.Module):
    """A measurement that kills the worker that computes it, so many times."""

    def __init__(self, folder, times):
        super().__init__()
        self.folder, self.times = folder, times

    def forward(self, x):
        deaths = len(list(self.folder.glob("death-*")))
        if multiprocessing.current_process().name != "MainProcess" and deaths < self.times:
            (self.folder / f"death-{deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x + 0.1 * x**3


def on(client, output, **options) -> unrelu.Run:
    return small_run(output, workers=2, executor=client.get_executor(), **options)


def test_a_cluster_goes_on_and_writes_the_same_bytes(client, tmp_path):
    alone = results(small_run(tmp_path / "alone"))
    begun = small_run(tmp_path / "out", callback=lambda progress: progress.done == 10)
    assert len(begun.records) == 2
    run = on(client, tmp_path / "out")
    assert results(run) == alone
    pids = {str(pid) for pid in client.run(os.getpid).values()}
    assert {run.records[chunk].worker.split(":")[1] for chunk in (2, 3, 4)} <= pids


def test_bad_data_are_rows_there_as_well(client, tmp_path):
    y = Y.copy()
    y[3] = np.inf
    assert on(client, tmp_path / "out", data=y).errors == {3: "20 of 20 values are NaN or infinite"}


def test_a_worker_that_is_killed_changes_nothing(client, tmp_path):
    y = Y + 0.1 * Y**3
    alone = results(small_run(tmp_path / "alone", data=y, operator=Killing(tmp_path, 0)))
    run = on(client, tmp_path / "out", data=y, operator=Killing(tmp_path, 1))
    assert (tmp_path / "death-0").exists()
    assert results(run) == alone


@pytest.mark.long
def test_a_chunk_that_kills_every_worker_is_told(client, tmp_path):
    with pytest.raises(unrelu.errors.SolverError, match=r"chunk \d was lost by its executor: KilledWorker"):
        on(client, tmp_path / "out", operator=Killing(tmp_path, 100))
    assert not unrelu.open_run(tmp_path / "out").finished


def test_workers_may_come_and_go(tmp_path):
    """A cluster without workers gets one while the run waits for it; then another one takes its place."""
    alone = results(small_run(tmp_path / "alone", chunk=1))
    with local(0, tmp_path) as cluster, Client(cluster) as client:
        threading.Timer(1, lambda: cluster.scale(1)).start()

        def callback(progress):
            if progress.done == 8:
                cluster.scale(0)
                cluster.scale(2)

        assert results(on(client, tmp_path / "out", chunk=1, callback=callback)) == alone
