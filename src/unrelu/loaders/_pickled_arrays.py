"""Read numbers, text, containers and arrays from pickles and PyTorch files. Refuse to build any other object.

PyTorch reads its own files, by ``torch.load(weights_only=True)``. ``pickle.Unpickler`` reads other pickles. They can
call only the functions of a table in this module. NumPy's own functions would let a pickle pass off bytes as objects.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from unrelu.errors import InputError, ModelFileError, UnreluError
from unrelu.runtime.file_reading import check_array, check_stated_size, check_text, opened, shown_size

_SAVE_ARRAYS = "if you trust the file, save its arrays where it can be opened, numpy.savez('net.npz', W0=..., b0=...)"
_SAVE_TENSORS = (
    "save module.state_dict() with torch.save, of plain tensors (.dequantize(), .to_dense()), export to ONNX, or build "
    "the module and use unrelu.from_torch"
)
# The pickled magic number at the start of checkpoints written by PyTorch before 1.6.
_LEGACY = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
# Names of entry types that pickles pass to numpy.dtype.
_TYPE = re.compile(r"b1|[iufc]\d{1,2}|[SU]\d{1,9}|O\d?")
# The name of a refused function or class in PyTorch's error message.
_REFUSED = re.compile(r"(?:GLOBAL|function) (\S+)")
_FOREIGN = (
    "the file holds pickled objects other than numbers, text, lists, dictionaries and arrays, which could run code: "
    "{0!r}; {1}"
)


@contextmanager
def readable(kind: str, way_out: str = "export it again") -> Iterator[None]:
    """Convert any error of a parser to a ModelFileError about a damaged file; pass on unrelu's own errors."""
    try:
        yield
    except (UnreluError, MemoryError):
        raise
    except Exception as error:  # raised by zipfile, zlib, protobuf, ... for unexpected bytes
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelFileError(f"not a {kind}, or a truncated one ({reason}); {way_out}") from error


def read_pickle(file: Path) -> Any:
    """Read a file that holds one pickle; :func:`unpickled` says what it may contain."""
    with opened(file) as (stream, size):
        check_stated_size(f"{file} has", size)
        begins = stream.read(14)
        if begins.startswith(b"PK\x03\x04") or begins[2:] == _LEGACY:
            raise ModelFileError("it is a checkpoint of PyTorch; give it a name that ends in .pt")
        stream.seek(0)
        return unpickled(stream, size)


def unpickled(stream: IO[bytes], end: int) -> Any:
    """Read the numbers, text, bytes, lists, tuples, dictionaries and NumPy arrays of a pickle.

    JAX arrays become NumPy arrays, TensorFlow lists become lists. An object array without axes becomes its object. Of a
    dictionary with Flax's ``params``, objects of the author's own beside them are left out; these are never built.

    Args:
        stream: where the pickle begins.
        end: the position in the stream where the pickle must have ended.

    Raises:
        ModelFileError: the pickle holds other objects, or is damaged.
        InputError: the stated size of an array differs from the size of its data.
    """
    content = stream.read(end - stream.tell())
    with readable("pickle of arrays", _SAVE_ARRAYS):
        for opcode, argument, _ in pickletools.genops(content):
            # The unpickler allocates a memo of the stated length (PUT), and returns objects registered by number (EXT).
            # Python refuses to write a number of more than 4,300 digits into a message.
            large = type(argument) is int and argument.bit_length() > 10_000
            if (
                opcode.name.startswith("EXT")
                or (opcode.name.endswith("PUT") and (argument or 0) > len(content))
                or large
            ):
                raise ValueError(f"an unexpected {opcode.name}")
        found = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    if isinstance(found, np.ndarray) and found.dtype.hasobject and not found.ndim:
        found = found.item()
    if isinstance(found, dict) and "params" in found:
        found = {
            name: value for name, value in found.items() if name == "params" or _placeholder([name, value]) is None
        }
    if (foreign := _placeholder(found)) is not None:
        raise ModelFileError(_FOREIGN.format(foreign.path[:80], _SAVE_ARRAYS))
    return found


def read_checkpoint(file: Path) -> object:
    """Read tensors and plain containers by ``torch.load(weights_only=True)`` onto the CPU; no code of the file runs.

    Files written by PyTorch before 1.6 are not zip files; their tensors may be on any device.

    Raises:
        ModelFileError: the file is no PyTorch file, is damaged or a TorchScript program, or holds other objects.
        InputError: the file states more bytes than the setting allows.
    """
    with opened(file) as (stream, size), readable("PyTorch file", _SAVE_TENSORS):
        if zipfile.is_zipfile(stream):
            members = zipfile.ZipFile(stream).infolist()
            check_stated_size(f"{file} would decompress to", sum(info.file_size for info in members))
            if any(info.filename.endswith("/constants.pkl") for info in members):
                raise ModelFileError(
                    "the file is a program of TorchScript, which can read and write files (torch.from_file). If you "
                    f"trust its author, unrelu.from_torch(torch.jit.load({str(file)!r}), latent_shape=...) runs it; "
                    f"else {_SAVE_TENSORS}"
                )
        else:
            check_stated_size(f"{file} has", size)
        stream.seek(0)
        try:
            with warnings.catch_warnings(action="ignore"):  # about old file formats
                return torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if (named := _REFUSED.search(str(error))) is None:
                raise
            raise ModelFileError(_FOREIGN.format(named[1][:80], _SAVE_TENSORS)) from error


