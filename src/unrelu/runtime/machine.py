"""The machine: the devices that PyTorch computes on, their memory, and what a measured time depends on."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_info

from unrelu.errors import OptionError

_LIBRARIES = ("unrelu", "numpy", "scipy", "numba", "highspy", "torch", "cvxopt")
# Files in which Linux states the memory limit of a container, in versions 2 and 1 of control groups.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def usable(device: torch.device | str | int, dtype: torch.dtype = torch.float64) -> torch.device:
    """Return the device of this name, with its number.

    Raises:
        OptionError: there is no such device, it does not support this type, or it cannot compute. The message names
            the available devices.
    """
    try:
        found = torch.empty(0, dtype=dtype, device=torch.device(device)).device
        if found.type == "meta":
            raise RuntimeError("its tensors have no numbers")
    except (AssertionError, ImportError, RuntimeError, TypeError) as error:
        why, kind = str(error).partition("\n")[0].rstrip("."), torch.accelerator.current_accelerator()
        others = [f"{kind.type}:{i}" for i in range(torch.accelerator.device_count())] if kind else []
        raise OptionError(
            f"device={device!r} cannot be used ({why}); available here: {', '.join(map(repr, ('cpu', *others)))}"
        ) from error
    return torch.device("cpu") if found.type == "cpu" else found


@cache
def total_memory(device: torch.device) -> int:
    """Return the total memory of a device in bytes, used or not. Return the largest integer if it is not known."""
    if device.type != "cpu":
        return memory(device) or sys.maxsize
    found = [sys.maxsize]
    with suppress(AttributeError, OSError, ValueError):  # not on Windows
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in _LIMITS:
        with suppress(OSError, ValueError):  # no such file, or "max"
            found.append(int(Path(limit).read_text(encoding="ascii")))
    return min(size for size in found if size > 0)


@cache
def memory(device: torch.device) -> int:
    """Return the memory of an accelerator in bytes; 0 for the host, and if the memory is not known."""
    if device.type == "cpu":
        return 0
    properties = getattr(torch.get_device_module(device), "get_device_properties", None)
    return int(getattr(properties(device), "total_memory", 0)) if properties else 0


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
