"""Read tensors and plain containers from PyTorch's ``.pt`` and ``.pth`` files, without running code or filling memory.

``torch.load(weights_only=True)`` runs no code, but it trusts the numbers in a file: it allocates the sizes that the
pickle states, decompresses records of any size, and hashes keys that take forever. The file is therefore checked first.
:func:`scan` goes through the opcodes of its pickle without building any object.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from unrelu.errors import InputError, ModelFileError
from unrelu.loaders.file_checks import readable
from unrelu.loaders.file_checks._pickle_opcodes import BoundedStream, steps
from unrelu.runtime.file_reading import check_members, opened, shown_size, zip_members

_WAY_OUT = "save module.state_dict() with torch.save, export to ONNX, or build the module and use unrelu.from_torch"

# An opcode of one byte may make an object of 200 bytes: an empty set.
_PICKLE_EXPANDS = 256
# The most entries of a tuple and all tuples nested in it. A tuple may hold another one twice, so a pickle of a few
# hundred bytes can describe a key that takes forever to hash. Shapes and strides are shorter.
_LARGEST_TUPLE = 1000
# Bytes of the record that ends a zip file without a comment.
_END = 22
# Bytes of an entry, by the class of the storage; entries of other classes take at least one byte.
_WIDTHS = {
    "Double": 8, "Long": 8, "ComplexFloat": 8, "ComplexDouble": 16, "Float": 4, "Int": 4, "Half": 2, "Short": 2,
    "BFloat16": 2,
}  # fmt: skip


def read_checkpoint(file: Path, max_bytes: int) -> object:
    """Return the tensors and plain containers of a PyTorch file; anything else is refused, never run.

    Raises:
        ModelFileError: it is no PyTorch file, damaged, a TorchScript program, or holds other objects.
        InputError: it would take more than ``max_bytes``.
    """
    with opened(file) as (stream, size), readable("PyTorch file", _WAY_OUT):
        zipped = stream.read(4) == b"PK\x03\x04"  # PyTorch's rule; zipfile looks at the end of the file instead
        stream.seek(0)
        try:
            if zipped:
                _check_zip(stream, size, file, max_bytes)
            else:
                _check_legacy(stream, size, max_bytes)
            stream.seek(0)
            with warnings.catch_warnings():
                # PyTorch warns about pickle protocols that its restricted reader may not know, and refuses them anyway.
                warnings.simplefilter("ignore")
                return torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            stream.seek(0)
            if not zipped and stream.read(1) != pickle.PROTO:
                raise ModelFileError(f"not a PyTorch file; {_WAY_OUT}") from error
            raise ModelFileError(
                f"the file holds pickled objects other than tensors, which could run code; {_WAY_OUT}"
            ) from error


def _check_zip(stream: IO[bytes], size: int, file: Path, max_bytes: int) -> None:
    """Refuse a zip file whose records are larger than allowed, or smaller than its pickle states."""
    # PyTorch's reader and Python's must find the same members, so nothing may precede the first or follow the end.
    stream.seek(max(0, size - _END))
    ends = stream.read(4) == b"PK\x05\x06"
    with zipfile.ZipFile(stream) as archive:
        members = zip_members(archive, file)
        if not ends or min((info.header_offset for info in members.values()), default=0):
            raise ModelFileError(f"not a PyTorch file: it is a zip file with something before or behind it; {_WAY_OUT}")
        if any(name.endswith("/constants.pkl") for name in members):
            raise ModelFileError(
                "the file is a program of TorchScript, which can read and write files (torch.from_file). "
                f"If you trust its author, unrelu.from_torch(torch.jit.load({str(file)!r}), latent_shape=...) runs it; "
                f"else {_WAY_OUT}"
            )
        check_members(members.values(), file, size, max_bytes)
        # PyTorch takes the first folder for the root and ignores the case of names, so neither may be ambiguous.
        if len({name.partition("/")[0] for name in members}) > 1 or len({n.lower() for n in members}) < len(members):
            raise ModelFileError(f"the file holds more than one archive; {_WAY_OUT}")
        pickles = [name for name in members if name.partition("/")[2] == "data.pkl"]
        if not pickles:
            raise ModelFileError(f"not a PyTorch file: it holds no data.pkl; {_WAY_OUT}")
        _check_pickle(members[pickles[0]].file_size, max_bytes)
        root = pickles[0].removesuffix("data.pkl")
        for key, stated in scan(io.BytesIO(archive.read(pickles[0]))).items():
            record = members.get(f"{root}data/{key}")
            held = 0 if record is None else record.file_size
            if stated > held:
                raise ModelFileError(
                    f"a tensor's storage states {shown_size(stated)}, its record holds {shown_size(held)}: the "
                    f"file is damaged; {_WAY_OUT}"
                )


def _check_legacy(stream: IO[bytes], size: int, max_bytes: int) -> None:
    """Refuse a file of PyTorch before 1.6 (pickles, then numbers) that states more numbers than it holds."""
    if size > max_bytes:
        raise InputError(f"the file has {shown_size(size)}; pass a larger max_bytes= (--max-bytes) if you trust it")
    storages: dict[object, int] = {}
    # Five pickles: a magic number, a version, the system, the object, and the keys of the storages.
    for _ in range(5):
        storages |= scan(BoundedStream(stream, size))
        _check_pickle(stream.tell(), max_bytes)
        if stream.tell() == size:  # a plain pickle, which torch.load refuses
            break
    if (total := sum(storages.values())) > size:
        raise ModelFileError(
            f"its tensors state {shown_size(total)}, the file has {shown_size(size)}: it is cut short or damaged; "
            f"{_WAY_OUT}"
        )


def _check_pickle(size: int, max_bytes: int) -> None:
    if size * _PICKLE_EXPANDS > max_bytes:
        raise InputError(
            f"its pickle has {shown_size(size)}, which may take {_PICKLE_EXPANDS} times that; pass a larger max_bytes= "
            "(--max-bytes) if you trust the file"
        )


class _Item(NamedTuple):
    """An entry of the pickle machine's stack: the value of a constant or tuple, else None, and its size."""

    value: Any = None
    size: int = 1