# --- what pickles may call --------------------------------------------------------------------------------------------


class _EntryType:
    """The type of an array's entries, which replaces ``numpy.dtype``; a later opcode may set its byte order."""

    __slots__ = ("dtype",)

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or not _TYPE.fullmatch(name):
            given = getattr(name, "path", name)
            raise ModelFileError(f"the file holds an array with entries of type {given!r:.40}; {_SAVE_ARRAYS}")
        self.dtype: np.dtype[Any] = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _PickledArray(np.ndarray[Any, Any]):
    """An array whose shape, type and entries are set only once, and checked to match in size."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, entries = state
        if self.shape != (0,):  # NumPy would free entries that are still referenced
            raise ValueError("an array is made twice")
        if not isinstance(kind, _EntryType) or type(shape) is not tuple or any(type(n) is not int for n in shape):
            raise ValueError("an array without shape and type of its entries")
        if kind.dtype.hasobject:
            if len(shape) > 1 or type(entries) is not list or len(entries) != math.prod(shape):
                raise ModelFileError(_FOREIGN.format("an array of objects", _SAVE_ARRAYS))
        else:
            check_array(shape, kind.dtype, "an array")
            if (stated := math.prod(shape) * kind.dtype.itemsize) != len(entries):
                raise InputError(
                    f"an array states the shape {shape!s:.80} of {kind.dtype}, {shown_size(stated)}, but holds "
                    f"{shown_size(len(entries))}: it is cut short or damaged"
                )
            entries = entries.encode("latin-1") if isinstance(entries, str) else bytes(entries)
        content: Any = (1, shape, kind.dtype, bool(fortran), entries)
        super().__setstate__(content)
        check_text(self, "an array")


class _OrderedDictionary(dict[Any, Any]):
    """An OrderedDict without its attributes, in which PyTorch stores the versions of modules."""

    def __setstate__(self, state: object) -> None:
        pass


class _Function:
    """A function that a pickle may call; the pickle cannot change its attributes."""

    __slots__ = ("_call", "_name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self._name, self._call = name, call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise ModelFileError(_FOREIGN.format(f"attributes of {self._name}", _SAVE_ARRAYS))


def _empty(kind: object = np.ndarray, *_: object) -> _PickledArray:
    if isinstance(kind, type) and issubclass(kind, _Placeholder):
        raise ModelFileError(_FOREIGN.format(kind.path[:80], _SAVE_ARRAYS))
    return np.ndarray.__new__(_PickledArray, (0,))


def _array(entries: Any, kind: Any, shape: Any, order: Any = "C") -> _PickledArray:
    array = _empty()
    array.__setstate__((1, shape, kind, order == "F", entries))
    return array


def _array_of_jax(make: Any, arguments: Any, state: Any, *_: object) -> _PickledArray:
    array: _PickledArray = make(*arguments)
    array.__setstate__(state)
    return array


def _latin(text: str, codec: str = "latin1") -> bytes:
    return text.encode({"latin1": "latin-1"}[codec])


_CALLED: Mapping[str, Callable[..., Any]] = {
    "numpy.dtype": _EntryType,
    "numpy.core.multiarray._reconstruct": _empty,
    "numpy.core.multiarray.scalar": lambda kind, entries: _array(entries, kind, ())[()],
    "numpy.core.numeric._frombuffer": _array,
    "jax._src.array._reconstruct_array": _array_of_jax,
    "_codecs.encode": _latin,
    "__builtin__.bytes": lambda: b"",
    "flax.core.frozen_dict.FrozenDict": lambda items=(): dict(items),
    "collections.OrderedDict": lambda items=(): _OrderedDictionary(items),
    "tensorflow.python.trackable.data_structures.ListWrapper": lambda held: held,
    "tensorflow.python.training.tracking.data_structures.ListWrapper": lambda held: held,
}
_FUNCTIONS: Mapping[str, Any] = {
    "numpy.ndarray": "an array",  # an argument of _reconstruct
    **{name: _Function(name, call) for name, call in _CALLED.items()},
}


class _Placeholder:
    """A stand-in for any other function, class or object of a pickle. It accepts any arguments, and keeps nothing."""

    path = ""

    def __new__(cls, *_: object, **__: object) -> _Placeholder:
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def _ignore(self, *_: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> _Placeholder:
        return self

    __setstate__ = __setitem__ = append = extend = add = _ignore


def _placeholder(found: Any) -> _Placeholder | type[_Placeholder] | None:
    """Return the first placeholder within containers, if any."""
    waiting, seen = [found], set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, _Placeholder) or (isinstance(each, type) and issubclass(each, _Placeholder)):
            return each
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            waiting += [*each, *each.values()]
        elif isinstance(each, list | tuple | set | frozenset):
            waiting += each
        elif isinstance(each, np.ndarray) and each.dtype.hasobject:
            waiting += each.ravel().tolist()
    return None


class _Unpickler(pickle.Unpickler):
    """Python's unpickler, restricted to the functions of a table."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._placeholders: dict[str, type[_Placeholder]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return a function of the table, or for any other name a class of placeholders."""
        path = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if path in _FUNCTIONS:
            return _FUNCTIONS[path]
        if path not in self._placeholders:
            self._placeholders[path] = type("_Placeholder", (_Placeholder,), {"path": path})
        return self._placeholders[path]
