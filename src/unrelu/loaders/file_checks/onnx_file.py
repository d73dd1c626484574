"""Read ONNX models from files, and limit what the nodes of a model may compute."""

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

# The most nodes of a model, those inside its functions included; chains of layers have hundreds.
_NODES = 20_000
# Inputs up to this size may be shapes, which determine the size of an output. NumPy arrays have at most 64 axes.
_SHAPE = 64
# Operators that ONNX's reference implementation computes entry by entry, and how many times slower they are.
_ENTRYWISE, _SLOWER = {"Erf", "GatherElements", "GatherND", "ScatterElements", "ScatterND"}, 100
# Multiplications that take as long as writing one number.
_PRODUCTS = 50
# The most bytes of a model that protobuf serialises.
_LARGEST_CHECKED = 2**31 - 1


def read_model(file: Path, max_bytes: int) -> onnx.ModelProto:
    """Return the model in a file, checked, with its functions inlined.

    Tensors may be in a second file only if that is called ``NAME.data`` or ``NAME_data``, where NAME is the model's
    file name, as PyTorch and Hugging Face write it. With any other name, the author of the model could have a file
    read that is not theirs.

    Raises:
        ModelFileError: the file is truncated or not a valid ONNX model, or refers to another file or a link.
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
    """Move the tensors of the second file into the model; return whether there are any."""
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
    """Yield all tensors in a message, at any depth: of the graph, its subgraphs, nodes and functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(part)


def _check_nodes(model: onnx.ModelProto) -> None:
    """Refuse functions that expand to too many nodes: each may call the next one twice."""
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
    """Limits the bytes of all constants of a model together. Sizes are inferred before a constant is computed.

    Args:
        opsets: the operator sets of the model.
        version: the version of ONNX's own operator set.
        max_bytes: the most bytes that the constants may take, at 8 bytes an entry.
    """

    def __init__(self, opsets: Sequence[onnx.OperatorSetIdProto], version: int, max_bytes: int) -> None:
        self._opsets, self._version = list(opsets), version
        self._max_bytes = max_bytes
        self._entries = 0

    def add(self, arrays: Sequence[np.ndarray[Any, Any]]) -> None:
        """Count the entries of constants, and refuse too many."""
        self._count(sum(array.size for array in arrays), "the constants of the model would take")

    def check(self, node: onnx.NodeProto, inputs: Sequence[Any]) -> None:
        """Refuse a node whose outputs would take too much memory, or too much time, which is counted in entries."""
        arrays = [np.asarray(value) for value in inputs if value is not None]
        total = sum(array.size for array in arrays)
        # Where sizes depend on values (NonZero), the output has at most one index for each axis and entry.
        unknown = total * max([1, *(array.ndim for array in arrays)])
        counts = [unknown if count is None else count for count in self._inferred(node, inputs)]
        size, more = sum(counts), 0
        if node.op_type in ("MatMul", "Gemm"):
            more = size * max(arrays[0].shape, default=1) // _PRODUCTS
        elif node.op_type in _ENTRYWISE:
            more = (_SLOWER - 1) * max(size, total)
        self._count(size, "computes a constant; with it the model would take")
        self._entries -= size  # ``add`` counts it once it is computed
        self._count(more, "computes a constant; with the time for it the model would take")

    def _count(self, entries: int, what: str) -> None:
        self._entries += entries
        if (size := 8 * self._entries) > self._max_bytes:
            raise UnsupportedModelError(
                f"{what} {shown_size(size)}; at most {shown_size(self._max_bytes)} are allowed, pass a larger "
                "max_bytes= (--max-bytes) if you trust the file"
            )

    def _inferred(self, node: onnx.NodeProto, inputs: Sequence[Any]) -> list[int | None]:
        """The number of entries of each output; None where it cannot be inferred."""
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
        except Exception as error:  # shape inference has its own exceptions
            raise UnsupportedModelError(f"cannot be computed: {' '.join(str(error).split())[:200]}") from error
        return [_entries(kind) for kind in found.values()]


def _entries(kind: onnx.TypeProto) -> int | None:
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return math.prod(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None
