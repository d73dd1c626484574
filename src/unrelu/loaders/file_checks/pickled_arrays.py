"""Read numbers, text, containers and NumPy arrays from a pickle. Everything else in it is refused, never made."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar, NoReturn

import numpy as np

from unrelu.errors import InputError, ModelFileError
from unrelu.loaders.file_checks import readable
from unrelu.runtime.file_reading import check_array, check_text, opened, shown_size

_WAY_OUT = (
    "if you trust the file, save its arrays where it can be opened, numpy.savez('network.npz', W0=..., b0=..., W1=..., "
    "b1=...)"
)
# The magic number with which checkpoints of PyTorch before 1.6 begin, as it is pickled.
LEGACY = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
# Bytes of what an opcode makes, with its entries on the stack and in the memo, beside its argument.
_BYTES = 256
# The most opcodes, whatever a user allows for arrays: emulators have thousands.
_OBJECTS = 2**22
# Types of entries, as numpy.dtype is called in pickles.
_TYPE = re.compile(r"b1|[iufc]\d{1,2}|[SU]\d{1,9}|O\d?")


def read_pickle(file: Path, max_bytes: int) -> Any:
    """The contents of a file of one pickle, as :func:`unpickled` gives them.

    Raises:
        ModelFileError, InputError: see there; or it has more than ``max_bytes``, or is a checkpoint of PyTorch.
    """
    with opened(file) as (stream, size):
        if size > max_bytes:
            raise InputError(f"the file has {shown_size(size)}; pass a larger max_bytes= (--max-bytes) if you trust it")
        begins = stream.read(14)
        if begins.startswith(b"PK\x03\x04") or begins[2:] == LEGACY:
            raise ModelFileError("it is a checkpoint of PyTorch; give it a name that ends in .pt")
        stream.seek(0)
        return unpickled(stream, size, max_bytes)


def unpickled(stream: IO[bytes], end: int, max_bytes: int) -> Any:
    """Numbers, text, bytes, lists, tuples, dictionaries and NumPy arrays of a pickle.

    Arrays of JAX become arrays of NumPy, TensorFlow's lists lists. An array of objects without axes is its object.

    Args:
        stream: where the pickle begins.
        end: the position in the stream at which it has to have ended.
        max_bytes: the most bytes that it may take in memory.

    Raises:
        ModelFileError: it holds other objects, or is damaged.
        InputError: it would take more than ``max_bytes``, or an array states another size than it holds.
    """
    with readable("pickle of arrays", _WAY_OUT):
        content = stream.read(end - stream.tell())
        found = ArrayUnpickler(content, max_bytes).load()
    return found.item() if isinstance(found, np.ndarray) and found.dtype.hasobject and not found.ndim else found


class EntryType:
    """The type of an array's entries, as ``numpy.dtype`` is called; a later opcode may state its byte order."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or not _TYPE.fullmatch(name):
            raise ModelFileError(f"the file holds an array with entries of type {name!r:.40}; {_WAY_OUT}")
        self.dtype: np.dtype[Any] = np.dtype(name)


