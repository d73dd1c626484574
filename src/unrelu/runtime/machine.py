"""The machine and the libraries behind a measurement."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

_LIBRARIES = ("unrelu", "numpy", "scipy", "numba", "highspy", "torch", "cvxopt")


def describe() -> dict[str, Any]:
    """Return processor, cores, versions, BLAS, date and load, which a reader needs to judge a measured time."""
    blas = [library for library in threadpool_info() if library["user_api"] == "blas"]  # of NumPy, and of SciPy
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        "blas": sorted({f"{library['internal_api']} {library['version']}" for library in blas}),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def version(library: str) -> str:
    """Return the installed version of a library, or "not installed"."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """Return the model name of the processor, from Linux or else from Python."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
