"""The machine and the libraries behind a measurement."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

_LIBRARIES = ("unrelu", "numpy", "scipy", "numba", "highspy", "torch", "cvxopt")


def describe() -> dict[str, Any]:
    """Processor, cores, versions, BLAS, date and load, which a reader needs to judge a measured time."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        "blas": _blas(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def version(library: str) -> str:
    """The installed version, or "not installed"."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The model name from Linux, or else from Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _blas() -> list[str]:
    """The BLAS libraries in this process: NumPy and SciPy may each bring one."""
    keys = ("internal_api", "version", "architecture")
    found = (info for info in threadpool_info() if info["user_api"] == "blas")
    return sorted({" ".join(str(info[key]) for key in keys if info.get(key)) for info in found})
