"""The kernels compile in a fresh installation, say so, and are loaded from disk afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from unrelu.lp import exchange_simplex
from unrelu.lp.exchange_simplex import compile_exchange
from unrelu.runtime import compilation
from unrelu.runtime.compilation import compile_by, kernel
from unrelu.runtime.run_control import now

SCRIPT = """
from unrelu.lp.exchange_simplex import compile_exchange, exchange
compile_exchange()
print(sum(exchange.stats.cache_hits.values()), sum(exchange.stats.cache_misses.values()))
"""


@pytest.mark.long
def test_kernels_are_compiled_once_with_a_word_and_cached(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert first.stdout.split() == ["0", "1"]
    assert "compiles its kernels" in first.stderr
    assert not second.stderr
    assert second.stdout.split() == ["1", "0"]


def test_a_function_without_a_folder_for_its_cache_compiles_all_the_same():
    """As in an installation that is read-only; a function without a file has no folder either."""
    made = {}
    exec(compile("def double(x):\n    return 2 * x\n", "<nowhere>", "exec"), made)
    double = kernel(made["double"])
    assert double(2.0) == 4.0
    assert double.stats.cache_path is None


@pytest.mark.parametrize(("folder", "message"), [(None, "NUMBA_CACHE_DIR"), ("somewhere", "they are kept")])
def test_the_message_says_whether_there_is_a_cache(folder, message, monkeypatch):
    logged = threading.Event()
    monkeypatch.setattr(compilation, "_compiled", set())
    monkeypatch.setattr(compilation, "_PATIENCE", 0.0)
    monkeypatch.setattr(compilation._LOG, "warning", lambda text: logged.set() if message in text else None)
    compilation._announce.cache_clear()
    compile_by(lambda: logged.wait(30), folder, "kernels")
    assert logged.is_set()


def test_the_clock_of_time_limits_stands_still_meanwhile(monkeypatch):
    monkeypatch.setattr(compilation, "_compiled", set())
    seen = []
    before, real = now(), time.perf_counter()
    compile_by(lambda: (time.sleep(0.2), seen.append(now())), None, "kernels")
    after, passed = now(), time.perf_counter() - real
    assert before <= seen[0] <= after
    assert after - before <= passed - 0.2 + 1e-6
    with pytest.raises(ZeroDivisionError):
        compile_by(lambda: 1 / 0, None, "others")
    assert now() > after  # it goes on


def test_kernels_of_one_name_are_compiled_once_and_again_after_an_error(monkeypatch):
    runs = []
    monkeypatch.setattr(compilation, "_compiled", set())
    with pytest.raises(ZeroDivisionError):
        compile_by(lambda: 1 / 0, None, "kernels")
    for name in ("kernels", "kernels", "others"):
        compile_by(lambda name=name: runs.append(name), None, name)
    assert runs == ["kernels", "others"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_waits_for_the_compiler():
    """A child that starts while another thread compiles would inherit a lock that nobody in it releases."""
    started = threading.Event()

    def hold():
        with compilation._lock:
            started.set()
            time.sleep(0.2)

    holder = threading.Thread(target=hold)
    holder.start()
    started.wait(30)
    child = os.fork()
    if child == 0:
        os._exit(0 if compilation._lock.acquire(timeout=5) else 1)
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_second_call_in_a_process_does_nothing(monkeypatch):
    compile_exchange()
    monkeypatch.setattr(exchange_simplex, "_run_exchange", lambda: 1 / 0)
    compile_exchange()
