"""Settings of every test: reproducible examples, no deadline that a busy machine would miss, one thread."""

from __future__ import annotations

import atexit
import gc
import os
import runpy
import shutil
import signal
import tempfile
from pathlib import Path

OTHER_DRAWS = Path(__file__).parent / "other_draws"
# Folders that are collected where they are named only, as by `make test-studies` and `make test-ecosystem`.
APART = (Path(__file__).parent / "studies", Path(__file__).parent / "ecosystem")

# Threads that wait for a busy core make small problems ten times slower, and pytest -n uses the cores already. This has
# to be said before NumPy and PyTorch are imported; the processes that tests start inherit it.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# What is learned of generators is kept in a folder of this session, which its workers and subprocesses inherit: nothing
# is written to the user's home, and nothing is read that another version of the source had learned.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["UNRELU_CACHE"] = tempfile.mkdtemp(prefix="unrelu-tests-")
    atexit.register(shutil.rmtree, os.environ["UNRELU_CACHE"], ignore_errors=True)

# With UNRELU_TEST_SEED_SHIFT=n, searches and samplers draw other numbers from the same seeds, here and in the processes
# that tests start: a test that fails then was green by luck.
if os.environ.get("UNRELU_TEST_SEED_SHIFT", "0") != "0":
    runpy.run_path(str(OTHER_DRAWS / "sitecustomize.py"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(OTHER_DRAWS), os.environ.get("PYTHONPATH"))))

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# A job that a shell starts in the background ignores Ctrl-C, and so would all commands that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# `make test` draws a few examples of each property, `make test-all` many.
settings.register_profile("few", derandomize=True, deadline=None, max_examples=20)
settings.register_profile("many", derandomize=True, deadline=None, max_examples=100)


def pytest_configure(config):
    settings.load_profile("few" if "not long" in config.option.markexpr else "many")


def pytest_ignore_collect(collection_path, config):
    named = any(f"tests/{collection_path.name}" in Path(argument).as_posix() for argument in config.args)
    return True if collection_path in APART and not named else None


def pytest_collection_finish():
    """What collecting has made stays to the end: the garbage collector need not go through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_weights_each_time():
    """Weights that a module draws for itself: among 300 small nets of them is one whose units are all dead."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _interrupts_as_before():
    """The command line has a handler of its own, and leaves it to the end of the process to take it back."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)
