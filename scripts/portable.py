"""Run the tests as other processors would: each numerical library held to older instructions, one after another.

Libraries choose their code by the processor, and codes differ in the order of their sums, so that results differ by
rounding. Tests have to hold under all of it. ``make portable`` runs the whole suite under every configuration; a part:

    python scripts/portable.py haswell numba -- tests/layer --lf

Names choose configurations, what follows ``--`` goes to pytest (default: ``-n 2``). Each has a cache of its own, so
that ``--lf`` means its own failures. A configuration that cannot be had on this machine is left out, and the reason
shown: its processor lacks the instructions, the library is another one, or does not follow the variable.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent

# What the libraries say of themselves, printed by a fresh Python: they read the variables when they are loaded, and
# NumPy and SciPy each bring an OpenBLAS. MKL says it on its standard output, of its first call.
PROBE = """
import json
import numpy, scipy.linalg, torch
from numba.core.registry import cpu_target
from threadpoolctl import threadpool_info

torch.ones(8, 8) @ torch.ones(8, 8)
print(json.dumps({
    "aten": torch.backends.cpu.get_cpu_capability(),
    "numba": cpu_target.target_context.codegen().magic_tuple()[1],
    "openblas": sorted({blas["architecture"] for blas in threadpool_info() if blas["internal_api"] == "openblas"}),
}), flush=True)
"""


@dataclass(frozen=True)
class Configuration:
    """A choice of instructions: one library's variable.

    Attributes:
        variable: Environment variable, set before Python starts.
        value: Its value.
        library: What :func:`probe` calls the library that reads it.
        effect: What the library says of itself when it follows the variable.
        needs: What the processor must have, as ATen ranks processors: "DEFAULT", "AVX2" or "AVX512".
    """

    variable: str
    value: str
    library: str
    effect: str
    needs: str = "DEFAULT"


CONFIGURATIONS = {
    "mkl-compatible": Configuration("MKL_CBWR", "COMPATIBLE", "mkl", "CNR:COMPATIBLE"),
    "mkl-avx2": Configuration("MKL_ENABLE_INSTRUCTIONS", "AVX2", "mkl", "(Intel(R) AVX2) enabled", "AVX2"),
    "mkl-avx512": Configuration("MKL_ENABLE_INSTRUCTIONS", "AVX512", "mkl", "(Intel(R) AVX-512) enabled", "AVX512"),
    "aten-default": Configuration("ATEN_CPU_CAPABILITY", "default", "aten", "DEFAULT"),
    "openblas-haswell": Configuration("OPENBLAS_CORETYPE", "Haswell", "openblas", "['Haswell']", "AVX2"),
    "openblas-skylakex": Configuration("OPENBLAS_CORETYPE", "SkylakeX", "openblas", "['SkylakeX']", "AVX512"),
    "openblas-nehalem": Configuration("OPENBLAS_CORETYPE", "Nehalem", "openblas", "['Nehalem']"),
    "numba-generic": Configuration("NUMBA_CPU_NAME", "generic", "numba", "generic"),
}
RANKS = ("DEFAULT", "AVX2", "AVX512")


def probe(variables: dict[str, str]) -> dict[str, str]:
    """What each library says of itself under the variables; "" where it says nothing, as MKL where it is not there."""
    run = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**os.environ, "MKL_VERBOSE": "1", **variables},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    lines = run.stdout.splitlines()
    said = json.loads(next(line for line in lines if line.startswith("{")))
    mkl = " ".join(line for line in lines if line.startswith("MKL_VERBOSE"))
    return {"mkl": mkl, **{library: str(words) for library, words in said.items()}}


def why_not(configuration: Configuration, plain: dict[str, str]) -> str:
    """Why a configuration cannot be had on this machine, or "". ``plain`` is what a probe without variables found."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        return f"its instructions are of x86-64, this processor is {platform.machine()}"
    if plain["aten"] not in RANKS[RANKS.index(configuration.needs) :]:
        return f"the processor has no {configuration.needs}"
    if plain[configuration.library] in {"", "[]"}:
        return f"no library reads {configuration.variable} here"
    said = probe({configuration.variable: configuration.value})[configuration.library]
    if configuration.effect not in said:
        return f"{configuration.variable}={configuration.value} has no effect: {configuration.library} says {said}"
    return ""


@dataclass(frozen=True)
class Outcome:
    """How the tests ended: their numbers, the seconds they took, and pytest's exit status."""

    passed: int
    failed: int
    skipped: int
    seconds: float
    status: int


def run_tests(name: str, configuration: Configuration, arguments: Sequence[str]) -> Outcome:
    """pytest under a configuration, its output passed on."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", "-o", f"cache_dir=.pytest_cache/{name}"]
        environment = {**os.environ, configuration.variable: configuration.value}
        status = subprocess.run([*command, *arguments], env=environment, cwd=ROOT, check=False).returncode
        counted = ElementTree.parse(report).getroot().find("testsuite") if report.exists() else None
    numbers = {} if counted is None else counted.attrib
    tests, errors, failures, skipped = (int(numbers.get(of, 0)) for of in ("tests", "errors", "failures", "skipped"))
    failed = errors + failures
    return Outcome(tests - failed - skipped, failed, skipped, time.perf_counter() - begin, status)


def chosen(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The configurations that are named before ``--`` (all if none is), and what follows it."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    wanted, rest = arguments[:at], list(arguments[at + 1 :])
    names = [name for name in CONFIGURATIONS if not wanted or any(word in name for word in wanted)]
    for word in wanted:
        if not any(word in name for name in CONFIGURATIONS):
            sys.exit(f"no configuration has {word!r} in its name; use some of {', '.join(CONFIGURATIONS)}")
    return names, rest or ["-n", "2"]


def main(arguments: Sequence[str]) -> int:
    """Run, then a line for every configuration; 1 if tests failed in one, or if none could be had."""
    names, options = chosen(arguments)
    plain = probe({})
    lines, statuses = [], []
    for name in names:
        configuration = CONFIGURATIONS[name]
        reason = why_not(configuration, plain)
        if reason:
            lines.append(f"{name:18} left out: {reason}")
            continue
        print(f"\n=== {name}: {configuration.variable}={configuration.value}", flush=True)
        outcome = run_tests(name, configuration, options)
        statuses.append(outcome.status)
        ended = f", pytest ended with status {outcome.status}" if outcome.status not in {0, 1} else ""
        lines.append(
            f"{name:18} {outcome.passed} passed, {outcome.failed} failed, {outcome.skipped} skipped, "
            f"{outcome.seconds:.0f} s{ended}"
        )
    print("", *lines, sep="\n")
    return int(not statuses or any(statuses))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
