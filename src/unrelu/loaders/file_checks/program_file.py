"""Read ``.pt2`` files of ``torch.export.save`` without ``torch.export.load``, which can run code.

PyTorch's reader unpickles objects where the file asks for it, evaluates the text of symbolic sizes by SymPy, looks up
operators by any name, and loads compiled libraries. Here the file is read as a zip archive of JSON and numbers.
Only listed operators are allowed, none of which reads files. Weights are read as plain numbers. Nothing else is used.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unrelu.errors import InputError, ModelFileError, UnsupportedModelError
from unrelu.loaders._exported_program import SIZES, Program
from unrelu.loaders._graph_recorder import FixedBatchModule, SizeLimit
from unrelu.loaders.file_checks import readable
from unrelu.models.affine import Shape
from unrelu.models.module_copies import frozen
from unrelu.runtime.file_reading import check_members, json_limit, read_bytes, shown_size, zip_members

_WAY_OUT = 'if you trust its author, unrelu.from_torch(torch.export.load("FILE")) reads it'
# Numeric types by their number in torch._export.serde.schema.ScalarType.
_TYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
# Operators that only compute their outputs from their inputs.
_OPERATORS = """
    _softmax _log_softmax _to_copy _unsafe_view abs adaptive_avg_pool1d adaptive_avg_pool2d add addmm alias amax amin
    arange avg_pool1d avg_pool2d batch_norm bmm cat celu chunk clamp clamp_max clamp_min clone constant_pad_nd
    contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d convolution cos cumsum detach div dropout einsum
    elu embedding eq erf exp expand expand_as eye flatten flip full full_like gather ge gelu glu group_norm gt
    hardsigmoid hardswish hardtanh index index_select instance_norm layer_norm le leaky_relu lift_fresh_copy
    linalg_vector_norm linear log log_softmax lt masked_fill matmul max_pool1d max_pool2d maximum mean meshgrid minimum
    mish mm movedim mul narrow native_group_norm native_layer_norm ne neg norm ones ones_like pad permute pixel_shuffle
    pixel_unshuffle pow prelu reciprocal relu relu6 repeat repeat_interleave reshape rms_norm roll rsqrt rsub
    scalar_tensor scaled_dot_product_attention select selu sigmoid silu sin slice softmax softplus split
    split_with_sizes sqrt square squeeze stack std sub sum sym_size t tanh tile to transpose tril triu type_as unbind
    unflatten unsqueeze upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d var var_mean view
    where zeros zeros_like
    add_ celu_ clamp_ div_ elu_ hardswish_ hardtanh_ leaky_relu_ mish_ mul_ relu_ selu_ sigmoid_ silu_ sub_ tanh_
"""
_ATEN = frozenset(_OPERATORS.split())


def read_program_file(file: Path, max_bytes: int) -> tuple[nn.Module, Shape]:
    """Return the program in a ``.pt2`` file as a module, and the shape of one code.

    Raises:
        ModelFileError: it is not such a file, is damaged, holds pickled objects or compiled libraries, or states
            tensors that are larger than their records.
        UnsupportedModelError: an operator is not known to be safe, or would make a tensor of more than ``max_bytes``.
        InputError: the file or its content has more than ``max_bytes``.
    """
    content = read_bytes(file, max_bytes)
    kind = ".pt2 file of torch.export.save of this version of PyTorch"
    with readable(kind), zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = zip_members(archive, file)
        check_members(members.values(), file, len(content), max_bytes)
        records = {name.partition("/")[2]: name for name in members}
        module, shape = _Reader(archive, records, max_bytes).module()
    _check_sizes(module, shape, max_bytes)
    return module, shape


class _Reader:
    """Reads an archive. ``records`` maps names without the archive's folder to full names."""

    def __init__(self, archive: zipfile.ZipFile, records: Mapping[str, str], max_bytes: int) -> None:
        self.archive, self.records, self.max_bytes, self.held = archive, records, max_bytes, 0

    def module(self) -> tuple[nn.Module, Shape]:
        """Return the program as a module, and the shape of one code."""
        if any(name.startswith("data/aotinductor/") for name in self.records):
            raise ModelFileError(f"the file holds compiled libraries, which are code; {_WAY_OUT}")
        if self._bytes("byteorder") not in (b"little", b""):
            raise ModelFileError("its numbers are stored in big-endian order; export it again")
        graph_module = self._json("models/model.json")["graph_module"]
        graph, signature = graph_module["graph"], graph_module["signature"]
        stored = self._tensors("weights") | self._tensors("constants")
        tensors, codes = {}, []
        for spec in signature["input_specs"]:
            ((kind, held),) = spec.items()
            name = held["arg"].get("as_tensor", held["arg"]).get("name")
            if kind == "user_input":
                codes += [] if name is None else [name]
            elif kind in ("parameter", "buffer", "tensor_constant"):
                tensors[name] = stored[held.get(f"{kind}_name")]
        values = graph["tensor_values"]
        program = Program(codes, lambda name: [size.get("as_int") for size in values[name]["sizes"]])
        for name, tensor in tensors.items():
            program.add_constant(name, tensor)
        for node in graph["nodes"]:
            _call(program, node)
        outputs = [spec["user_output"]["arg"]["as_tensor"]["name"] for spec in signature["output_specs"]]
        return program.module(outputs), program.shape

    def _bytes(self, name: str) -> bytes:
        return self.archive.read(self.records[name]) if name in self.records else b""

    def _json(self, name: str) -> Any:
        content = self._bytes(name)
        if len(content) > json_limit(self.max_bytes):
            raise InputError(f"{name} has {shown_size(len(content))}; pass a larger max_bytes= if you trust the file")
        return json.loads(content)

    def _tensors(self, kind: str) -> dict[str, Tensor]:
        """The tensors of this kind (weights or constants), by name."""
        config = self._json(f"data/{kind}/model_{kind}_config.json")["config"]
        return {name: self._tensor(name, f"data/{kind}/{entry['path_name']}", entry) for name, entry in config.items()}

    def _tensor(self, name: str, record: str, entry: Mapping[str, Any]) -> Tensor:
        meta = entry["tensor_meta"]
        if entry["use_pickle"] or meta is None:
            raise ModelFileError(f"the file holds pickled objects ({name}), which could run code; {_WAY_OUT}")
        shape, strides = ([int(n["as_int"]) for n in meta[key]] for key in ("sizes", "strides"))
        dtype, content = _TYPES[meta["dtype"]], self._bytes(record)
        size = math.prod(shape) * dtype.itemsize
        self.held += 8 * math.prod(shape)
        if size > len(content) or self.held > self.max_bytes:
            raise ModelFileError(
                f"{name} {tuple(shape)} takes {shown_size(size)}, its record has {shown_size(len(content))}: the file "
                "is damaged, or needs a larger max_bytes="
            )
        flat = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.zeros(0, dtype=dtype)
        return torch.as_strided(flat, shape, strides, int(meta["storage_offset"]["as_int"])).clone()


