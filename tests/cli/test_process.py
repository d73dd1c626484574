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
from tests.cli.conftest import command
from unrelu.cli import _app

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="of POSIX processes")
LM = ("--method", "lm")


@pytest.mark.parametrize(
    "arguments",
    [
        ("invert", "net.npz", "y.npy"),
        ("invert", "net.npz", "gone.npy", "-o", "out"),
        ("invert", "net.npz", "y.npy", "-o", "out", "--seed", "x"),
        ("invert", "net.npz", "y.npy", "-o", "out", "--speed", "1"),
        ("inspect",),
        ("encode",),
    ],
)
def test_wrong_use(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert "Usage" in err


def test_what_is_no_error_of_ours_is_not_hidden(run, monkeypatch):
    monkeypatch.setattr(_app, "app", lambda **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("--help")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("a lot"), "memory ran out (a lot); work on fewer observations at once, with --chunk or in"),
        (OSError(28, "No space left on device", "there"), "there: No space left on device"),
    ],
)
def test_the_limits_of_the_machine_are_a_line(run, monkeypatch, error, said):
    def broken(**options):
        raise error

    monkeypatch.setattr(_app, "app", broken)
    code, _, err = run("--help")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {said}")


@contextmanager
def small_files(limit: int):
    """No file can grow beyond the limit, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("arguments", [("invert", *LM), ("certify", "--time-limit", "0.1"), ("run", *LM, "-q")])
def test_a_full_disk_is_a_line(run, arguments):
    with small_files(100):
        code, _, err = run(arguments[0], "net.npz", "y.npy", "-o", "out", *arguments[1:])
    assert code == 2
    assert err.splitlines()[-1].startswith("error: out")
    assert "cannot be written: " in err
    assert run(arguments[0], "net.npz", "y.npy", "-o", "out", *arguments[1:], "--overwrite")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("invert", "m", "y.npy"),
        ("posterior", "m", "y.npy"),
        ("certify", "m", "y.npy"),
        ("run", "m", "y.npy"),
        ("demo",),
    ],
)
def test_an_existing_folder_is_refused_before_anything_is_imported(files, arguments):
    Path("out").mkdir()
    Path("out/mine.txt").write_text("precious")
    code = """
import sys
from unrelu.cli.process import main
try:
    main()
except SystemExit as end:
    print(end.code, [name for name in ("numpy", "torch", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "-o", "out"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "2 []\n"
    assert done.stderr == "error: out exists; choose another folder, or pass --overwrite to replace its results\n"
    assert Path("out/mine.txt").read_text() == "precious"


def closed_pipe() -> int:
    """An end that nobody reads from."""
    read, write = os.pipe()
    os.close(read)
    return write


def test_readers_that_leave_stop_nothing(files):
    out, err = closed_pipe(), closed_pipe()
    asked = ("run", "net.npz", "y.npy", "-o", "out", *LM, "--chunk", "1", "--workers", "1", "--json")
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
def test_output_that_goes_nowhere(files, redirected, code, said):
    line = f"{shlex.join(command('--version'))} {redirected}"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("name", ["a [/x] [red]", "é ü", os.fsdecode(b"\xff\xe9"), "a\x1b[2J"])
def test_names_of_any_characters(run, name):
    """On a terminal of ASCII characters, which shows escapes of the others."""
    sys.stdout.reconfigure(encoding="ascii")
    sys.stderr.reconfigure(encoding="ascii")
    Path(f"{name}.npz").parent.mkdir(exist_ok=True)
    os.rename("net.npz", f"{name}.npz")
    assert run("inspect", f"{name}/net.npz")[0] == 2
    code, out, _ = run("invert", f"{name}.npz", "y.npy", "-o", name, *LM)
    assert (code, "\x1b" in out) == (0, False)
    code, _, err = run("run", f"{name}.npz", "y.npy", "-o", f"{name} run", *LM, "--workers", "1")
    assert (code, "\x1b" in err) == (0, False)
    code, out, _ = run("status", f"{name} run")
    assert (code, "\x1b" in out) == (0, False)


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
    arguments = [sys.executable, "-c", INTERRUPTED, module, where, "inspect", "net.npz"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_an_interrupt_is_a_document(files):
    arguments = [sys.executable, "-c", INTERRUPTED, "torch", "error", "inspect", "net.npz", "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.stdout == '{"error": {"type": "Interrupted", "message": "interrupted", "status": 130}}\n'
    assert done.returncode == 130
