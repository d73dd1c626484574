"""The kernels compile in a fresh installation, say so, and are loaded from disk afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

from unrelu.layer import compiling
from unrelu.layer.compiling import compile_kernels

SCRIPT = """
from unrelu.layer.compiling import compile_kernels
from unrelu.layer.exchange import exchange
compile_kernels("l1")
print(sum(exchange.stats.cache_hits.values()), sum(exchange.stats.cache_misses.values()))
"""


def test_kernels_are_compiled_once_with_a_word_and_cached(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert first.stdout.split() == ["0", "1"]
    assert "compiling its layer kernels" in first.stderr
    assert second.stdout.split() == ["1", "0"]


def test_a_second_call_in_a_process_does_nothing(monkeypatch):
    compile_kernels("linf")
    monkeypatch.setattr(compiling, "_run", lambda norm: 1 / 0)
    compile_kernels("linf")
