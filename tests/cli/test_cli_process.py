"""The command as a process: its output, interrupts and exit status, whatever it is started from."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

import unrelu
from tests.runs.small_runs import command
from unrelu.cli import _app

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="of POSIX processes")


# --- exit status ------------------------------------------------------------------------------------------------------


def test_a_run_with_a_failed_observation_says_so_each_time_and_looking_at_it_is_no_failure(run):
    asked = ("run", "net.npz", "hole.npy", "-o", "out", "--method", "lm", "--workers", "1", "-q")
    said = "1 of 4 observations failed, their messages are in out/results.jsonl\n"
    assert run(*asked) == (1, "", said)
    assert run(*asked) == (1, "", said)
    assert run("status", "out")[::2] == (0, "")
    assert run("report", "out")[::2] == (0, "")


def test_a_page_does_not_replace_what_is_no_file(run):
    run("run", "net.npz", "y.npy", "-o", "out", "--method", "lm", "--workers", "1", "-q")
    os.mkfifo("pipe")
    code, _, err = run("report", "out", "-o", "pipe")
    assert (code, err) == (2, "error: pipe is a device, a pipe or a socket, and would be replaced; name a file\n")
    assert Path("pipe").is_fifo()


def test_what_is_no_error_of_ours_is_not_hidden(run, monkeypatch):
    def broken(**options):
        raise ZeroDivisionError

    monkeypatch.setattr(_app, "app", broken)
    with pytest.raises(ZeroDivisionError):
        run("--help")


@pytest.mark.parametrize("error", [MemoryError("a lot"), OSError(28, "No space left on device", "there")])
def test_the_machine_s_limits_are_a_line(run, monkeypatch, error):
    def broken(**options):
        raise error

    monkeypatch.setattr(_app, "app", broken)
    code, _, err = run("--help")
    assert code == 2
    assert err in (
        "error: memory ran out (a lot); work on fewer observations at once, with --chunk or in smaller files\n",
        "error: there: No space left on device\n",
    )


@contextmanager
def small_files(limit: int):
    """No file can grow beyond the limit, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "arguments", [("invert", "--method", "lm"), ("certify", "--max-nodes", "1"), ("run", "--method", "lm", "-q")]
)
def test_a_full_disk_is_a_line(run, arguments):
    with small_files(100):
        code, _, err = run(arguments[0], "net.npz", "y.npy", "-o", "out", *arguments[1:])
    assert code == 2
    assert err.splitlines()[-1].startswith("error: out")
    assert "cannot be written: " in err
    assert run(arguments[0], "net.npz", "y.npy", "-o", "out", *arguments[1:], "--overwrite")[0] == 0


# --- output -----------------------------------------------------------------------------------------------------------


def closed_pipe() -> int:
    """An end that nobody reads from."""
    read, write = os.pipe()
    os.close(read)
    return write


def test_readers_that_leave_stop_nothing(files):
    out, err = closed_pipe(), closed_pipe()
    asked = ("run", "net.npz", "y.npy", "-o", "out", "--method", "lm", "--chunk", "1", "--workers", "1", "--json")
    done = subprocess.run(command(*asked), stdout=out, stderr=err, check=False)
    os.close(out)
    os.close(err)
    assert done.returncode == 0
    assert unrelu.open_run("out").finished


FULL = "error: standard output cannot be written: No space left on device; what is finished is kept\n"


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [("> /dev/full", 2, FULL), (">&-", 0, ""), ("2> /dev/full >&2", 2, ""), ("2>&-", 0, ""), ("| head -0", 0, "")],
)
def test_output_that_goes_nowhere(redirected, code, said):
    line = f"{shlex.join(command('--help'))} {redirected}"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, said)


def test_a_terminal_of_width_1(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    assert run("inspect", "net.npz")[0] == 0
    assert run("invert", "net.npz", "y.npy", "-o", "out", "--method", "lm")[0] == 0
    assert run("run", "net.npz", "y.npy", "-o", "run", "--method", "lm", "--workers", "1")[0] == 0
    assert run("status", "run")[0] == 0
    assert run("frob")[0] == 2


@pytest.mark.parametrize("name", ["a [/x] [red]", "é ü", os.fsdecode(b"\xff\xe9")])
def test_names_of_any_characters(run, name):
    """On a terminal of ASCII characters, which shows escapes of the others."""
    sys.stdout.reconfigure(encoding="ascii")
    sys.stderr.reconfigure(encoding="ascii")
    Path(f"{name}.npz").parent.mkdir(exist_ok=True)
    os.rename("net.npz", f"{name}.npz")
    assert run("inspect", f"{name}.npz")[0] == 0
    assert run("inspect", f"{name}/net.npz")[0] == 2
    assert run("invert", f"{name}.npz", "y.npy", "-o", name, "--method", "lm")[0] == 0
    assert run("run", f"{name}.npz", "y.npy", "-o", f"{name} run", "--method", "lm", "--workers", "1")[0] == 0
    assert run("status", f"{name} run")[0] == 0
    assert run("report", f"{name} run")[0] == 0


# --- interrupts -------------------------------------------------------------------------------------------------------

# The command, interrupted when it imports some module for the first time: as an error there, or in a finalizer.
INTERRUPTED = """
import signal, sys
module, where = sys.argv[1:3]
del sys.argv[1:3]
class Finalizer:
    def __del__(self): signal.raise_signal(signal.SIGINT)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            Finalizer() if where == "finalizer" else signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
from unrelu.cli.process import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "unrelu.cli.options", "numpy", "torch.nn.functional"])
@pytest.mark.parametrize("where", ["error", "finalizer"])
def test_an_interrupt_while_it_starts_is_no_traceback(files, module, where):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module, where, "inspect", "net.npz"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
