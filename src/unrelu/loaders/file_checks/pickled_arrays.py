"""Read numbers, text, containers and NumPy arrays from a pickle. Everything else in it is refused, never made.

No class or function that a file names is imported or called: the few names that are known stand for functions of this
module. An array has to hold as many bytes as its shape states.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from unrelu.errors import InputError, ModelFileError
from unrelu.loaders.file_checks import readable
from unrelu.loaders.file_checks._pickle_opcodes import BoundedStream, PickleStep, steps
from unrelu.runtime.file_reading import check_array, check_text, opened, shown_size

_WAY_OUT = (
    "if you trust the file, save its arrays where it can be opened, numpy.savez('network.npz', W0=..., b0=..., W1=..., "
    "b1=...)"
)
# The magic number with which checkpoints of PyTorch before 1.6 begin, as it is pickled.
_LEGACY = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
# Bytes of what an opcode makes, with its entries on the stack and in the memo, beside its argument.
_BYTES = 256
# Types of entries, as numpy.dtype is called in pickles.
_TYPE = re.compile(r"b1|[iufc]\d{1,2}|[SU]\d{1,9}|O\d?")


@dataclass(frozen=True)
class _Name:
    """A class or function that the file names."""

    path: str


class _Later:
    """An array whose shape and entries, or a type of entries whose byte order, come with a later opcode."""

    def __init__(self, value: np.dtype[Any] | None = None) -> None:
        self.value: Any = value


def read_pickle(file: Path, max_bytes: int) -> Any:
    """The contents of a file of one pickle, as :func:`unpickled` gives them.

    Raises:
        ModelFileError, InputError: see there; or it has more than ``max_bytes``, or is a checkpoint of PyTorch.
    """
    with opened(file) as (stream, size):
        if size > max_bytes:
            raise InputError(f"the file has {shown_size(size)}; pass a larger max_bytes= (--max-bytes) if you trust it")
        begins = stream.read(14)
        if begins.startswith(b"PK\x03\x04") or begins[2:] == _LEGACY:
            raise ModelFileError("it is a checkpoint of PyTorch; give it a name that ends in .pt")
        stream.seek(0)
        return unpickled(stream, size, max_bytes)


def unpickled(stream: IO[bytes], end: int, max_bytes: int) -> Any:
    """Numbers, text, bytes, lists, tuples, dictionaries and NumPy arrays of a pickle.

    An array of objects becomes a list, or the object itself if it has no axes. So do arrays of JAX become arrays of
    NumPy, and TensorFlow's lists become lists.

    Args:
        stream: where the pickle begins.
        end: the position in the stream at which it has to have ended.
        max_bytes: the most bytes that it may take in memory.

    Raises:
        ModelFileError: it holds other objects, or is damaged.
        InputError: it would take more than ``max_bytes``, or an array states another size than it holds.
    """
    stack: list[Any] = []
    most = max(0, max_bytes - end) // _BYTES  # arguments take no more bytes than the file

    def check(count: int) -> None:
        if count > most:
            raise InputError(
                f"its pickle makes more than {most:,} objects, of up to {_BYTES} bytes each; pass a larger max_bytes= "
                "(--max-bytes) if you trust the file"
            )

    with readable("pickle of arrays", _WAY_OUT):
        for step in steps(BoundedStream(stream, end), stack, check):
            if step.name == "STOP":
                if isinstance(step.taken[0], _Name):
                    raise _foreign(step.taken[0].path)
                return _plain(step.taken[0])
            made = _made(step)
            if step.gives:
                stack.append(made)
        raise ValueError("it has no end")


def _made(step: PickleStep) -> Any:
    """What an opcode puts on the stack."""
    name, argument, taken, gives = step
    if name in ("BUILD", "REDUCE"):
        return (_built if name == "BUILD" else _reduced)(*taken)
    if name in ("GLOBAL", "STACK_GLOBAL"):
        return _Name(str(argument).replace(" ", ".") if argument is not None else f"{taken[0]}.{taken[1]}")
    if name in _CONSTANTS:
        return _CONSTANTS[name]
    if name in ("PROTO", "FRAME", "POP", "POP_MARK"):
        return None
    if "LIST" in name or "TUPLE" in name:
        return (list if "LIST" in name else tuple)(map(_plain, taken))
    if "APPEND" in name and isinstance(taken[0], list):
        taken[0].extend(map(_plain, taken[1:]))
        return taken[0]
    if "SETITEM" in name and isinstance(taken[0], dict):
        return _filled(taken[0], taken[1:])
    if "DICT" in name:
        return _filled({}, taken)
    if gives and not taken and name not in ("PERSID", "INST", "EXT1", "EXT2", "EXT4") and argument is not None:
        return argument
    if name == "READONLY_BUFFER":
        return taken[0]
    raise _foreign(next((item.path for item in taken if isinstance(item, _Name)), name))


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def _plain(value: Any) -> Any:
    """A value that goes into a container or is the result: an array that is complete."""
    if isinstance(value, _Later):
        if value.value is None:
            raise ValueError("an array without entries")
        return value.value
    return value


def _filled(held: dict[str, Any], items: list[Any]) -> dict[str, Any]:
    """A dictionary with keys and values that follow each other. Keys are text: others may take forever to hash."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str):
            raise ModelFileError(f"the file holds a dictionary with a key of type {type(key).__name__}; {_WAY_OUT}")
        held[key] = _plain(value)
    return held