class ArrayUnpickler(pickle._Unpickler):  # noqa: SLF001 -- as joblib and others do
    """Python's unpickler, in which a file can call a few functions of this module, and nothing else.

    It is the one written in Python: the one in C makes a memo as long as a file states, and hashes keys of any depth.

    Args:
        content: the pickle.
        max_bytes: the most bytes that its objects may take.
    """

    # Opcodes that make objects of a class, hash what may be nested without end, or take what is not in the file.
    refused: ClassVar = {
        "PERSID", "BINPERSID", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER",
        "READONLY_BUFFER", "EMPTY_SET", "FROZENSET", "ADDITEMS",
    }  # fmt: skip
    way_out = _WAY_OUT
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, content: bytes, max_bytes: int) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        # A file may say as often as it likes that the same bytes are an array. Honest ones are copied twice.
        self._left = 2 * len(content)
        self.functions: dict[str, object] = {
            "numpy.ndarray": "an array",  # an argument of _reconstruct, which is not called
            "numpy.dtype": EntryType,
            "numpy.core.multiarray._reconstruct": lambda *_: np.empty(0),
            "numpy.core.multiarray.scalar": lambda kind, entries: self._array(entries, kind, ())[()],
            "numpy.core.numeric._frombuffer": self._array,
            "jax._src.array._reconstruct_array": lambda made, given, state, *_: self._completed(made(*given), state),
            "_codecs.encode": self._latin,
            "__builtin__.bytes": lambda: b"",
            "collections.OrderedDict": lambda items=(): self._fill({}, [entry for item in items for entry in item]),
            "tensorflow.python.trackable.data_structures.ListWrapper": lambda held: held,
            "tensorflow.python.training.tracking.data_structures.ListWrapper": lambda held: held,
        }
        most = min(max(0, max_bytes - len(content)) // _BYTES, _OBJECTS)
        named = "a class"
        for count, (opcode, stated, _) in enumerate(pickletools.genops(content)):  # refuses lengths beyond the end, too
            if opcode.name == "GLOBAL":
                named = str(stated).replace(" ", ".")
            if opcode.name in self.refused:
                self.refuse(f"{opcode.name} of {named}" if "OBJ" in opcode.name else opcode.name)
            if count > most:
                raise InputError(
                    f"its pickle makes more than {most:,} objects, of up to {_BYTES} bytes each; {self.way_out}"
                )

    def find_class(self, module: str, name: str, /) -> Any:
        """The function of this name."""
        path = f"{module}.{name}"
        function = self.functions.get(path.replace("numpy._core.", "numpy.core."))
        return self.refuse(path) if function is None else function

    def refuse(self, what: str) -> NoReturn:
        """Refuse what is no array and no plain container."""
        raise ModelFileError(
            "the file holds pickled objects other than numbers, text, lists, dictionaries and arrays, which could run "
            f"code: {what!r:.80}; {self.way_out}"
        )

    def _latin(self, text: str, codec: str = "latin1") -> bytes:
        self._spend(len(text))
        return text.encode({"latin1": "latin-1"}[codec])

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise InputError("its arrays take more than twice the bytes of the file: it is damaged")

    def _array(self, entries: Any, kind: Any, shape: Any, order: Any = "C", target: Any = None) -> Any:
        """The array of these bytes, which have to be as many as shape and type state; or of the objects in a list."""
        if not isinstance(kind, EntryType) or type(shape) is not tuple or any(type(n) is not int for n in shape):
            raise ValueError("an array without shape and type of its entries")
        if kind.dtype.hasobject:
            if len(shape) > 1 or type(entries) is not list or len(entries) != math.prod(shape):
                self.refuse("an array of objects")
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
        if isinstance(target, EntryType):
            target.dtype = target.dtype.newbyteorder(state[1])
        elif isinstance(target, np.ndarray):
            _, shape, kind, fortran, entries = state
            self._array(entries, kind, shape, "F" if fortran else "C", target)
        elif type(target) is not dict:  # those of PyTorch have attributes, the versions of modules
            self.refuse(type(target).__name__)
        return target

    def load_build(self) -> None:
        """Complete an array."""
        state = self.stack.pop()
        self.stack[-1] = self._completed(self.stack[-1], state)

    def load_setitems(self) -> None:
        """Fill a dictionary."""
        items = self.pop_mark()
        self._fill(self.stack[-1], items)

    def load_setitem(self) -> None:
        """Fill a dictionary with one item."""
        value, key = self.stack.pop(), self.stack.pop()
        self._fill(self.stack[-1], [key, value])

    def load_dict(self) -> None:
        """Make a dictionary."""
        items = self.pop_mark()
        self.append(self._fill({}, items))

    def _fill(self, held: Any, items: list[Any]) -> Any:
        """Keys are text and numbers: others may take forever to hash."""
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(held) is not dict or type(key) not in (str, int):
                raise ModelFileError(
                    f"the file holds a dictionary with a key of type {type(key).__name__}; {self.way_out}"
                )
            held[key] = value
        return held

    dispatch: ClassVar[dict[int, Any]] = pickle._Unpickler.dispatch | {  # noqa: SLF001
        pickle.BUILD[0]: load_build, pickle.SETITEMS[0]: load_setitems, pickle.SETITEM[0]: load_setitem,
        pickle.DICT[0]: load_dict,
    }  # fmt: skip
