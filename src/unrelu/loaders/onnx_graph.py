"""An ONNX file as a network: its graph, followed from the latent code to the output, everything else folded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.affine import Shape
from unrelu.errors import ModelError, ModelFileError, UnsupportedModelError
from unrelu.loaders.chain import BATCHES, Chain, Flow, code_shape
from unrelu.loaders.onnx_operators import OPERATORS, Call
from unrelu.network import Network

try:
    import onnx
    import onnx.checker
    import onnx.helper
    import onnx.inliner
    import onnx.numpy_helper
    from onnx.reference import ReferenceEvaluator
except ImportError:
    raise ModelFileError('reading .onnx needs a package: pip install "unrelu[onnx]"') from None

__all__ = ["from_onnx"]

# Before opset 7, arithmetic broadcast by an attribute and batch normalisation had a test mode.
_OLDEST = 7

# Nodes without inputs whose value is not a constant of the model.
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}


def from_onnx(file: Path, latent_shape: int | tuple[int, ...] | None = None) -> Network:
    """The chain of layers that an ONNX graph computes, in float64.

    Args:
        file: the model. Tensors in other files are read from its own folder only.
        latent_shape: shape of one latent code, only if the graph leaves it open.

    Raises:
        ModelFileError: the file is truncated or not a valid ONNX model.
        UnsupportedModelError: a node is not an affine map or a known activation, or the graph branches.
        ModelError: shapes do not fit, or weights are not finite.

    Source: https://onnx.ai/onnx/operators/
    """
    graph = _Graph(_read(file))
    shape, batch = _input_shape(graph.input, latent_shape)
    one, two = (graph.follow(shape, b) for b in (BATCHES if batch is None else (batch, batch)))
    one.check_same(two)
    return Network.chain(one.parts, shape)


def _read(file: Path) -> onnx.ModelProto:
    try:
        # Loading refuses tensors stored outside the model's folder; so does the checker, again.
        model = onnx.load(file)
        onnx.checker.check_model(str(file))
    except OSError:
        raise
    # protobuf and the checker raise exceptions of their own, and of several kinds for damaged files.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelFileError(f"not a valid ONNX model, or a truncated one ({reason}); export it again") from error
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST:
        raise UnsupportedModelError(f"uses ONNX opset {opset}; export it again with opset {_OLDEST} or later, e.g. 17")
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _input_shape(value: onnx.ValueInfoProto, latent_shape: int | tuple[int, ...] | None) -> tuple[Shape, int | None]:
    """Shape of one code, and the batch size if the graph fixes it."""
    kind = value.type.tensor_type
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    if kind.elem_type not in floats:
        raise UnsupportedModelError(f"the input {value.name!r} is not a tensor of real numbers")
    dims = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
    batch, rest = (dims[0], dims[1:]) if dims else (None, [])
    shown = f"({', '.join('?' if d is None else str(d) for d in dims)})"
    if len(dims) == 1:
        raise UnsupportedModelError(f"the input {value.name!r} has shape {shown}; its first axis must be the batch")
    if rest and None not in rest:
        if latent_shape is not None:
            raise ModelError(
                f"the graph fixes the input {value.name!r} to {shown}; leave latent_shape={latent_shape} out"
            )
        return tuple(int(d) for d in rest if d is not None), batch
    if latent_shape is None:
        raise ModelError(f"the graph leaves the input {value.name!r} of shape {shown} open; pass latent_shape=")
    shape = code_shape(latent_shape)
    fits = not rest or (len(rest) == len(shape) and all(d in (None, n) for d, n in zip(rest, shape, strict=True)))
    if not fits:
        raise ModelError(f"latent_shape={latent_shape} does not fit the input {value.name!r} of shape {shown}")
    return shape, batch


class _Graph:
    """A graph with one input and one output."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.opsets = list(model.opset_import)
        self.opset = next(o.version for o in self.opsets if o.domain in ("", "ai.onnx"))
        self.constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        if graph.sparse_initializer:
            raise UnsupportedModelError("the graph has sparse weights; store them as dense tensors")
        inputs = [v for v in graph.input if v.name not in self.constants]
        for what, values in (("inputs", inputs), ("outputs", list(graph.output))):
            if len(values) != 1:
                names = ", ".join(v.name for v in values) or "none"
                raise UnsupportedModelError(f"the graph has {len(values)} {what} ({names}); a generator has one")
        self.input, self.output = inputs[0], graph.output[0].name
        self.nodes = _needed(graph.node, self.output)

    def follow(self, shape: Shape, batch: int) -> Chain:
        """The chain for codes of this shape."""
        chain = Chain(shape, batch, f"the input {self.input.name!r}")
        values: dict[str, Any] = {"": None, **self.constants, self.input.name: chain.head}
        for node in self.nodes:
            place = f"node {node.name or node.output[0]!r} ({node.op_type})"
            if missing := [name for name in node.input if name not in values]:
                raise UnsupportedModelError(
                    f"{place} takes {missing[0]!r}, a second output, as of Dropout; it has no meaning here"
                )
            inputs = [values[name] for name in node.input]
            values |= zip(node.output, self._evaluate(node, inputs, chain, place), strict=False)
        output = values.get(self.output)
        if not isinstance(output, Flow):
            raise UnsupportedModelError(f"the output {self.output!r} does not depend on the input")
        chain.finish(output)
        return chain

    def _evaluate(self, node: onnx.NodeProto, inputs: list[Any], chain: Chain, place: str) -> Sequence[Any]:
        """The outputs of a node: one :class:`Flow`, or constants."""
        flows = [value for value in inputs if isinstance(value, Flow)]
        try:
            if node.domain not in ("", "ai.onnx"):
                raise UnsupportedModelError(
                    f"belongs to the operator set {node.domain!r}; only ONNX's own is supported"
                )
            if not flows:
                return self._fold(node, inputs)
            if len(flows) > 1:
                raise UnsupportedModelError("joins two branches; only chains of layers can be inverted")
            attributes = {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in node.attribute}
            if node.op_type in ("Shape", "Size"):
                return [_query(node.op_type, flows[0], attributes)]
            if node.op_type not in OPERATORS:
                names = ", ".join(sorted(OPERATORS))
                raise UnsupportedModelError(f"is not an affine map or a known activation; supported are {names}")
            parts = OPERATORS[node.op_type](Call(inputs, attributes, self.opset))
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{place} {error}") from error
        except ModelError as error:
            raise ModelError(f"{place}: {error}") from error
        # Complaints of PyTorch and NumPy about shapes and arguments.
        except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
            what = f"does not fit an input of shape {flows[0].shape}" if flows else "cannot be computed"
            raise ModelError(f"{place} {what}: {error}") from error
        return [chain.advance(flows[0], parts, place)]

    def _fold(self, node: onnx.NodeProto, inputs: list[Any]) -> Sequence[Any]:
        """The outputs of a node whose inputs are all constant, by ONNX's own reference implementation."""
        if node.op_type in _RANDOM:
            raise UnsupportedModelError("draws random numbers; a generator must be deterministic")
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise UnsupportedModelError("is control flow, which has no place in a chain of layers; export without it")
        names = [onnx.ValueInfoProto(name=name) for name in node.input if name]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = onnx.helper.make_graph([node], "constant", names, outputs)
        evaluator = ReferenceEvaluator(graph, opsets={o.domain: o.version for o in self.opsets})
        feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
        values = iter(evaluator.run(None, feeds))
        return [next(values) if name else None for name in node.output]


def _needed(nodes: Sequence[onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
    """The nodes that the output is computed from, in the order of the graph."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _query(kind: str, flow: Flow, attributes: dict[str, Any]) -> npt.NDArray[np.int64]:
    """What Shape and Size say about a flow."""
    full = np.array([flow.batch, *flow.shape], dtype=np.int64)
    return np.asarray(full.prod()) if kind == "Size" else full[attributes.get("start", 0) : attributes.get("end")]


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
