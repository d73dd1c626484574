"""The library's own files: an ``.npz`` of arrays, texts and numbers, with a format number and a digest.

Results, posteriors, certificates and learned priors are saved in this way. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from unrelu._version import __version__
from unrelu.errors import InputError, UnreluError
from unrelu.runtime.file_reading import read_npz
from unrelu.runtime.file_writing import drafted
from unrelu.runtime.words import listed

Table = dict[str, npt.NDArray[Any]]
# The types of columns, and their smallest and largest numbers.
Columns = Mapping[str, tuple[Any, float, float]]
Content = TypeVar("Content")

# The format number of all archives. It increases when the format of any kind changes.
FORMAT = 1
# The call that reads an archive of each kind.
_READERS = {
    "result": "unrelu.load_result(path)",
    "posterior": "unrelu.load_posterior(path)",
    "certificate": "unrelu.Certificate.load(path)",
}


def write_archive(path: Path, kind: str, table: Mapping[str, Any]) -> None:
    """Write arrays, texts and numbers by name; the file appears complete or not at all.

    Raises:
        InputError: the suffix is not .npz, or the folder does not exist.
        StorageError: the disk is full or cannot be written to.
    """
    if path.suffix != ".npz":
        raise InputError(f"{path}: save a {kind} as .npz, e.g. {path.with_suffix('.npz')}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in table.items()}
    arrays |= {"format": np.array(f"unrelu {kind} {FORMAT}"), "version": np.array(__version__)}
    with drafted(path, "free space, or name another file") as stream:
        np.savez_compressed(stream, **arrays, digest=np.array(digest(arrays)))


def read_archive(given: object, kind: str, restore: Callable[[Table], Content]) -> Content:
    """Read a file of :func:`write_archive`. ``restore`` makes the object from the arrays, and refuses invalid ones.

    Raises:
        InputError: the file does not exist, is damaged or truncated, or has another kind or a later version.
    """
    if not isinstance(given, str | os.PathLike):
        raise InputError(f"a {kind} is loaded by the path of its file, got {type(given).__name__}")
    path = Path(given)

    def checked(names: Sequence[str]) -> Sequence[str]:
        if "format" not in names:
            shown = listed(sorted(names), 5)
            raise InputError(f"{path} holds no {kind} but arrays {shown}; pass a file that {kind[0]}.save(path) wrote")
        return names

    table = read_npz(path, choose=checked)
    found, known = str(table["format"])[:80], f"unrelu {kind} {FORMAT}"
    if found != known:
        other = found.removeprefix("unrelu ").partition(" ")[0]
        if other in _READERS and other != kind:
            raise InputError(f"{path} holds a {other}: {_READERS[other]}")
        version = repr(str(table.get("version", "?"))[:20]).strip("'")
        raise InputError(
            f"{path} holds no {kind}; its format is {found!r}, written by unrelu {version}; unrelu {__version__} reads "
            f"{known!r}: install that version"
        )
    try:
        if text_of(table["digest"]) != digest(table):
            raise ValueError("its numbers are not those that it was written with")
        return restore(table)
    except UnreluError:
        raise
    # PyTorch raises RuntimeErrors for wrong shapes. RecursionError is a RuntimeError, too.
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, RuntimeError) as error:
        raise InputError(f"{path}: the {kind} is damaged ({error}); save it again") from None


def digest(table: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the SHA-256 of all arrays with their names, as hexadecimal digits."""
    found = hashlib.sha256()
    for name in sorted(table.keys() - {"digest"}):
        array = table[name]
        # The dtype of text depends on its longest entry, and NumPy does not restore it for single entries.
        text = array.dtype.kind == "U"
        content = "\0".join(array.ravel().tolist()).encode() if text else array.tobytes()
        kind = "text" if text else array.dtype.str
        found.update(f"{name} {kind} {array.shape} {len(content)} ".encode() + content)
    return found.hexdigest()


# --- entries of a table -----------------------------------------------------------------------------------------------


def shape_of(array: npt.NDArray[Any]) -> tuple[int, ...]:
    """Return an array as a shape, which must be positive whole numbers."""
    shape = tuple(int(n) for n in array_of(array, np.int64).ravel())
    if any(n < 1 for n in shape) or math.prod(shape) >= 2**48:
        raise ValueError(f"a shape is {shape!r:.60}")
    return shape


def array_of(array: npt.NDArray[Any], kind: Any) -> npt.NDArray[Any]:
    """Return an array, which must have this type."""
    if array.dtype != np.dtype(kind):
        raise TypeError(f"entries are {array.dtype}, not {np.dtype(kind)}")
    return np.ascontiguousarray(array)


def columns_of(table: Table, columns: Columns, size: int, shapes: Mapping[str, tuple[int, ...]]) -> Table:
    """Return columns by name; each must have its type and shape, and lie between its two limits, where NaN is no limit.

    A shape that is not given is (size,). Entries may be NaN, for unknown numbers; only a time may not.
    """
    found = {}
    for name, (kind, low, high) in columns.items():
        array = found[name] = array_of(table[name], kind)
        bad = (array < low) | (array > high) | (np.isnan(array) & (name == "seconds"))
        bad |= (array == math.inf) & (high == math.inf)
        if bad.any():
            raise ValueError(f"{name} is {array[bad][0]}, which is not from {low} to {high}")
        if array.shape != (shape := shapes.get(name, (size,))):
            raise ValueError(f"{name} has shape {array.shape}, not {shape}")
    return found


def number_of(array: npt.NDArray[Any], kind: Any) -> Any:
    """Return the only entry of an array as a number."""
    return array_of(array.reshape(()), kind).item()


def texts_of(array: npt.NDArray[Any]) -> list[str]:
    """Return texts. Replace control characters, which could control a terminal."""
    if array.dtype.kind != "U":
        raise TypeError(f"entries are {array.dtype}, not text")
    return ["".join(c if c.isprintable() or c == "\n" else "?" for c in text) for text in array.ravel().tolist()]


def text_of(array: npt.NDArray[Any]) -> str:
    """Return the only text of an array, on one line."""
    (text,) = texts_of(array)
    return text.replace("\n", "?")
