"""Runs that are killed, interrupted, or meet a full disk: they go on and end with the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

import unrelu
from tests.runs.small_runs import command, recorded, reference, results, zoo_data
from unrelu.runs import _executors

MODEL = ("mnist-relu", "y.npy", "--method", "lm", "--chunk", "16", "-O", "max_iterations=40")
SIZE, CHUNKS = 1600, 100


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    """The results of a run in one process that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    zoo_data(folder, SIZE)
    return reference(folder, "out", *MODEL)


@pytest.fixture
def folder(tmp_path) -> Path:
    zoo_data(tmp_path, SIZE)
    return tmp_path


def start(folder: Path, *arguments: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(command("run", *arguments), cwd=folder, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **options)  # fmt: skip


def wait_for(condition, process: subprocess.Popen[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


@pytest.mark.long
def test_kills_change_nothing(folder, undisturbed):
    """SIGKILL to the run with all its processes at random times, and a start after each; `make fuzz` has 50."""
    rng, out = np.random.default_rng(5), folder / "out"
    for _ in range(2):
        process = start(folder, *MODEL, "-o", "out", "--workers", "2", start_new_session=True)
        before = len(recorded(out))
        wait_for(lambda seen=before: len(recorded(out)) > seen, process)
        time.sleep(rng.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    kept = recorded(out)
    assert len(kept) >= 2
    ended = start(folder, *MODEL, "-o", "out", "--workers", "2", "--json")
    output, errors = ended.communicate()
    assert ended.returncode == 0, errors
    # What was recorded is kept; nothing is lost, and nothing is computed twice.
    assert {record["chunk"] for record in json.loads(output)["records"]} == set(range(CHUNKS)) - set(kept)
    assert sorted(recorded(out)) == list(range(CHUNKS))
    assert results(unrelu.open_run(out)) == undisturbed


@pytest.mark.long
def test_the_first_interrupt_finishes_the_chunks_at_work(folder, undisturbed):
    out = folder / "out"
    process = start(folder, *MODEL, "-o", "out", "--workers", "2", start_new_session=True)
    wait_for(lambda: len(recorded(out)) > 2, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the workers as well
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping when the running chunks are finished" in said
    assert "run the same command again to resume" in said
    assert "Traceback" not in said
    assert 0 < len(recorded(out)) < CHUNKS
    status = subprocess.run(command("status", "out"), cwd=folder, capture_output=True, text=True, check=True).stdout
    assert f"stopped: {16 * len(recorded(out))} of {SIZE} observations" in status
    assert "resume with: unrelu run mnist-relu y.npy" in status.replace("\n", " ")
    subprocess.run(command("run", *MODEL, "-o", "out", "-q"), cwd=folder, check=True)
    assert results(unrelu.open_run(out)) == undisturbed
    assert sorted(recorded(out)) == list(range(CHUNKS))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_of_a_batch_system_stops_in_order(folder, workers):
    process = start(folder, *MODEL, "-o", "out", "--workers", workers)
    wait_for(lambda: len(recorded(folder / "out")) > 1, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert unrelu.open_run(folder / "out").done < SIZE


def test_the_second_interrupt_ends_at_once(folder):
    arguments = (*MODEL[:3], "adam", "-o", "out", "--workers", "2", "--chunk", "800")
    process = start(folder, *arguments)
    wait_for((folder / "out" / "manifest.json").exists, process)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    # Signals that wait together are one, so the second is sent when the first was seen.
    while "stopping when the running chunks are finished" not in process.stderr.readline():
        assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == 130
    assert "Traceback" not in said
    assert unrelu.open_run(folder / "out").done == 0


# Run in a mount namespace of its own: a disk that is too small, one that something else fills up, then more space.
FULL_DISK = """
import pathlib, subprocess, sys, time
disk, *command = sys.argv[1:]
journal = pathlib.Path(disk, "out", "chunks.jsonl")
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
small = subprocess.run(command, capture_output=True, text=True)
print(small.returncode, small.stderr.replace(chr(10), " "))
subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"}") > 8):
    time.sleep(0.05)
with open(disk + "/other", "wb", buffering=0) as other:
    try:
        while other.write(bytes(4096)):
            pass
    except OSError:
        pass
print(process.communicate()[1].replace(chr(10), " "), process.returncode)
subprocess.run(["rm", disk + "/other"], check=True)
last = subprocess.run(command, capture_output=True, text=True)
print(last.returncode, last.stderr.replace(chr(10), " "))
subprocess.run(["cp", "-r", disk + "/out", disk + "-kept"], check=True)
"""


def mounting() -> list[str]:
    """The command in whose children file systems can be mounted."""
    for candidate in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        tried = [*candidate, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        if shutil.which("unshare") and subprocess.run(tried, capture_output=True, check=False).returncode == 0:
            return candidate
    pytest.skip("this user may not mount file systems, in no namespace either")


@pytest.mark.long
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_space(folder, undisturbed):
    (folder / "disk").mkdir()
    whole = command("run", *MODEL, "--workers", "2", "-o", "disk/out")
    done = subprocess.run([*mounting(), sys.executable, "-c", FULL_DISK, "disk", *whole],
                          cwd=folder, capture_output=True, text=True, check=False)  # fmt: skip
    small, full, last = done.stdout.splitlines()
    assert small.startswith("2 "), done.stderr
    assert "the results need 14.76 MiB" in small
    assert "2 MiB are free; free some space" in small
    assert full.endswith(" 2")
    assert "No space left on device; what is finished is kept: mend that, and run it again" in full
    assert "Traceback" not in full
    assert last.startswith("0 ")
    run = unrelu.open_run(folder / "disk-kept")
    assert run.finished
    assert results(run) == undisturbed
    assert sorted(recorded(folder / "disk-kept")) == list(range(CHUNKS))


def test_signals_are_handled_while_a_chunk_runs(monkeypatch):
    """A signal that arrives just before a wait does not end it, so the next wait has to come soon."""
    monkeypatch.setattr(_executors, "_WAIT", 0.01)
    executor, future = Mock(), Future()
    executor.submit.return_value = future
    late = threading.Timer(20, future.set_result, ["late"])
    late.start()

    def stopped():
        if stopped.asked == 50:
            late.cancel()
            future.set_result("in time")
        stopped.asked += 1
        return stopped.asked > 1

    stopped.asked = 0
    assert list(_executors.computed("work", ["chunk"], 1, executor, stopped)) == [("chunk", "in time")]
