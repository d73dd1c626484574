"""What once went wrong with runs: data in their own folder, foreign workers, signals to a whole group, half a start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unrelu
from tests.runs.small_runs import CHUNK, SIZE, Y, command, reference, results, small_run, zoo_data
from unrelu.datasets.opening import open_source
from unrelu.datasets.sources import Source
from unrelu.errors import InputError, OptionError, SolverError
from unrelu.result.fingerprint import fingerprint


@pytest.mark.parametrize("place", ["out/reconstructions.npy", "out/below/y.npy"])
def test_data_in_the_folder_of_the_results_are_left_alone(tmp_path, place):
    small_run(tmp_path / "out")
    (tmp_path / "out" / "below").mkdir()
    np.save(tmp_path / "out" / "below" / "y.npy", Y)
    before = (tmp_path / place).read_bytes()
    with pytest.raises(InputError, match=r"lies in .*out, the folder of the results; name another folder"):
        small_run(tmp_path / "out", data=str(tmp_path / place), overwrite=True)
    assert (tmp_path / place).read_bytes() == before


def test_overwriting_leaves_what_is_not_of_a_run(tmp_path):
    (tmp_path / "out" / "columns").mkdir(parents=True)
    (tmp_path / "out" / "columns" / "mine.txt").write_text("mine")
    (tmp_path / "out" / "status.npy").write_text("mine")
    small_run(tmp_path / "out", overwrite=True)
    small_run(tmp_path / "out", overwrite=True, results="zarr")
    assert (tmp_path / "out" / "columns" / "mine.txt").read_text() == "mine"
    assert (tmp_path / "out" / "status.npy").read_text() == "mine"


class Overtaken(Source):
    """A data set that begins another run in the folder when it is packed for the workers."""

    location, size, shape, dtype = "the data", SIZE, (20,), np.dtype(np.float64)

    def __init__(self, out):
        self.out = out

    def __getstate__(self):
        small_run(self.out, seed=99)
        return self.__dict__

    def read(self, start, stop, seen=None):
        return open_source(Y).read(start, stop, seen)

    def digest(self, start, stop):
        return open_source(Y).digest(start, stop)


def test_another_run_that_begins_in_between_is_not_taken_for_ours(tmp_path):
    with pytest.raises(InputError, match="holds another run: seed is 99, asked for is 7"):
        small_run(tmp_path / "out", data=Overtaken(tmp_path / "out"), workers=2)
    assert unrelu.open_run(tmp_path / "out").manifest["seed"] == 99


@pytest.mark.parametrize("left", [("chunks.jsonl",), ("chunks.jsonl", "manifest.json.draft"), ()])
def test_what_ended_before_it_had_begun_is_begun_again(tmp_path, left):
    (tmp_path / "out").mkdir()
    for name in left:
        (tmp_path / "out" / name).write_text("")
    assert small_run(tmp_path / "out").finished


def test_a_changed_hash_in_the_journal_is_not_blamed_on_the_data(tmp_path):
    before = results(small_run(tmp_path / "out"))
    journal = tmp_path / "out" / "chunks.jsonl"
    lines = journal.read_text().splitlines()
    data = json.loads(lines[2])["data"]
    lines[2] = lines[2].replace(data, ("0" if data[0] != "0" else "1") + data[1:])
    journal.write_text("\n".join(lines) + "\n")
    told = []
    assert results(small_run(tmp_path / "out", callback=lambda m: m.settled and told.append(m.settled.how))) == before
    assert told.count("computed") == 1


def pictures(folder: Path) -> None:
    folder.mkdir()
    for i, values in enumerate(unrelu.zoo.digits()[0][:6].reshape(-1, 28, 28)):
        Image.fromarray((255 * values).astype(np.uint8)).save(folder / f"{i}.png")


def test_an_image_that_is_mended_is_read_again(tmp_path):
    pictures(tmp_path / "images")
    whole = (tmp_path / "images" / "3.png").read_bytes()
    (tmp_path / "images" / "3.png").write_bytes(whole[:90])
    network, asked = unrelu.zoo.load("mnist-relu"), {"scale": (0, 1), "chunk": 2, "workers": 1}
    run = unrelu.run(network, tmp_path / "images", tmp_path / "out", "lm", **asked)
    assert list(run.errors) == [3]
    (tmp_path / "images" / "3.png").write_bytes(whole)
    again = unrelu.run(network, tmp_path / "images", tmp_path / "out", "lm", **asked)
    assert not again.errors
    fresh = unrelu.run(network, tmp_path / "images", tmp_path / "fresh", "lm", **asked)
    assert results(again) == results(fresh)


def test_resizing_is_a_part_of_a_run(tmp_path):
    pictures(tmp_path / "images")
    network = unrelu.zoo.load("mnist-relu")
    unrelu.run(network, tmp_path / "images", tmp_path / "out", "lm", scale="0,1", workers=1)
    with pytest.raises(InputError, match=r"data\.resized is null, asked for is \[28, 28\]"):
        unrelu.run(network, tmp_path / "images", tmp_path / "out", "lm", scale="0,1", size=(28, 28), workers=1)


def test_a_run_goes_on_in_the_format_that_it_began_with(tmp_path):
    small_run(tmp_path / "out", results="zarr")
    assert small_run(tmp_path / "out").manifest["results"] == "zarr"
    with pytest.raises(InputError, match='results is "zarr", asked for is "npy"'):
        small_run(tmp_path / "out", results="npy")


class Scaled(torch.nn.Module):
    """A module whose outputs depend on what is no parameter."""

    def __init__(self, alpha: float, shift: float = 0.0):
        super().__init__()
        self.alpha = alpha
        self.register_buffer("shift", torch.tensor(shift), persistent=False)

    def forward(self, z):
        return self.alpha * z + torch.relu(z) + self.shift


def test_fingerprints_of_modules_see_what_they_put_out():
    found = {fingerprint(unrelu.from_torch(Scaled(*of), latent_shape=(3,))) for of in ((1.0,), (2.0,), (1.0, 1.0))}
    assert len(found) == 3
    again = unrelu.from_torch(Scaled(1.0), latent_shape=(3,))
    assert fingerprint(again) in found


def test_long_names_and_wrong_types_are_told(tmp_path):
    with pytest.raises(InputError, match="is no folder for results: File name too long"):
        small_run(tmp_path / ("x" * 300))
    with pytest.raises(OptionError, match=r"network is a str; make one with unrelu\.load"):
        unrelu.run("net.npz", Y, tmp_path / "out")
    with pytest.raises(InputError, match=r"scale \(1, 0\)"):
        small_run(tmp_path / "out", scale=(1, 0))


def test_results_that_vanish_meanwhile_are_told(tmp_path):
    def callback(moment):
        if moment.done == CHUNK:
            shutil.rmtree(tmp_path / "out" / "results.zarr")

    with pytest.raises(unrelu.errors.StorageError, match=r"results\.zarr cannot be written: No such file"):
        small_run(tmp_path / "out", results="zarr", callback=callback)
    assert small_run(tmp_path / "out", results="zarr").finished


def test_a_run_prints_in_a_line(tmp_path):
    text = repr(small_run(tmp_path / "out"))
    assert text.startswith(f"<Run '{tmp_path}/out': 23 of 23 observations; ")
    assert len(text) < len(str(tmp_path)) + 120


SCRIPT = """
import numpy as np, unrelu
network = unrelu.from_arrays([np.eye(8, 3), np.ones((20, 8))])
run = unrelu.run(network, np.ones((9, 20)), "out", "lm", chunk=1, workers=2)
"""


@pytest.mark.long
def test_a_script_without_its_guard_is_told_what_is_missing(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          check=False)  # fmt: skip
    assert done.returncode == 1
    assert "put what it does under if __name__ == '__main__':" in done.stderr
    assert "SolverError: worker processes were killed 3 times" in done.stderr


class Deadly(Source):
    """A large data set that kills every worker which unpacks it."""

    location, size, shape, dtype = "the data", SIZE, (20,), np.dtype(np.float64)

    def __init__(self):
        self.ballast = os.urandom(2**20)  # more than a pipe holds

    def __setstate__(self, state):
        os._exit(9)

    def read(self, start, stop, seen=None):
        return open_source(Y).read(start, stop, seen)

    def digest(self, start, stop):
        return open_source(Y).digest(start, stop)


@pytest.mark.long
def test_workers_that_die_at_their_start_do_not_hang_the_run(tmp_path):
    with pytest.raises(SolverError, match="were killed 3 times"):
        small_run(tmp_path / "out", data=Deadly(), workers=2)


def test_one_that_looks_does_not_keep_a_run_from_beginning(tmp_path):
    small_run(tmp_path / "out")
    looking = subprocess.Popen([sys.executable, "-c", f"""
