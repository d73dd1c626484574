"""The script that runs tests as other processors would: what it sets, counts, leaves out and refuses."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info

ROOT = Path(__file__).parents[2]
TESTS = """
import os, pytest

def test_the_variable_is_set():
    assert os.environ["INSTRUCTIONS"] == "old"

@pytest.mark.parametrize("value", [1, 2, 3])
def test_three_of_which_one_fails(value):
    assert value != int(os.environ["FAIL_AT"])
"""


@pytest.fixture(scope="module")
def portable():
    spec = importlib.util.spec_from_file_location("portable", ROOT / "scripts" / "portable.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["portable"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["portable"]


@pytest.fixture
def pretended(portable, monkeypatch):
    """One processor, of a variable that no library reads, and what probes say of the libraries."""
    plain = {"mkl": "MKL_VERBOSE", "aten": "AVX2", "openblas": "['Haswell']", "numba": "haswell"}
    settings = (portable.Setting("numba", "INSTRUCTIONS", "old", "haswell"),)
    monkeypatch.setattr(portable, "PROCESSORS", {"old": portable.Processor("DEFAULT", settings)})
    monkeypatch.setattr(portable, "probe", lambda variables: plain)
    monkeypatch.setattr(portable.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a fresh pytest starts in a second without them
    return plain


@pytest.mark.parametrize(("fail_at", "status", "counted"), [(9, 0, "4 passed, 0 failed"), (2, 1, "3 passed, 1 failed")])
def test_tests_run_under_the_variable_and_are_counted(
    portable, pretended, tmp_path, monkeypatch, capfd, fail_at, status, counted
):
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "test_some.py").write_text(TESTS)
    monkeypatch.setenv("FAIL_AT", str(fail_at))
    assert portable.main(["old", "--", str(tmp_path), f"-c={tmp_path / 'pytest.ini'}"]) == status
    shown = capfd.readouterr().out
    assert "=== old: INSTRUCTIONS=old\n" in shown
    assert f"old     {counted}, 0 skipped, " in shown.splitlines()[-1]


def test_names_choose_processors_and_the_rest_goes_to_pytest(portable):
    assert portable.chosen(["sse", "avx2", "--", "tests/layer", "--lf"]) == (["sse", "avx2"], ["tests/layer", "--lf"])
    assert portable.chosen([]) == (list(portable.PROCESSORS), [])
    with pytest.raises(SystemExit, match="processor 'pentium' is unknown; use some of sse, avx2, avx512, other"):
        portable.chosen(["pentium"])


def test_draws_of_the_library_are_shifted_and_those_of_tests_and_fingerprints_are_not():
    code = """
from unrelu.runtime.streams import stream, torch_stream
library = {"__name__": "unrelu.problem", "stream": stream, "torch_stream": torch_stream}
for purpose in ("starts", "fingerprint"):
    for made in (f"stream('{purpose}', 0).bit_generator.random_raw()", f"torch_stream('{purpose}', 0).initial_seed()"):
        print(eval(made) == eval(made, library))
"""
    path = os.pathsep.join((str(ROOT / "tests" / "other_draws"), os.environ.get("PYTHONPATH", "")))
    for shift, expected in (("0", ["True"] * 4), ("3", ["False"] * 2 + ["True"] * 2)):
        environment = {**os.environ, "PYTHONPATH": path, "UNRELU_TEST_SEED_SHIFT": shift}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert run.stdout.split() == expected


# Of a script for developers: a fresh process that imports every library, to look at this machine.
@pytest.mark.long
def test_libraries_say_themselves_what_they_run(portable):
    """A fresh Python without variables says what the libraries of this one say."""
    said = portable.probe({})
    architectures = {blas["architecture"] for blas in threadpool_info() if blas["internal_api"] == "openblas"}
    assert said["openblas"] == str(sorted(architectures))
    assert said["aten"] == torch.backends.cpu.get_cpu_capability()
    assert ("MKL_VERBOSE" in said["mkl"]) == torch.backends.mkl.is_available()
