"""The devices that PyTorch computes on: which ones can be used, and how much memory they have."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from unrelu.errors import OptionError

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
