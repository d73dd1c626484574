"""Read tensors and plain containers from PyTorch's ``.pt`` and ``.pth`` files, without running code or filling memory.

``torch.load(weights_only=True)`` runs no code, but it allocates what the pickle states and hashes keys that take
forever. So the pickle is read by the unpickler of :mod:`~unrelu.loaders.file_checks.pickled_arrays`, and the numbers by
:mod:`zipfile`, which compares them with their check sums.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unrelu.errors import ModelFileError
from unrelu.loaders.file_checks import readable
from unrelu.loaders.file_checks.pickled_arrays import LEGACY, ArrayUnpickler
from unrelu.runtime.file_reading import check_members, opened, zip_members

_WAY_OUT = (
    "save module.state_dict() with torch.save, of plain tensors (.dequantize(), .to_dense()), export to ONNX, or build "
    "the module and use unrelu.from_torch"
)
_TYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool,
}  # fmt: skip


def read_checkpoint(file: Path, max_bytes: int) -> object:
    """Return the tensors and plain containers of a PyTorch file; anything else is refused, never run.

    Raises:
        ModelFileError: it is no PyTorch file, damaged, a TorchScript program, or holds other objects.
        InputError: it would take more than ``max_bytes``.
    """
    with opened(file) as (stream, size), readable("PyTorch file", _WAY_OUT):
        begins = stream.read(14)
        if begins[2:] == LEGACY:
            raise ModelFileError(
                f"it was saved by PyTorch before 1.6; torch.save(torch.load({str(file)!r}, weights_only=True), ...) "
                "writes it anew"
            )
        if begins[:1] == b"\x80":
            raise ModelFileError(f"not a PyTorch file but a pickle; {_WAY_OUT}")
        with zipfile.ZipFile(stream) as archive:
            members = zip_members(archive, file)
            if any(name.endswith("/constants.pkl") for name in members):
                raise ModelFileError(
                    "the file is a program of TorchScript, which can read and write files (torch.from_file). If you "
                    f"trust its author, unrelu.from_torch(torch.jit.load({str(file)!r}), latent_shape=...) runs it; "
                    f"else {_WAY_OUT}"
                )
            check_members(members.values(), file, size, max_bytes)
            pickles = [name for name in members if name.partition("/")[2] == "data.pkl"]
            if len(pickles) != 1:
                raise ModelFileError(f"not a PyTorch file: it holds {len(pickles)} times a data.pkl; {_WAY_OUT}")
            return _CheckpointUnpickler(archive, pickles[0], max_bytes).load()


class _CheckpointUnpickler(ArrayUnpickler):
    """Reads the pickle of a checkpoint, whose tensors are views of records beside it."""

    refused = ArrayUnpickler.refused - {"BINPERSID"}
    way_out = _WAY_OUT

    def __init__(self, archive: zipfile.ZipFile, name: str, max_bytes: int) -> None:
        super().__init__(archive.read(name), max_bytes)
        self._archive, self._root = archive, name.removesuffix("data.pkl")
        self._storages: dict[str, Tensor] = {}
        self.functions |= {
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "torch.Size": lambda shape: shape,
            "torch.device": lambda name, *_: name,
            **{f"torch.{name}Storage": dtype for name, dtype in _TYPES.items()},
        }

    def persistent_load(self, pid: Any) -> Tensor:
        """The numbers of a storage: ("storage", type, key, location, number of entries)."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(key) is not str or type(count) is not int:
            raise ValueError("a tensor without a storage")
        if key not in self._storages:
            held = bytearray(self._archive.read(f"{self._root}data/{key}"))
            self._storages[key] = torch.frombuffer(held, dtype=dtype) if held else torch.empty(0, dtype=dtype)
        storage = self._storages[key]
        if count != len(storage) or dtype != storage.dtype:
            raise ModelFileError(
                f"a tensor's storage states {count:,} entries of {dtype}, its record holds {len(storage):,} of "
                f"{storage.dtype}: the file is damaged; {_WAY_OUT}"
            )
        return storage

    def _tensor(self, storage: Any, offset: int, shape: Any, strides: Any, *_: object) -> Tensor:
        """A view of a storage, which has to hold as many entries."""
        if any(type(n) is not int for n in shape):
            raise ValueError("a tensor without a shape")
        if math.prod(shape) > len(storage):
            raise ModelFileError(
                f"a tensor of shape {shape!s:.80} is expanded: its entries share {len(storage):,} numbers; save what "
                ".clone() gives"
            )
        return torch.as_strided(storage, shape, strides, offset)
