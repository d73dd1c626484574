"""Read ONNX models from files, with the tensors that a second file holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnx.checker
import onnx.inliner

from unrelu.errors import InputError, ModelFileError, UnsupportedModelError
from unrelu.loaders.file_checks import readable
from unrelu.runtime.file_reading import opened, read_bytes, shown_size

# The most nodes of a model, those inside its functions included; chains of layers have hundreds.
_NODES = 20_000
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
        outside = [tensor for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
        left = max_bytes
        for tensor in outside:
            left -= _embed(tensor, file, left)
        if outside:
            content = model.SerializeToString() if model.ByteSize() <= _LARGEST_CHECKED else b""
        _check_nodes(model)
        if 0 < len(content) <= _LARGEST_CHECKED:
            onnx.checker.check_model(content)
        return onnx.inliner.inline_local_functions(model) if model.functions else model


def _embed(tensor: onnx.TensorProto, file: Path, left: int) -> int:
    """Move a tensor from the second file into the model; return its bytes, which are at most ``left``."""
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
        if offset + length > size:
            raise ModelFileError(
                f"tensor {tensor.name!r} has bytes {offset:,} to {offset + length:,} of {location}, which has "
                f"{size:,}: it is cut short or another one"
            )
        if length > left:
            raise InputError(
                f"its tensors take more than the largest size that is read, by {shown_size(length - left)}; pass a "
                "larger max_bytes= (--max-bytes) if you trust the file"
            )
        stream.seek(offset)
        tensor.raw_data = stream.read(length)
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.DEFAULT
    return length


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
    functions = {(f.domain, f.name, f.overload): f.node for f in model.functions}

    def count(nodes: Sequence[onnx.NodeProto]) -> int:
        return sum(called((n.domain, n.op_type, n.overload)) for n in nodes)

    @cache
    def called(key: tuple[str, str, str]) -> int:
        """The nodes of a function, without end, and so an error, if it calls itself."""
        return 1 + count(functions[key]) if key in functions else 1

    if (total := count(model.graph.node)) > _NODES:
        raise UnsupportedModelError(f"has {total:,} nodes; models of up to {_NODES:,} are read, simplify it")
