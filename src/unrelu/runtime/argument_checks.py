"""Checks of what public functions take: names of arguments; numbers and arrays, their types and limits, no booleans."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, OptionError
from unrelu.runtime.array_types import Array
from unrelu.runtime.words import nearest, shown

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Kinds of NumPy types that NumPy would convert to numbers, which would lose their meaning.
_UNREAL = {"c": "complex", "S": "text", "U": "text", "M": "date", "m": "time"}


def known_arguments(function: _Function) -> _Function:
    """Decorate a public function: an OptionError for an unknown keyword says what may be meant."""
    known = signature(function).parameters

    @wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        for name in named:
            if name not in known:
                takes = f"it takes {', '.join(known)}{nearest(name, known)}"
                raise OptionError(f"unrelu.{function.__name__} has no argument {name!r}; {takes}")
        return function(*arguments, **named)

    return cast(_Function, called)


def real_number(name: str, value: Any, what: str) -> float:
    """Return a number as a float, infinite beyond the range of floats. An OptionError says ``what`` it must be."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise OptionError(f"{name}={value!r} must be {what}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def whole_number(name: str, value: Any, least: int, most: float = math.inf) -> int:
    """Return a whole number from ``least`` to ``most``; raise an :class:`OptionError` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        limits = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise OptionError(f"{name}={shown(value)} must be a whole number {limits}")
    return int(value)


def numbers(value: npt.ArrayLike, name: str) -> Array:
    """Copy an array, a tensor or nested lists of real numbers as float64; messages use ``name``.

    Raises:
        InputError: it is ragged, complex, text or masked.
    """
    import torch  # noqa: PLC0415 -- files are read before PyTorch is needed

    try:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu()  # RuntimeError: meta, quantized and sparse tensors
            value = value if value.is_complex() else value.double()
        array = np.asarray(value)
        kind = "masked" if np.ma.is_masked(value) else _UNREAL.get(array.dtype.kind)
        if kind is None:
            return np.array(array, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as numbers: {error}") from None
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        call = f": {name}=numpy.load({text!r})" if str(text).endswith((".npy", ".npz")) else ""
        raise InputError(f"{name}={text!r} is text; pass the numbers{call}")
    raise InputError(f"{name} has {kind} entries; pass real numbers")
