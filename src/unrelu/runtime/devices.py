"""The devices that PyTorch computes on: which can be used, and how much fits into one at a time, or at all."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from unrelu.errors import OptionError

# Where Linux keeps the limit of the memory of a container, in versions 2 and 1 of its control groups.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def usable(device: torch.device | str | int, dtype: torch.dtype = torch.float64) -> torch.device:
    """The device of this name, with its number.

    Raises:
        OptionError: there is none, it holds no numbers of this type, or it computes nothing; the message names those
            that are available.
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
    """The bytes of memory that a device has, used or not: nothing larger fits. The largest integer if not known."""
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
    """The bytes of a device's memory; 0 for the host, and where they are not known."""
    if device.type == "cpu":
        return 0
    properties = getattr(torch.get_device_module(device), "get_device_properties", None)
    return int(getattr(properties(device), "total_memory", 0)) if properties else 0
