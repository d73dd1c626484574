"""Read numbers, text, containers and arrays from pickles and PyTorch's files. All else is refused, never made.

PyTorch reads its own files, by ``torch.load(weights_only=True)``. Python's unpickler reads other pickles. What they can
call are the functions of a table.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar, NoReturn

import numpy as np
import torch

from unrelu.errors import InputError, ModelError, ModelFileError
from unrelu.runtime.file_reading import check_array, check_members, check_text, opened, shown_size, zip_members

_SAVE_ARRAYS = "if you trust the file, save its arrays where it can be opened, numpy.savez('net.npz', W0=..., b0=...)"
_SAVE_TENSORS = (
    "save module.state_dict() with torch.save, of plain tensors (.dequantize(), .to_dense()), export to ONNX, or build "
    "the module and use unrelu.from_torch"
)
# The magic number with which checkpoints of PyTorch before 1.6 begin, as it is pickled.
_LEGACY = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
# Types of entries, as numpy.dtype is called in pickles.
_TYPE = re.compile(r"b1|[iufc]\d{1,2}|[SU]\d{1,9}|O\d?")
# Opcodes that no honest file of arrays has.
_LEFT_OUT = b"".join((
    pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.NEXT_BUFFER,
    pickle.READONLY_BUFFER,
))  # fmt: skip
# How PyTorch names a function or class that it refuses.
_REFUSED = re.compile(r"(?:GLOBAL|function) (\S+)")
_FOREIGN = (
    "the file holds pickled objects other than numbers, text, lists, dictionaries and arrays, which could run code: "
    "{0!r}; {1}"
)


@contextmanager
def readable(kind: str, way_out: str = "export it again") -> Iterator[None]:
    """Report whatever a parser raises as a damaged file of this kind, a ModelFileError; unrelu's own errors stay."""
    try:
        yield
    except (InputError, ModelError, MemoryError):
        raise
    except Exception as error:  # raised by zipfile, zlib, protobuf, ... for unexpected bytes
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelFileError(f"not a {kind}, or a truncated one ({reason}); {way_out}") from error


def read_pickle(file: Path, max_bytes: int) -> Any:
    """The contents of a file of one pickle, as :func:`unpickled` gives them, of at most ``max_bytes``."""
    with opened(file) as (stream, size):
        if size > max_bytes:
            raise InputError(f"the file has {shown_size(size)}; pass a larger max_bytes= (--max-bytes) if you trust it")
        begins = stream.read(14)
        if begins.startswith(b"PK\x03\x04") or begins[2:] == _LEGACY:
            raise ModelFileError("it is a checkpoint of PyTorch; give it a name that ends in .pt")
        stream.seek(0)
        return unpickled(stream, size)


def unpickled(stream: IO[bytes], end: int) -> Any:
    """Numbers, text, bytes, lists, tuples, dictionaries and NumPy arrays of a pickle.

    Arrays of JAX become arrays of NumPy, TensorFlow's lists lists. An array of objects without axes is its object.

    Args:
        stream: where the pickle begins.
        end: the position in the stream at which it has to have ended.

    Raises:
        ModelFileError: it holds other objects, or is damaged.
        InputError: an array states another size than it holds.
    """
    with readable("pickle of arrays", _SAVE_ARRAYS):
        found = _Unpickler(stream.read(end - stream.tell())).load()
    return found.item() if isinstance(found, np.ndarray) and found.dtype.hasobject and not found.ndim else found


def read_checkpoint(file: Path, max_bytes: int) -> object:
    """What ``torch.load(weights_only=True)`` reads, on the CPU: tensors and plain containers, by none of their code.

    Files of PyTorch before 1.6 are no zip files; their tensors may be on any device.

    Raises:
        ModelFileError: it is no PyTorch file, damaged, a TorchScript program, or holds other objects.
        InputError: it would take more than ``max_bytes``.
    """
    with opened(file) as (stream, size), readable("PyTorch file", _SAVE_TENSORS):
        if size > max_bytes:
            raise InputError(f"the file has {shown_size(size)}; pass a larger max_bytes= (--max-bytes) if you trust it")
        if zipfile.is_zipfile(stream):
            members = zip_members(zipfile.ZipFile(stream), file)
            if any(name.endswith("/constants.pkl") for name in members):
                raise ModelFileError(
                    "the file is a program of TorchScript, which can read and write files (torch.from_file). If you "
                    f"trust its author, unrelu.from_torch(torch.jit.load({str(file)!r}), latent_shape=...) runs it; "
                    f"else {_SAVE_TENSORS}"
                )
            check_members(members.values(), file, size, max_bytes)
        stream.seek(0)
        try:
            with warnings.catch_warnings(action="ignore"):  # of old forms of files
                return torch.load(stream, map_location="cpu", weights_only=True)
        except MemoryError as error:
            raise ModelFileError(f"it asks for more memory than there is: damaged; {_SAVE_TENSORS}") from error
        except pickle.UnpicklingError as error:
            if (named := _REFUSED.search(str(error))) is None:
                raise
            raise ModelFileError(_FOREIGN.format(named[1][:80], _SAVE_TENSORS)) from error


