"""Runs that are killed, interrupted, or meet a full disk: they go on and end with the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import unrelu
from tests.runs.small_runs import command, reference, results, zoo_data

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


def chunks(out: Path) -> list[int]:
    """Chunks in the journal, as often as they were recorded."""
    path = out / "chunks.jsonl"
    return [json.loads(line)["chunk"] for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, process: subprocess.Popen[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "kills"), [("npy", 1), ("zarr", 1)])
def test_kills_change_nothing(folder, undisturbed, kind, kills):
    """SIGKILL to the run with all its processes at random moments, and a start after each; `make fuzz` has 50."""
    rng = np.random.default_rng(5)
    out = folder / "out"
    for _ in range(kills):
        process = start(folder, *MODEL, "-o", "out", "--results", kind, "--workers", "2", start_new_session=True)
        before = len(chunks(out))
        wait_for(lambda seen=before: len(chunks(out)) > seen, process)
        time.sleep(rng.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    recorded = chunks(out)
    assert len(recorded) >= kills
    ended = start(folder, *MODEL, "-o", "out", "--results", kind, "--workers", "2", "--json")
    output, errors = ended.communicate()
    assert ended.returncode == 0, errors
    told = json.loads(output)["records"]
    # What was recorded is kept; nothing is lost, and nothing is computed twice.
    assert {line["chunk"] for line in told if line["how"] == "kept"} == set(recorded)
    assert sorted(chunks(out)) == list(range(CHUNKS))
    assert results(unrelu.open_run(out)) == undisturbed


@pytest.mark.long
def test_the_first_interrupt_finishes_the_chunks_at_work(folder, undisturbed):
    out = folder / "out"
    process = start(folder, *MODEL, "-o", "out", "--workers", "2", start_new_session=True)
    wait_for(lambda: len(chunks(out)) > 2, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the workers as well
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping when the running chunks are finished" in said
    assert "run the same command again to resume" in said
    assert "Traceback" not in said
    assert 0 < len(chunks(out)) < CHUNKS
    status = subprocess.run(command("status", "out"), cwd=folder, capture_output=True, text=True, check=True).stdout
    assert f"stopped: {16 * len(chunks(out))} of {SIZE} observations" in status
    assert "resume with: unrelu run mnist-relu y.npy" in status.replace("\n", " ")
    subprocess.run(command("run", *MODEL, "-o", "out", "-q"), cwd=folder, check=True)
    assert results(unrelu.open_run(out)) == undisturbed
    assert sorted(chunks(out)) == list(range(CHUNKS))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_of_a_batch_system_stops_in_order(folder, workers):
    process = start(folder, *MODEL, "-o", "out", "--workers", workers)
    wait_for(lambda: len(chunks(folder / "out")) > 1, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert unrelu.open_run(folder / "out").done < SIZE


def test_the_second_interrupt_ends_at_once(folder):
    arguments = (*MODEL[:3], "adam", "-o", "out", "--workers", "2", "--chunk", "800")
    process = start(folder, *arguments)
    wait_for((folder / "out" / "columns").exists, process)
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


# Run in a mount namespace of its own: a disk of 2 MiB, a run on it, then more space.
FULL_DISK = """
import subprocess, sys
kind, disk, *command = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
first = subprocess.run(command, capture_output=True, text=True)
print(first.returncode, first.stderr.replace(chr(10), " "))
subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
second = subprocess.run(command, capture_output=True, text=True)
print(second.returncode, second.stderr.replace(chr(10), " "))
subprocess.run(["cp", "-r", disk + "/out", sys.argv[2] + "-kept"], check=True)
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
    asked = (*MODEL, "--results", "zarr", "--workers", "2")
    (folder / "disk").mkdir()
    whole = command("run", *asked, "-o", "disk/out")
    done = subprocess.run([*mounting(), sys.executable, "-c", FULL_DISK, "zarr", "disk", *whole],
                          cwd=folder, capture_output=True, text=True, check=False)  # fmt: skip
    first, second = done.stdout.splitlines()
    assert first.startswith("2 "), done.stderr
    assert "No space left on device; what is finished is kept: mend that, and run it again" in first
    assert "Traceback" not in first
    assert second.startswith("0 ")
    run = unrelu.open_run(folder / "disk-kept")
    assert run.finished
    assert results(run) == undisturbed
    assert len(chunks(folder / "disk-kept")) == CHUNKS


@pytest.mark.long
def test_a_disk_that_is_too_small_is_told_before_any_work(folder):
    (folder / "disk").mkdir()
    whole = command("run", *MODEL, "-o", "disk/out", "--results", "npy")
    done = subprocess.run([*mounting(), sys.executable, "-c", FULL_DISK, "npy", "disk", *whole],
                          cwd=folder, capture_output=True, text=True, check=False)  # fmt: skip
    first, second = done.stdout.splitlines()
    assert first.startswith("2 "), done.stderr
    assert "the results need 10 MiB, 2 MiB are free; free some space" in first
    assert second.startswith("0 ")
    assert unrelu.open_run(folder / "disk-kept").finished