def _foreign(what: str) -> ModelFileError:
    return ModelFileError(
        f"the file holds pickled objects other than numbers, text, lists, dictionaries and arrays, which could run "
        f"code: {what!r:.80}; {_WAY_OUT}"
    )


# --- arrays -----------------------------------------------------------------------------------------------------------


def _reduced(name: Any, arguments: Any) -> Any:
    """What calling a function of the file would give, for the few that are known."""
    path = name.path if isinstance(name, _Name) else type(name).__name__
    if path not in _FUNCTIONS or not isinstance(arguments, tuple):
        raise _foreign(path)
    return _FUNCTIONS[path](*arguments)


def _built(target: Any, state: Any) -> Any:
    """Complete an array (version, shape, type, whether in Fortran's order, entries), or the byte order of a type."""
    if not isinstance(target, _Later):
        raise _foreign(type(target).__name__)
    if isinstance(target.value, np.dtype):
        target.value = target.value.newbyteorder(state[1])
    else:
        _, shape, dtype, fortran, entries = state
        target.value = _array(entries, dtype, shape, "F" if fortran else "C")
    return target


def _type(name: Any, *_: Any) -> _Later:
    if not isinstance(name, str) or not _TYPE.fullmatch(name):
        raise _foreign(f"an array with entries of type {name!r:.40}")
    return _Later(np.dtype(name))


def _array(entries: Any, dtype: Any, shape: Any, order: str = "C") -> Any:
    """The array of these bytes; of objects, their list, or the object itself if the shape is ()."""
    if not isinstance(dtype, np.dtype) or not isinstance(shape, tuple) or not all(type(n) is int for n in shape):
        raise ValueError("an array without shape and type of its entries")
    if dtype.hasobject:
        if len(shape) > 1 or not isinstance(entries, list) or len(entries) != math.prod(shape):
            raise _foreign("an array of objects")
        return entries if shape else entries[0]
    check_array(shape, dtype, "an array")
    held = entries.encode("latin-1") if isinstance(entries, str) else entries
    if math.prod(shape) * dtype.itemsize != len(held):
        raise InputError(
            f"an array states the shape {shape!s:.80} of {dtype}, {shown_size(math.prod(shape) * dtype.itemsize)}, "
            f"but holds {shown_size(len(held))}: it is cut short or damaged"
        )
    array = np.ndarray(shape, dtype, held, order="F" if order == "F" else "C")
    check_text(array, "an array")
    return array


def _of_jax(function: Any, arguments: Any, state: Any, *_: Any) -> Any:
    return _built(_reduced(function, arguments), state)


def _listed(entries: Any) -> list[Any]:
    if not isinstance(entries, list):
        raise ValueError("a list of TensorFlow that holds no list")
    return entries


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _type,
    "_codecs.encode": lambda text, codec: text.encode({"latin1": "latin-1"}[codec]),
    "__builtin__.bytes": lambda: b"",
    "collections.OrderedDict": dict,
    "jax._src.array._reconstruct_array": _of_jax,
    **dict.fromkeys(
        (
            "tensorflow.python.trackable.data_structures.ListWrapper",
            "tensorflow.python.training.tracking.data_structures.ListWrapper",
        ),
        _listed,
    ),
}
for _numpy in ("numpy.core", "numpy._core"):
    _FUNCTIONS |= {
        f"{_numpy}.multiarray._reconstruct": lambda *_: _Later(),
        f"{_numpy}.multiarray.scalar": lambda dtype, entries: _array(entries, dtype, ())[()],
        f"{_numpy}.numeric._frombuffer": _array,
    }