class _EntryType:
    """The type of an array's entries, as ``numpy.dtype`` is called; a later opcode may state its byte order."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or not _TYPE.fullmatch(name):
            raise ModelFileError(f"the file holds an array with entries of type {name!r:.40}; {_SAVE_ARRAYS}")
        self.dtype: np.dtype[Any] = np.dtype(name)


class _Unpickler(pickle._Unpickler):  # noqa: SLF001 -- in Python; the one in C makes a memo as long as a file states
    """Make plain objects, and what the functions of a table return.

    Args:
        content: the pickle.
    """

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        # A file may say as often as it likes that the same bytes are an array. Honest ones are copied twice.
        self._left = 2 * len(content)
        self._functions: dict[str, Any] = {
            "numpy.ndarray": "an array",  # an argument of _reconstruct
            "numpy.dtype": _EntryType,
            "numpy.core.multiarray._reconstruct": lambda *_: np.empty(0),
            "numpy.core.multiarray.scalar": lambda kind, entries: self._array(entries, kind, ())[()],
            "numpy.core.numeric._frombuffer": self._array,
            "jax._src.array._reconstruct_array": lambda made, given, state, *_: self._completed(made(*given), state),
            "_codecs.encode": self._latin,
            "__builtin__.bytes": lambda: b"",
            "collections.OrderedDict": lambda items=(): self._filled({}, [each for item in items for each in item]),
            "tensorflow.python.trackable.data_structures.ListWrapper": lambda held: held,
            "tensorflow.python.training.tracking.data_structures.ListWrapper": lambda held: held,
        }

    def find_class(self, module: str, name: str) -> Any:
        """The function of the table; what is not in it is refused."""
        path = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        return self._functions[path] if path in self._functions else self._refuse(path)

    def _build(self) -> None:
        state = self.stack.pop()
        self._completed(self.stack[-1], state)

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append(self._filled({}, items))

    def _setitem(self) -> None:
        pair, self.stack[-2:] = self.stack[-2:], []
        self._filled(self.stack[-1], pair)

    def _setitems(self) -> None:
        items = self.pop_mark()
        self._filled(self.stack[-1], items)

    def _bytearray(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))  # no more than the file holds

    # Without sets, buffers from outside, and what other code has registered.
    dispatch: ClassVar[Any] = {
        **{code: load for code, load in pickle._Unpickler.dispatch.items() if code not in _LEFT_OUT},  # noqa: SLF001
        pickle.BUILD[0]: _build, pickle.DICT[0]: _dict, pickle.SETITEM[0]: _setitem, pickle.SETITEMS[0]: _setitems,
        pickle.BYTEARRAY8[0]: _bytearray,
    }  # fmt: skip

    def _refuse(self, what: str) -> NoReturn:
        raise ModelFileError(_FOREIGN.format(what[:80], _SAVE_ARRAYS))

    def _latin(self, text: str, codec: str = "latin1") -> bytes:
        self._spend(len(text))
        return text.encode({"latin1": "latin-1"}[codec])

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise InputError("its arrays take more than twice the bytes of the file: it is damaged")

    def _array(self, entries: Any, kind: Any, shape: Any, order: Any = "C", *, target: Any = None) -> Any:
        """The array of these bytes, which have to be as many as shape and type state; or of the objects in a list."""
        if not isinstance(kind, _EntryType) or type(shape) is not tuple or any(type(n) is not int for n in shape):
            raise ValueError("an array without shape and type of its entries")
        if kind.dtype.hasobject:
            if len(shape) > 1 or type(entries) is not list or len(entries) != math.prod(shape):
                self._refuse("an array of objects")
            self._spend(len(entries))
        else:
            check_array(shape, kind.dtype, "an array")
            if (stated := math.prod(shape) * kind.dtype.itemsize) != len(entries):
                raise InputError(
                    f"an array states the shape {shape!s:.80} of {kind.dtype}, {shown_size(stated)}, but holds "
                    f"{shown_size(len(entries))}: it is cut short or damaged"
                )
            self._spend(stated)
            entries = self._latin(entries) if isinstance(entries, str) else bytes(entries)
        array: Any = np.empty(0) if target is None else target
        array.__setstate__((1, shape, kind.dtype, order == "F", entries))
        check_text(array, "an array")
        return array

    def _completed(self, target: Any, state: Any) -> Any:
        """What BUILD makes: an array with its entries, or a type of entries with its byte order."""
        if isinstance(target, _EntryType):
            target.dtype = target.dtype.newbyteorder(state[1])
        elif isinstance(target, np.ndarray):
            if target.shape != (0,):  # NumPy frees entries that something else may refer to
                raise ValueError("an array is made twice")
            _, shape, kind, fortran, entries = state
            self._array(entries, kind, shape, "F" if fortran else "C", target=target)
        elif type(target) is not dict:  # those of PyTorch have attributes, the versions of modules
            self._refuse(type(target).__name__)
        return target

    def _filled(self, held: Any, items: list[Any]) -> Any:
        """Keys are text and numbers: others may take forever to hash."""
        self._spend(len(items) // 2)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(held) is not dict or type(key) not in (str, int):
                raise ModelFileError(
                    f"the file holds a dictionary with a key of type {type(key).__name__}; {_SAVE_ARRAYS}"
                )
            held[key] = value
        return held