_OTHER = _Item()


def scan(stream: IO[bytes] | BoundedStream) -> dict[object, int]:
    """Return the bytes that a pickle states for each storage of tensors, by key, without making its objects.

    Raises:
        ModelFileError: it would allocate a stated size (``torch.Tensor(n)``, ``bytearray(n)``), nests tuples too
            deeply, or states a storage whose number of entries is not a whole number.
        ValueError, IndexError, KeyError: it is damaged.
    """
    storages: dict[object, int] = {}
    stack: list[_Item] = []
    for name, argument, taken, gives in steps(stream, stack):
        if name == "BINPERSID":
            key, size = _storage(taken[0].value)
            storages[key] = max(size, storages.get(key, 0))
        elif name in ("REDUCE", "NEWOBJ"):
            _check_call(taken[0].value, taken[1].value)
        if "TUPLE" in name:
            stack.append(_tuple(taken))
        elif gives:
            stack.append(_OTHER if argument is None or taken else _Item(argument))
    return storages


def _tuple(items: list[_Item]) -> _Item:
    size = 1 + sum(item.size for item in items)
    if size > _LARGEST_TUPLE:
        raise ModelFileError(f"the file holds tuples in tuples, of {size:,} entries in all; {_WAY_OUT}")
    return _Item(tuple(item.value for item in items), size)


def _storage(value: object) -> tuple[object, int]:
    """Return key and bytes of ("storage", class, key, location, number of entries, ...); ("module", ...) has none."""
    if not isinstance(value, tuple) or len(value) < 5 or value[0] != "storage":
        return None, 0  # PyTorch's reader refuses it
    _, kind, key, _, count = value[:5]
    if not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise ModelFileError(f"a tensor's storage is stated as {count!r:.40} entries; the file is damaged; {_WAY_OUT}")
    found = re.fullmatch(r"torch(?:\.\w+)* (\w+)Storage", str(kind))
    return key, count * (_WIDTHS.get(found[1], 1) if found else 1)


def _check_call(function: object, arguments: object) -> None:
    """Refuse calls that PyTorch's reader allows although the size of the file does not bound their cost."""
    name = str(function)
    unbounded = name.endswith((" bytearray", "Tensor"))
    # Bytes are stored in Latin-1. Other codecs may take a time that grows with the square of the text's length.
    coded = name == "_codecs encode" and (not isinstance(arguments, tuple) or arguments[1:] != ("latin1",))
    if unbounded or coded:
        raise ModelFileError(f"the file holds pickled objects other than tensors, made by {name!r:.60}; {_WAY_OUT}")


def check_tensors(tensors: Mapping[str, Any]) -> None:
    """Refuse tensors that are not plain arrays of numbers: quantized, sparse, nested, expanded or without data."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            continue
        odd = {
            "a meta tensor, without numbers": tensor.is_meta,
            "quantized": tensor.is_quantized,
            "nested": tensor.is_nested,
            "sparse": tensor.layout != torch.strided,
        }
        what = next((word for word, holds in odd.items() if holds), "")
        if not what and tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            what = f"expanded: {tensor.numel():,} entries share fewer numbers"
        if what:
            raise ModelFileError(
                f"{name} {tuple(tensor.shape)} is {what}; save what tensor.dequantize(), .to_dense() or .clone() gives"
            )
