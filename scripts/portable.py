"""Run the tests as other processors would: all numerical libraries held to older instructions, a processor at a time.

Libraries choose their code by the processor, and codes differ in the order of their sums, so that results differ by
rounding. Tests have to hold under all of it. ``make portable`` runs the tests of ``make test`` as on every processor; a
part of them:

    python scripts/portable.py sse avx2 -- tests/layerwise --lf

Names choose processors, what follows ``--`` goes to pytest (default: ``-n 2 --dist worksteal``, which keeps the tests
of a module together). Each has a cache of its own, so that ``--lf`` means its own failures. What this machine cannot
run is left out, and the reason shown; so is what a library says that does not follow its variable, as another BLAS
than OpenBLAS.

``other`` runs the tests of pages, sampling and search alone, with other draws from the same seeds: what fails then was
green by luck. ``make check`` runs it.
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
class Setting:
    """One library's choice of instructions.

    Attributes:
        library: What :func:`probe` calls the library.
        variable: The environment variable that it reads when it is loaded.
        value: Its value.
        effect: What the library says of itself when it follows the variable.
    """

    library: str
    variable: str
    value: str
    effect: str


@dataclass(frozen=True)
class Processor:
    """A processor as the libraries see it: all of them held to its instructions at once.

    Attributes:
        needs: What the processor at hand must have, as ATen ranks processors: "DEFAULT", "AVX2" or "AVX512".
        settings: One for each library.
        seed_shift: Other than 0, searches and samplers draw other numbers from the same seeds, see tests/conftest.py.
        tests: Files and folders of the tests that run where nothing follows ``--``; none are those of ``make test``.
    """

    needs: str
    settings: tuple[Setting, ...]
    seed_shift: int = 0
    tests: tuple[str, ...] = ()

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of the settings, and that of the shift."""
        shift = {"UNRELU_TEST_SEED_SHIFT": str(self.seed_shift)} if self.seed_shift else {}
        return {setting.variable: setting.value for setting in self.settings} | shift


PROCESSORS = {
    # Before AVX: MKL and OpenBLAS compute with SSE, ATen and Numba with what every x86-64 has.
    "sse": Processor(
        "DEFAULT",
        (
            Setting("mkl", "MKL_CBWR", "COMPATIBLE", "CNR:COMPATIBLE"),
            Setting("aten", "ATEN_CPU_CAPABILITY", "default", "DEFAULT"),
            Setting("openblas", "OPENBLAS_CORETYPE", "Nehalem", "['Nehalem']"),
            Setting("numba", "NUMBA_CPU_NAME", "generic", "generic"),
        ),
    ),
    "avx2": Processor(
        "AVX2",
        (
            Setting("mkl", "MKL_ENABLE_INSTRUCTIONS", "AVX2", "(Intel(R) AVX2) enabled"),
            Setting("aten", "ATEN_CPU_CAPABILITY", "avx2", "AVX2"),
            Setting("openblas", "OPENBLAS_CORETYPE", "Haswell", "['Haswell']"),
            Setting("numba", "NUMBA_CPU_NAME", "haswell", "haswell"),
        ),
    ),
    "avx512": Processor(
        "AVX512",
        (
            Setting("mkl", "MKL_ENABLE_INSTRUCTIONS", "AVX512", "(Intel(R) AVX-512) enabled"),
            Setting("aten", "ATEN_CPU_CAPABILITY", "avx512", "AVX512"),
            Setting("openblas", "OPENBLAS_CORETYPE", "SkylakeX", "['SkylakeX']"),
            Setting("numba", "NUMBA_CPU_NAME", "skylake-avx512", "skylake-avx512"),
        ),
    ),
    # Libraries that differ among themselves, and other draws.
    "other": Processor(
        "AVX2",
        (
            Setting("mkl", "MKL_CBWR", "COMPATIBLE", "CNR:COMPATIBLE"),
            Setting("aten", "ATEN_CPU_CAPABILITY", "default", "DEFAULT"),
            Setting("openblas", "OPENBLAS_CORETYPE", "Haswell", "['Haswell']"),
            Setting("numba", "NUMBA_CPU_NAME", "generic", "generic"),
        ),
        seed_shift=1,
        tests=("tests/test_docs.py", "tests/studies/test_pages.py", "tests/sampling", "tests/search"),
    ),
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


def why_not(processor: Processor, plain: dict[str, str]) -> str:
    """Why no library can be held to a processor here, or "". ``plain`` is what a probe without variables found."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        return f"its instructions are of x86-64, this processor is {platform.machine()}"
    if plain["aten"] not in RANKS[RANKS.index(processor.needs) :]:
        return f"the processor has no {processor.needs}"
    return ""


def without_effect(processor: Processor) -> list[str]:
    """What each library says that does not follow its variable."""
    said = probe(processor.variables)
    return [
        f"{setting.variable}={setting.value} has no effect: {setting.library} says {said[setting.library] or 'nothing'}"
        for setting in processor.settings
        if setting.effect not in said[setting.library]
    ]


@dataclass(frozen=True)
class Outcome:
    """How the tests ended: their numbers, the seconds they took, and pytest's exit status."""

    passed: int
    failed: int
    skipped: int
    seconds: float
    status: int


def run_tests(name: str, processor: Processor, arguments: Sequence[str]) -> Outcome:
    """pytest as on a processor, its output passed on."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", "-o", f"cache_dir=.pytest_cache/{name}"]
        environment = {**os.environ, **processor.variables}
        status = subprocess.run([*command, *arguments], env=environment, cwd=ROOT, check=False).returncode
        counted = ElementTree.parse(report).getroot().find("testsuite") if report.exists() else None
    numbers = {} if counted is None else counted.attrib
    tests, errors, failures, skipped = (int(numbers.get(of, 0)) for of in ("tests", "errors", "failures", "skipped"))
    failed = errors + failures
    return Outcome(tests - failed - skipped, failed, skipped, time.perf_counter() - begin, status)


def chosen(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The processors that are named before ``--`` (all if none is), and what follows it, which may be nothing."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    names, rest = list(arguments[:at]), list(arguments[at + 1 :])
    for name in names:
        if name not in PROCESSORS:
            sys.exit(f"processor {name!r} is unknown; use some of {', '.join(PROCESSORS)}")
    return names or list(PROCESSORS), rest


def main(arguments: Sequence[str]) -> int:
    """Run, then a line for every processor; 1 if tests failed under one, or if none could be had."""
    names, options = chosen(arguments)
    plain = probe({})
    lines, statuses = [], []
    for name in names:
        processor = PROCESSORS[name]
        reason = why_not(processor, plain)
        if reason:
            lines.append(f"{name:7} left out: {reason}")
            continue
        variables = " ".join(f"{variable}={value}" for variable, value in processor.variables.items())
        print(f"\n=== {name}: {variables}", *without_effect(processor), sep="\n", flush=True)
        outcome = run_tests(name, processor, options or ["-n", "2", "--dist", "worksteal", *processor.tests])
        statuses.append(outcome.status)
        ended = f", pytest ended with status {outcome.status}" if outcome.status not in {0, 1} else ""
        lines.append(
            f"{name:7} {outcome.passed} passed, {outcome.failed} failed, {outcome.skipped} skipped, "
            f"{outcome.seconds:.0f} s{ended}"
        )
    print("", *lines, sep="\n")
    return int(not statuses or any(statuses))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