import time
from pathlib import Path
from unrelu.runtime.file_writing import locked
end = time.monotonic() + 1
while time.monotonic() < end:
    locked(Path({str(tmp_path / "out" / "chunks.jsonl")!r}))
"""])  # fmt: skip
    try:
        while looking.poll() is None:
            assert small_run(tmp_path / "out").finished
    finally:
        looking.kill()
        looking.wait()


MODEL = ("mnist-relu", "y.npy", "--method", "lm", "--chunk", "16")


def group_run(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A run in a process group of its own, after its third chunk."""
    process = subprocess.Popen(command("run", *MODEL, "-o", "out", *arguments), cwd=folder, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
    journal, end = folder / "out" / "chunks.jsonl", time.monotonic() + 90
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
        assert time.monotonic() < end
        time.sleep(0.02)
    return process


@pytest.mark.long
def test_an_interrupt_of_the_whole_group_stops_a_cluster_in_order(tmp_path):
    zoo_data(tmp_path, 480)
    process = group_run(tmp_path, "--dask", "local:2")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to workers and nannies as well
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "run the same command again to resume" in said
    assert "Traceback" not in said
    run = unrelu.open_run(tmp_path / "out")
    assert 3 <= len(run.records) < run.chunks
    subprocess.run(command("run", *MODEL, "-o", "out", "-q", "--workers", "2"), cwd=tmp_path, check=True)
    assert results(unrelu.open_run(tmp_path / "out")) == reference(tmp_path, "alone", *MODEL, "--results", "zarr")


@pytest.mark.long
def test_sigterm_to_the_whole_group_begins_nothing_new(tmp_path):
    zoo_data(tmp_path, 1600)
    process = group_run(tmp_path, "--workers", "2")
    before = len(unrelu.open_run(tmp_path / "out").records)
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "a worker process was killed" not in said
    # Those at work and those that waited for a worker are finished.
    assert before < len(unrelu.open_run(tmp_path / "out").records) <= before + 4


# A worker of another version: the same code that calls itself otherwise.
OTHER = """
import sys, unrelu
import unrelu._version
unrelu._version.__version__ = "9.9"
from distributed.cli.dask_worker import main
sys.argv = ["dask worker", sys.argv[1], "--nthreads", "1", "--no-nanny", "--no-dashboard"]
main()
"""


@contextmanager
def cluster_with_a_foreign_worker(folder, own):
    """A client of so many workers of this version, and one of another."""
    from distributed import Client, LocalCluster

    asked = {"n_workers": own, "threads_per_worker": 1, "dashboard_address": ":0", "local_directory": str(folder)}
    with LocalCluster(**asked) as cluster, Client(cluster) as client:
        foreign = subprocess.Popen([sys.executable, "-c", OTHER, cluster.scheduler_address], cwd=folder,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            client.wait_for_workers(own + 1, timeout=60)
            yield client
        finally:
            foreign.kill()
            foreign.wait()


@pytest.mark.long
def test_a_worker_of_another_version_is_left_out(tmp_path):
    said = []
    with cluster_with_a_foreign_worker(tmp_path, own=1) as client:
        run = small_run(tmp_path / "out", workers=None, scheduler=client, results="npy", chunk=1,
                        callback=lambda moment: said.append(moment.text) and False)  # fmt: skip
    assert run.finished
    assert results(run) == results(small_run(tmp_path / "alone", chunk=1))
    assert any("is left out: it has unrelu 9.9, the client" in text for text in said)


def test_a_cluster_of_other_versions_only_is_told(tmp_path):
    with (
        cluster_with_a_foreign_worker(tmp_path, own=0) as client,
        pytest.raises(SolverError, match=r"no worker of the cluster can take part: it has unrelu 9\.9"),
    ):
        small_run(tmp_path / "out", workers=None, scheduler=client)
