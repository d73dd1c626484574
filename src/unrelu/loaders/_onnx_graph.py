"""Read an ONNX file as a network: convert its graph to a PyTorch module, then read this as any other module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from unrelu.errors import ModelError, ModelFileError, OptionError, UnreluError, UnsupportedModelError
from unrelu.loaders._chain_reader import code_shape
from unrelu.loaders._onnx_functions import FUNCTIONS, TYPES, cast_later
from unrelu.loaders._pickled_arrays import readable
from unrelu.loaders._recording import at_place
from unrelu.loaders._torch_graph import BATCH, FixedBatchModule, network_of, with_names
from unrelu.models.generator import NamedGenerator
from unrelu.models.network import Network
from unrelu.opaque.opaque_network import OpaqueNetwork
from unrelu.opaque.torch_callables import GeneratorCall, Pick, as_module
from unrelu.opaque.torch_opaque import trial_codes
from unrelu.parameters.latent_bounds import Bounds
from unrelu.runtime.array_types import Shape
from unrelu.runtime.file_reading import check_stated_size, opened, read_bytes

try:
    import onnx
    import onnx.checker
    import onnx.numpy_helper
except ImportError:
    raise ModelFileError("reading .onnx needs a package: pip install onnx") from None

# Operators have different arguments in older opsets.
_OLDEST = 13
# The largest number of nodes of a model; chains of layers have hundreds.
_NODES = 20_000
# The largest model that protobuf serialises, in bytes.
_LARGEST_CHECKED = 2**31 - 1


def from_onnx(
    file: Path,
    latent_shape: int | tuple[int, ...] | None,
    output: Pick | Mapping[str, Pick] | None,
    inputs: Mapping[str, object],
    domain: Bounds | None = None,
) -> Network | OpaqueNetwork | NamedGenerator:
    """Return the chain of layers that an ONNX graph computes, or a generator without layers if it branches.

    ``latent_shape`` is needed if the graph leaves it open. ``output`` selects outputs, as in
    :class:`~unrelu.opaque.torch_callables.GeneratorCall`, or tensors inside the graph. ``inputs`` holds the values of
    all inputs but the code. ``domain`` holds the codes at which the graph is tried. Memory and time of running the
    graph are not limited.

    Raises:
        ModelFileError: the file is truncated, or not a valid ONNX model.
        UnsupportedModelError: a node is unknown, or the graph is not a differentiable generator.
        ModelError: shapes do not fit, or weights are not finite.
    """
    graph = read_model(file).graph
    constants = {tensor.name: _tensor(tensor) for tensor in graph.initializer}
    free = {value.name: value for value in graph.input if value.name not in constants}
    if unknown := [name for name in inputs if name not in free]:
        raise OptionError(f"inputs={unknown[0]!r} is no input of the graph; these are {', '.join(free)}")
    held = {name: (free.pop(name), value) for name, value in inputs.items()}
    if len(free) != 1:
        raise UnsupportedModelError(
            f"the graph has {len(free)} inputs ({', '.join(free) or 'none'}); a generator has one, the code: pass "
            "values of the others, inputs={'name': value}"
        )
    (code,) = free.values()
    shape, batch = _input_shape(code, latent_shape)
    batch = 1 if batch is None and inputs else batch  # values of further inputs belong to one code
    chosen = _chosen(graph, output)
    call = GeneratorCall(chosen if isinstance(output, Mapping) else chosen[""])
    with torch.no_grad():
        try:
            constants |= {name: _row(value, given, batch or 1) for name, (value, given) in held.items()}
            module = as_module(OnnxModule(graph, code.name, constants, list(chosen.values())), call)
            code_of_trial = trial_codes(shape, domain)[:1]
            module(code_of_trial.expand(batch or BATCH, *shape))
        except (UnreluError, NotImplementedError) as error:
            raise _located(error) from error
        except Exception as error:
            try:  # some graphs leave the batch size open, but work for one code only
                module(code_of_trial)
            except Exception:
                raise _located(error) from error
            batch = 1
    network = network_of(module if batch is None else FixedBatchModule(module, batch), shape, domain=domain)
    return with_names(network, call, None)


# --- files ------------------------------------------------------------------------------------------------------------


def read_model(file: Path) -> onnx.ModelProto:
    """Read the model in a file and check it.

    Tensors may be in a second file only if its name is ``NAME.data`` or ``NAME_data``, where NAME is the model's file
    name, as written by PyTorch and Hugging Face. Otherwise the author of the model could make unrelu read any file on
    this machine.

    Raises:
        ModelFileError: the file is truncated or not a valid ONNX model, or refers to another file or a link.
        InputError: the file, or the second one, has more bytes than the setting allows.
        UnsupportedModelError: the model has too many nodes, functions, sparse weights or an old opset.
    """
    content = read_bytes(file)
    with readable("valid ONNX model"):
        model = onnx.load_model_from_string(content)
        outside = [tensor for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
        for tensor in outside:
            _embed(tensor, file)
        if outside:
            content = model.SerializeToString() if model.ByteSize() <= _LARGEST_CHECKED else b""
        if 0 < len(content) <= _LARGEST_CHECKED:
            onnx.checker.check_model(content)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    call = f"onnx.load({file.name!r})"
    for found, what, remedy in (
        (opset < _OLDEST, f"opset {opset}", f"onnx.version_converter.convert_version({call}, 17)"),
        (len(model.functions), "functions", f"onnx.inliner.inline_local_functions({call})"),
        (len(model.graph.sparse_initializer), "sparse weights", "a graph with dense ones"),
        (len(model.graph.node) > _NODES, f"{len(model.graph.node):,} nodes", f"a graph of at most {_NODES:,}"),
    ):
        if found:
            raise UnsupportedModelError(f"it has {what}, which are not read; save {remedy}")
    return model


def _embed(tensor: onnx.TensorProto, file: Path) -> None:
    """Move a tensor from the second file into the model."""
    stated = {entry.key: entry.value for entry in tensor.external_data}
    location = stated.get("location", "")
    beside = file.parent / location
    if location not in (f"{file.name}.data", f"{file.name}_data") or beside.is_symlink():
        raise ModelFileError(
            f"tensor {tensor.name!r} is in another file, {location!r}; the only one that is read is {file.name}.data, "
            f"which is no link: write all into one file, onnx.save(onnx.load('{file.name}'), 'one.onnx')"
        )
    with opened(beside) as (stream, size):
        check_stated_size(f"{beside} has", size)
        offset, length = (int(stated.get(name, default)[:18]) for name, default in (("offset", "0"), ("length", "0")))
        length = length if "length" in stated else size - offset
        if min(offset, length) < 0 or offset + length > size:
            raise ModelFileError(f"tensor {tensor.name!r} is beyond the end of {location}, which has {size:,} bytes")
        stream.seek(offset)
        tensor.raw_data = stream.read(length)
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.DEFAULT


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Yield all tensors in a message at any depth: in the graph, its subgraphs, nodes and functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(part)


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    with readable(f"tensor {tensor.name!r}"):
        array = np.array(onnx.numpy_helper.to_array(tensor))
        if array.dtype.kind not in "biuf":  # bfloat16, and numbers of fewer bits
            array = array.astype(np.float32)
        return torch.from_numpy(array.astype(np.int64) if array.dtype.kind == "u" and array.itemsize > 1 else array)


# --- inputs and outputs -----------------------------------------------------------------------------------------------


def _input_shape(value: onnx.ValueInfoProto, latent_shape: int | tuple[int, ...] | None) -> tuple[Shape, int | None]:
    """Return the shape of one code, and the batch size if the graph fixes it."""
    kind = value.type.tensor_type
    dims = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
    batch, rest = (dims[0], dims[1:]) if dims else (None, [])
    shown = f"the input {value.name!r} of shape ({', '.join('?' if d is None else str(d) for d in dims)})"
    if len(dims) == 1 or not TYPES.get(kind.elem_type, torch.bool).is_floating_point:
        raise UnsupportedModelError(f"{shown} is no batch of codes, real numbers whose first axis is the batch")
    whole = tuple(n for n in rest if n is not None)
    if latent_shape is None and (not rest or len(whole) < len(rest)):
        raise ModelError(f"the graph leaves {shown} open; pass latent_shape=")
    shape = whole if latent_shape is None else code_shape(latent_shape)
    if rest and (len(rest) != len(shape) or any(d not in (None, n) for d, n in zip(rest, shape, strict=True))):
        raise ModelError(f"latent_shape={latent_shape} does not fit {shown}")
    return shape, batch


def _row(info: onnx.ValueInfoProto, value: object, batch: int) -> Tensor:
    """Convert the value of a further input to a tensor; repeat a value for one code along the batch."""
    kind, dims = info.type.tensor_type.elem_type, info.type.tensor_type.shape.dim
    try:
        given = torch.as_tensor(value, dtype=TYPES[kind])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise OptionError(f"inputs: {info.name!r} is {value!r:.80}, not a tensor of numbers ({error})") from error
    given = given[None] if given.dim() == len(dims) - 1 else given
    rows = given.shape[0] if given.dim() else 0
    return given.expand(batch, *given.shape[1:]) if rows == 1 and dims and dims[0].dim_value in (0, batch) else given


def _chosen(graph: onnx.GraphProto, output: Pick | Mapping[str, Pick] | None) -> dict[str, str]:
    """Map the name of each part of the output to the name of a tensor of the graph."""
    names = [value.name for value in graph.output]
    if output is None and len(names) != 1:
        raise UnsupportedModelError(
            f"the graph has {len(names)} outputs ({', '.join(names) or 'none'}); pass output='name' for one of them, "
            f"or several as named parts, output={names}"
        )
    chosen, inner = {}, {name for node in graph.node for name in node.output if name}
    for part, pick in output.items() if isinstance(output, Mapping) else [("", output or 0)]:
        found = names[pick] if isinstance(pick, int) and -len(names) <= pick < len(names) else pick
        if not isinstance(found, str) or found not in inner.union(names):
            raise OptionError(
                f"output={pick!r} is no name or number of the graph's outputs, {', '.join(names)}, and no name of a "
                "tensor inside"
            )
        chosen[part] = found
    return chosen


# --- the graph as a module --------------------------------------------------------------------------------------------


class _Call(NamedTuple):
    """A node: its function and attributes, and the names of its inputs, its outputs, and values not needed later."""

    place: str
    function: Any
    attributes: dict[str, Any]
    inputs: Sequence[str]
    outputs: Sequence[str]
    spare: Sequence[str]

    def results(self, values: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        """Compute the outputs by name; add the place of the node to errors as a note."""
        with at_place(self.place):
            found = self.function(*(values[name] for name in self.inputs), **self.attributes)
        several = found if isinstance(found, tuple | list) else (found,)
        return {name: x for name, x in zip(self.outputs, several, strict=False) if name}


class OnnxModule(nn.Module):
    """An ONNX graph as a module from codes (B, ...) to some of its tensors, by name.

    Tensors that do not depend on the code are computed once, when the module is made, in the types of the file.

    Args:
        graph: the graph.
        code: the name of the input.
        constants: tensors by name.
        outputs: the names of the selected tensors.
    """

    def __init__(self, graph: onnx.GraphProto, code: str, constants: dict[str, Tensor], outputs: Sequence[str]) -> None:
        super().__init__()
        self.title, self.training = "ONNX graph", False
        self._code, self._outputs, self._calls, self._names = code, outputs, list[_Call](), dict[str, str]()
        values: dict[str, Tensor | None] = {"": None, **constants}
        wanted, calls, later = set(outputs), list[_Call](), {code}
        for node in reversed(graph.node):
            if wanted.intersection(node.output):
                spare = [name for name in node.input if name and name not in wanted]
                wanted.update(node.input)
                calls.append(_call(node, spare, not set(outputs).isdisjoint(node.output), constants))
        for call in reversed(calls):
            if later.isdisjoint(call.inputs):
                values |= call.results(values)
                continue
            later.update(call.outputs)
            cast = call.function in (FUNCTIONS["Cast"], FUNCTIONS["CastLike"])
            self._calls.append(call._replace(function=cast_later) if cast else call)
        if missing := [name for name in outputs if name not in later]:
            raise UnsupportedModelError(f"the output {missing[0]!r} does not depend on the input")
        for name in sorted({name for call in self._calls for name in call.inputs} & values.keys() - {""}):
            value: Any = values[name]
            self._names[name] = f"constant_{len(self._names)}"
            self.register_buffer(self._names[name], value.double() if value.is_floating_point() else value)

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        """Compute the selected tensors for codes, (B, ...) each."""
        values: dict[str, Any] = {"": None, **{name: getattr(self, held) for name, held in self._names.items()}}
        values[self._code] = z
        for call in self._calls:
            values |= call.results(values)
            for name in call.spare:
                values.pop(name, None)
        return {name: values[name] for name in self._outputs}


def _call(node: onnx.NodeProto, spare: Sequence[str], last: bool, constants: Mapping[str, Tensor]) -> _Call:
    """Convert a node to a function call; leave out attributes that have their default values."""
    place, kind = f"node {node.name or node.output[0]!r} ({node.op_type})", node.op_type
    own = node.domain in ("", "ai.onnx") or (node.domain, kind) == ("ai.onnx.ml", "Scaler")
    if not own or kind not in FUNCTIONS:
        raise UnsupportedModelError(f"{place} is not known; supported are {', '.join(sorted(FUNCTIONS))}")
    if last and kind == "Reshape" and constants.get(node.input[1], torch.zeros(0)).tolist() == [-1, 1]:
        kind = "Flatten"  # skl2onnx puts the outputs of all codes in one column
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if kind == node.op_type}
    for name, default in onnx.defs.get_schema(node.op_type, node.domain).attributes.items():
        stated = default.default_value
        if stated.name and name in attributes and attributes[name] == onnx.helper.get_attribute_value(stated):
            del attributes[name]
    plain = {name: _plain(value) for name, value in attributes.items()}
    if kind == "Split" and len(node.input) == 1:
        plain["num_outputs"] = len(node.output)
    inputs = node.input[:1] if kind != node.op_type else node.input
    return _Call(place, FUNCTIONS[kind], plain, tuple(inputs), tuple(node.output), spare)


def _plain(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return _tensor(value)
    return value.decode() if isinstance(value, bytes) else value


def _located(error: Exception) -> Exception:
    """Return an error that names the place of the node."""
    place = getattr(error, "__notes__", [""])[0]
    if isinstance(error, UnreluError):
        return type(error)(f"{place} {error}".strip())
    kind = UnsupportedModelError if isinstance(error, TypeError | LookupError) else ModelError
    return kind(f"{place} cannot be computed: {error}")