# --- nodes ------------------------------------------------------------------------------------------------------------


def _call(program: Program, node: Mapping[str, Any]) -> None:
    """Add a node. If it has several outputs, add a node for each of them."""
    arguments = [(part["kind"] == 1, part["name"], _value(part["arg"], program)) for part in node["inputs"]]
    args = tuple(value for positional, _, value in arguments if positional)
    kwargs = {name: value for positional, name, value in arguments if not positional}
    outputs = [_result(part) for part in node["outputs"]]
    target = _target(node["target"])
    if len(outputs) == 1 and not isinstance(outputs[0], list):
        program.add_call(str(outputs[0]), target, args, kwargs)
    elif outputs:  # assertions have none
        parts = outputs[0] if isinstance(outputs[0], list) else outputs
        program.add_call(whole := f"all of {parts[0]}", target, args, kwargs)
        for i, part in enumerate(parts):
            program.add_call(part, SIZES["getitem"], (program.nodes[whole], i), {})


def _result(part: Mapping[str, Any]) -> Any:
    ((kind, held),) = part.items()
    if kind == "as_tensor":
        return held["name"]
    if kind == "as_tensors":
        return [one["name"] for one in held]
    return held.get("as_name") if isinstance(held, dict) else str(held)


def _value(given: Mapping[str, Any], program: Program) -> Any:
    """The value of an argument, or the node that computes it."""
    ((kind, held),) = given.items()
    if kind == "as_tensor":
        return program.nodes.get(held["name"])
    if kind in ("as_tensors", "as_optional_tensors"):
        return [program.nodes.get(one["name"]) if "name" in one else _value(one, program) for one in held]
    if kind in ("as_sym_int", "as_sym_ints"):
        found = [
            program.nodes.get(one["as_name"]) if "as_name" in one else int(one["as_int"])
            for one in (held if isinstance(held, list) else [held])
        ]
        return found if kind == "as_sym_ints" else found[0]
    if kind in ("as_int", "as_float", "as_bool", "as_string", "as_ints", "as_floats", "as_bools"):
        return held
    if kind == "as_none":
        return None
    if kind == "as_scalar_type":
        return _TYPES[held]
    if kind in ("as_device", "as_layout", "as_memory_format"):
        return {"as_device": torch.device("cpu"), "as_layout": torch.strided}.get(kind, torch.preserve_format)
    raise UnsupportedModelError(f"the program has an argument {kind!r}, which no operator of tensors takes; {_WAY_OUT}")


def _target(name: str) -> Any:
    """The operator of this name if it is known to be safe, else the name."""
    module, _, last = name.rpartition(".")
    if module == "_operator" and last in SIZES:
        return SIZES[last]
    operator, dot, overload = name.removeprefix("torch.ops.aten.").partition(".")
    if not name.startswith("torch.ops.aten.") or not dot or operator not in _ATEN:
        return name
    packet = getattr(torch.ops.aten, operator)
    return getattr(packet, overload) if overload in packet.overloads() else name


def _check_sizes(module: nn.Module, shape: Shape, max_bytes: int) -> None:
    """Refuse a program that would make a tensor of more than ``max_bytes``, by running it on meta tensors."""
    body, count = (module.body, module.batch) if isinstance(module, FixedBatchModule) else (module, 2)
    empty = frozen(body, torch.float64, torch.device("meta"))
    try:
        with torch.no_grad(), SizeLimit(max_bytes):
            empty(torch.empty(count, *shape, dtype=torch.float64, device="meta"))
    except UnsupportedModelError:
        raise
    except Exception as error:  # raised by the program's operators
        raise UnsupportedModelError(f"the program cannot be run: {type(error).__name__}: {error}") from error
