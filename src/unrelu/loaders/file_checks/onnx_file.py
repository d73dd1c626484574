"""ONNX models from files: what is read, from which files, and how much a node may compute."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.defs
import onnx.helper
import onnx.inliner
import onnx.numpy_helper
import onnx.shape_inference

from unrelu.errors import InputError, ModelFileError, UnsupportedModelError
from unrelu.loaders.file_checks import readable
from unrelu.runtime.file_reading import opened, read_bytes, shown_size

# Of the node of a model and of those that its functions stand for; chains of layers have hundreds.
_NODES = 20_000
# Inputs up to this size may be shapes, which tell the size of what is computed; NumPy has no more axes.
_SHAPE = 64
# Operators that ONNX's reference implementation computes one entry at a time, and how many times slower than others.
_ENTRYWISE, _SLOWER = {"Erf", "GatherElements", "GatherND", "ScatterElements", "ScatterND"}, 100
# Products of numbers that take as long as writing one.
_PRODUCTS = 50
# What serialised models may have, by protobuf.
_LARGEST_CHECKED = 2**31 - 1


def read_model(file: Path, max_bytes: int) -> onnx.ModelProto:
    """The model in a file, checked, with its functions written out.

    A tensor may be in another file only if that is called ``NAME.data`` or ``NAME_data``, where NAME is the model's
    file name, as PyTorch and Hugging Face write it. Any other name is one that the author of the model chose, of a
    file that is none of theirs to read.

    Raises:
        ModelFileError: the file is truncated or no valid ONNX model, names another file, or a link.
        InputError: the file, or its tensors, have more than ``max_bytes``.
        UnsupportedModelError: it has more than 20,000 nodes.
    """
    content = read_bytes(file, max_bytes)
    with readable("valid ONNX model"):
        model = onnx.load_model_from_string(content)
        if _embedded(model, file, max_bytes):
            content = model.SerializeToString() if model.ByteSize() <= _LARGEST_CHECKED else b""
        _check_nodes(model)
        if content and len(content) <= _LARGEST_CHECKED:
            onnx.checker.check_model(content)
        return onnx.inliner.inline_local_functions(model) if model.functions else model


def _embedded(model: onnx.ModelProto, file: Path, max_bytes: int) -> bool:
    """Put tensors of the file beside the model into it; whether there are any."""
    total = 0
    outside = [tensor for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in outside:
        stated = {entry.key: entry.value for entry in tensor.external_data}
        location = stated.get("location", "")
        if location not in (f"{file.name}.data", f"{file.name}_data"):
            raise ModelFileError(
                f"tensor {tensor.name!r} is in another file, {location!r}; the only one that is read is "
                f"{file.name}.data: write all into one file, onnx.save(onnx.load('{file.name}'), 'one.onnx')"
            )
        if (file.parent / location).is_symlink():
            raise ModelFileError(f"{location} is a link; put the file itself beside the model")
        with opened(file.parent / location) as (stream, size):
            offset = _number(stated.get("offset", "0"), tensor.name)
            length = _number(stated.get("length", str(max(0, size - offset))), tensor.name)
            total += length
            if offset + length > size:
                raise ModelFileError(
                    f"tensor {tensor.name!r} has bytes {offset:,} to {offset + length:,} of {location}, which has "
                    f"{size:,}: it is cut short or another one"
                )
            if total > max_bytes:
                raise InputError(
                    f"its tensors have more than {shown_size(max_bytes)}; pass a larger max_bytes= (--max-bytes) if "
                    "you trust the file"
                )
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT
    return bool(outside)


def _number(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ModelFileError(f"tensor {name!r} states {text[:40]!r} where a number of bytes belongs; export it again")
    return int(text)


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """All tensors in a message, at any depth: initializers, attributes of nodes, of their graphs and of functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(part)


def _check_nodes(model: onnx.ModelProto) -> None:
    """Refuse functions that stand for too many nodes: each may call the next one twice."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    open_now: set[tuple[str, str, str]] = set()

    def count(nodes: Sequence[onnx.NodeProto]) -> int:
        return sum(called((n.domain, n.op_type, n.overload)) for n in nodes)

    @cache
    def called(key: tuple[str, str, str]) -> int:
        if key not in functions:
            return 1
        if key in open_now or len(open_now) > 100:
            raise UnsupportedModelError(f"its function {key[1]!r} calls itself; export it without functions")
        open_now.add(key)
        total = 1 + count(functions[key].node)
        open_now.discard(key)
        return total

    if (total := count(model.graph.node)) > _NODES:
        raise UnsupportedModelError(f"has {total:,} nodes; models of up to {_NODES:,} are read, simplify it")


class ConstantSizes:
    """What all constants of a model may take together, told by ONNX's own shape inference before they are computed.

    Args:
        opsets, version: of the model, and of ONNX's own operators among them.
        max_bytes: that they may take, at 8 bytes an entry.
    """

    def __init__(self, opsets: Sequence[onnx.OperatorSetIdProto], version: int, max_bytes: int) -> None:
        self._opsets, self._version = list(opsets), version
        self._max_bytes = max_bytes
        self._entries = 0

    def add(self, arrays: Sequence[np.ndarray[Any, Any]]) -> None:
        """Count constants, and refuse too many."""
        self._count(sum(array.size for array in arrays), "the constants of the model would take")

    def check(self, node: onnx.NodeProto, inputs: Sequence[Any]) -> None:
        """Refuse a node whose outputs would take too much, memory or time, which is counted like memory."""
        arrays = [np.asarray(value) for value in inputs if value is not None]
        total = sum(array.size for array in arrays)
        # Where sizes depend on the values (NonZero), there is one index for each axis and entry at most.
        unknown = total * max([1, *(array.ndim for array in arrays)])
        counts = [unknown if count is None else count for count in self._inferred(node, inputs)]
        size, more = sum(counts), 0
        if node.op_type in ("MatMul", "Gemm"):
            more = size * max(arrays[0].shape, default=1) // _PRODUCTS
        elif node.op_type in _ENTRYWISE:
            more = (_SLOWER - 1) * max(size, total)
        self._count(size, "computes a constant; with it the model would take")
        self._entries -= size  # which is counted once it is there
        self._count(more, "computes a constant; with the time for it the model would take")

    def _count(self, entries: int, what: str) -> None:
        self._entries += entries
        if (size := 8 * self._entries) > self._max_bytes:
            raise UnsupportedModelError(
                f"{what} {shown_size(size)}; at most {shown_size(self._max_bytes)} are allowed, pass a larger "
                "max_bytes= (--max-bytes) if you trust the file"
            )

    def _inferred(self, node: onnx.NodeProto, inputs: Sequence[Any]) -> list[int | None]:
        """How many entries each output has; None where that is not known before."""
        types, data = {}, {}
        for name, value in zip(node.input, inputs, strict=True):
            if name:
                kind = int(onnx.helper.np_dtype_to_tensor_dtype(value.dtype))
                types[name] = onnx.helper.make_tensor_type_proto(kind, value.shape)
                if value.size <= _SHAPE and value.dtype.kind in "iuf":
                    data[name] = onnx.numpy_helper.from_array(value, name)
        try:
            schema = onnx.defs.get_schema(node.op_type, self._version, "")
            found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=self._opsets)
        except Exception as error:  # of inference, which has its own
            raise UnsupportedModelError(f"cannot be computed: {' '.join(str(error).split())[:200]}") from error
        return [_entries(kind) for kind in found.values()]


def _entries(kind: onnx.TypeProto) -> int | None:
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return math.prod(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None
