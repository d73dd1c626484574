"""Which operator of PyTorch is which part of a chain of layers: an affine step or an activation.

Functions, methods and modules of PyTorch all call these operators, so each is read once. An entry of :data:`_PARTS`
takes the operator's arguments, with a :class:`Flow` in place of the tensor that depends on the code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from unrelu.errors import InputError, ModelError, UnsupportedModelError
from unrelu.loaders._recording import name_of
from unrelu.models.activations import SELU_ALPHA, SELU_SCALE, Activation
from unrelu.models.affine import Conv, Dense, LinearOperation, Reshape, Scale, Shape, Step
from unrelu.models.generator import numbers

Part = Step | Activation
# Linear operators that keep the batch first and do not take its size: called as they are.
_LINEAR = {
    "permute", "transpose", "slice", "select", "index", "index_select", "flip", "roll", "diagonal", "cumsum", "tril",
    "triu", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
    "replication_pad2d", "replication_pad3d", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "im2col", "col2im",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d",
    "upsample_bicubic2d", "_upsample_bilinear2d_aa", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d", "mean", "sum",
}  # fmt: skip
# Operators that give the same numbers, in order.
_SAME = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze", "clone", "detach", "alias",
    "contiguous", "lift_fresh", "_to_copy", "to", "native_dropout",
}  # fmt: skip
# Operators that may take matrices put below each other, (B t, n): those on the last axis, and on each entry.
_ON_ROWS = {
    *_SAME, "linear", "mm", "bmm", "addmm", "add", "sub", "rsub", "mul", "div", "neg", "relu", "sigmoid", "tanh", "exp",
    "silu", "mish", "hardsigmoid", "hardswish", "sin", "gelu", "elu", "celu", "softplus", "clamp", "clamp_min",
    "clamp_max", "hardtanh", "leaky_relu", "gated",
}  # fmt: skip
# By how much an operator may differ for one code from the same in a batch, for numbers of about 1.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Flow:
    """A tensor that depends on the code.

    Attributes:
        shape: the shape of one element, without the batch axis.
        origin: the place in the model that computes it, for messages.
    """

    shape: Shape
    origin: str


def float64(value: object, what: str) -> Tensor:
    """A float64 copy on the CPU of a tensor, an array or nested lists of real numbers."""
    try:
        dense = value.to_dense() if isinstance(value, Tensor) else value
        return torch.from_numpy(numbers(dense, what)).contiguous()  # type: ignore[arg-type] # checked there
    except (InputError, NotImplementedError) as error:  # the latter for tensors without data
        raise ModelError(str(error)) from None


def element(full: Shape, batch: int) -> Shape:
    """The shape of one element of a tensor for a batch.

    Matrix products of elements with several axes put all rows of all elements below each other, (B t, n).

    Raises:
        UnsupportedModelError: the first axis is not made of whole elements.
    """
    if not full or full[0] % batch or not full[0]:
        raise UnsupportedModelError(f"mixes the batch axis with others, in a tensor of shape {full} for {batch} codes")
    return full[1:] if full[0] == batch else (full[0] // batch, *full[1:])


def shape_of(node: fx.Node) -> Shape:
    """The shape of the tensor that a node computes, or of the one of several that is used."""
    shape: Shape = node.meta["shape"] if "shape" in node.meta else next(iter(node.users)).meta["shape"]
    return shape


def parts_of(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], batch: int) -> list[Part]:
    """The parts that a node applies to the one :class:`Flow` among its arguments.

    Args:
        node: a node of a recording.
        args, kwargs: its arguments, constants or the flow.
        batch: the size of the batch that was recorded.

    Raises:
        UnsupportedModelError: the operator is neither an affine map nor a known activation.
    """
    function: Any = node.target
    name = name_of(node)
    flow = next(x for x in (*args, *kwargs.values()) if isinstance(x, Flow))
    out = element(shape_of(node), batch)
    if name not in _ON_ROWS and any(shape_of(each)[0] != batch for each in node.all_input_nodes):
        raise UnsupportedModelError(f"calls {name}() on elements put below each other, where axes are not known")
    kind = node.meta.get("dtype", torch.float64)
    if not kind.is_floating_point:
        raise UnsupportedModelError(f"gives numbers of type {kind}; only real ones can be inverted")
    if name in _SAME and args[0] is flow:
        return [Reshape(out)]
    if name in _LINEAR and args[0] is flow:
        return [_linear(function, name, flow, args[1:], kwargs)]
    if name in ("expand", "repeat") and args[0] is flow and len(args[1]) == 1 + len(out):
        first = -1 if name == "expand" else 1
        if name == "expand" or args[1][0] == 1:
            return [LinearOperation(str(function), ((first, *args[1][1:]),))]
    if name not in _PARTS:
        raise UnsupportedModelError(f"calls {name}(), which is not an affine map or a known activation")
    expanded = _expanded(flow, out) if name in _ARITHMETIC else []
    reader = _Arguments(Flow(out, flow.origin) if expanded else flow, node.meta.get("shape", ()), batch)
    try:
        return [*expanded, *_PARTS[name](reader, *args, **kwargs)]
    except TypeError as error:
        raise UnsupportedModelError(f"calls {name}() with arguments that are not supported: {error}") from error


def _linear(function: Any, name: str, flow: Flow, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LinearOperation:
    """A linear operator as a step, once it is found to take each element on its own."""
    if name == "constant_pad_nd" and len(args) > 1 and args[1]:
        raise UnsupportedModelError(f"pads with {args[1]}; only zeros are supported")
    kwargs = {key: value for key, value in kwargs.items() if key != "dtype"}
    own = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, args)  # indices
    step = LinearOperation(str(function), tuple(own), tuple(kwargs.items()))
    z = torch.linspace(-1.0, 1.7, 3 * math.prod(flow.shape), dtype=torch.float64).reshape(3, *flow.shape)
    try:
        both, alone = step.apply(z), torch.cat([step.apply(z[i : i + 1]) for i in range(3)])
    except (RuntimeError, IndexError) as error:
        raise UnsupportedModelError(f"calls {name}(), which does not take each code alone: {error}") from error
    if both.shape != alone.shape or not torch.allclose(both, alone, rtol=0, atol=_ROUNDING):
        raise UnsupportedModelError(f"calls {name}(), which mixes the batch axis with others")
    return step


def _expanded(flow: Flow, out: Shape) -> list[Part]:
    """The step that repeats elements along axes in which a constant is larger."""
    if out == flow.shape:
        return []
    shape = (1,) * (len(out) - len(flow.shape)) + flow.shape
    same: list[Part] = [Reshape(shape)] if shape != flow.shape else []
    return [*same, LinearOperation("aten.expand.default", ((-1, *out),))]


class _Arguments:
    """What readers of operators take: the data, and constants as those of one element."""

    def __init__(self, flow: Flow, full: Shape, batch: int) -> None:
        self.flow, self.full, self.batch = flow, full, batch

    @property
    def shape(self) -> Shape:
        """The shape of one element."""
        return self.flow.shape

    def constant(self, value: object) -> Tensor:
        """A constant in float64, without the batch axis.

        Raises:
            UnsupportedModelError: it differs between the elements of the batch, or does not broadcast to one.
        """
        tensor = float64(value, "a constant")
        if tensor.dim() and tensor.dim() == len(self.full):
            rows = tensor if len(tensor) == 1 else tensor.reshape(self.batch, *element(tuple(tensor.shape), self.batch))
            if not (rows == rows[:1]).all():
                raise UnsupportedModelError("combines the data with a constant that differs between codes of a batch")
            tensor = rows[0]
        try:
            fits = np.broadcast_shapes(tuple(tensor.shape), self.shape) == self.shape
        except ValueError:
            fits = False
        if not fits:
            raise UnsupportedModelError(
                f"combines a constant of shape {tuple(tensor.shape)} with elements of shape {self.shape}; a constant "
                "must broadcast to one element"
            )
        return tensor

    def scale(self, factor: object, shift: object = 0.0) -> list[Part]:
        """factor x + shift."""
        return [Scale(self.constant(factor), self.constant(shift))]


# --- layers -----------------------------------------------------------------------------------------------------------


def _linear_layer(given: _Arguments, x: Any, weight: Tensor, bias: Tensor | None = None) -> list[Part]:
    """W x + b on the last axis."""
    if not isinstance(x, Flow) or not isinstance(weight, Tensor):
        raise UnsupportedModelError("multiplies by the data in place of a constant matrix")
    return [Dense(float64(weight, "weight"), None if bias is None else float64(bias, "bias").expand(len(weight)))]


def _product(given: _Arguments, x: Any, matrix: Any) -> list[Part]:
    """x W on the last axis; or M x for elements with two axes."""
    if isinstance(x, Flow):
        held = _of_one(matrix)
        return _linear_layer(given, x, held.mT)
    held = _of_one(x)
    swap = LinearOperation("aten.transpose.int", (1, 2))
    if len(given.shape) != 2 or not isinstance(matrix, Flow) or x.dim() != 3:
        raise UnsupportedModelError("multiplies the batch from the left")
    return [swap, *_linear_layer(given, matrix, held), swap]


def _of_one(matrix: Any) -> Tensor:
    """The one matrix that is the same for all codes."""
    if not isinstance(matrix, Tensor):
        raise UnsupportedModelError("multiplies the data by itself")
    one: Tensor = matrix[0] if matrix.dim() == 3 and (matrix == matrix[:1]).all() else matrix
    if one.dim() != 2:
        raise UnsupportedModelError(f"multiplies by a constant of shape {tuple(matrix.shape)}, not by one matrix")
    return one


def _product_with_bias(
    given: _Arguments, bias: Any, x: Any, matrix: Any, *, beta: float = 1, alpha: float = 1
) -> list[Part]:
    """beta b + alpha x W."""
    if not isinstance(x, Flow) or not isinstance(bias, Tensor):
        raise UnsupportedModelError("multiplies the batch from the left, or adds the data to a product")
    weight = alpha * float64(_of_one(matrix), "weight").mT
    if bias.dim() <= 1 or bias.shape[:-1].numel() == 1:
        return _linear_layer(given, x, weight, beta * float64(bias, "bias").reshape(-1))
    rows = _Arguments(Flow((*given.shape[:-1], len(weight)), ""), given.full, given.batch)
    return [*_linear_layer(given, x, weight), *rows.scale(1.0, beta * bias)]


def _convolution(
    given: _Arguments, x: Any, weight: Any, bias: Tensor | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, *_: Any,
) -> list[Part]:  # fmt: skip
    if not isinstance(x, Flow) or not isinstance(weight, Tensor):
        raise UnsupportedModelError("convolves with the data in place of a constant kernel")
    held = None if bias is None else float64(bias, "bias")
    kernel, around = float64(weight, "weight"), tuple(output_padding)
    return [Conv(kernel, held, tuple(stride), tuple(padding), tuple(dilation), groups, transposed, around)]


def _batch_norm(
    given: _Arguments, x: Flow, weight: Any, bias: Any, mean: Any, variance: Any, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> list[Part]:  # fmt: skip
    """Batch normalisation with its running statistics."""
    if training or mean is None or variance is None:
        raise UnsupportedModelError(
            "normalises by the statistics of the batch, so the output of one code depends on the others; "
            "use module.eval() and track_running_stats=True"
        )
    return [normalisation(mean, variance, weight, bias, eps=eps, shape=given.shape)]


def normalisation(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float, shape: Shape
) -> Scale:
    """weight * (x - mean) / sqrt(variance + eps) + bias, channel by channel (the first axis of ``shape``)."""
    mean, variance = float64(mean, "running_mean"), float64(variance, "running_var")
    if (variance < 0).any():
        raise ModelError(f"running_var has negative entries, the smallest is {variance.min():g}")
    if not shape or len(mean) != shape[0]:
        raise ModelError(f"normalises {len(mean)} channels but is given an input of shape {shape}")
    factor = torch.rsqrt(variance + eps)
    if weight is not None:
        factor = factor * float64(weight, "weight")
    shift = -mean * factor
    if bias is not None:
        shift = shift + float64(bias, "bias")
    per_channel = (-1, *[1] * (len(shape) - 1))
    return Scale(factor.reshape(per_channel), shift.reshape(per_channel))


# --- arithmetic -------------------------------------------------------------------------------------------------------


def _add(given: _Arguments, x: Any, other: Any, *, alpha: float = 1) -> list[Part]:
    """x + alpha * other, one of them constant."""
    if isinstance(x, Flow):
        return given.scale(1.0, alpha * other)
    return given.scale(alpha, x)


def _sub(given: _Arguments, x: Any, other: Any, alpha: float = 1) -> list[Part]:
    """x - alpha * other, one of them constant."""
    return _add(given, x, other, alpha=-alpha)


def _rsub(given: _Arguments, x: Any, other: Any, alpha: float = 1) -> list[Part]:
    """other - alpha * x, one of them constant."""
    return _add(given, other, x, alpha=-alpha)


def _mul(given: _Arguments, x: Any, other: Any) -> list[Part]:
    return given.scale(other if isinstance(x, Flow) else x)


def _div(given: _Arguments, x: Any, other: Any, *, rounding_mode: str | None = None) -> list[Part]:
    if not isinstance(x, Flow) or rounding_mode:
        raise UnsupportedModelError("divides by the data or rounds, which is not affine")
    return given.scale(1 / float64(other, "a divisor"))


def _copy(given: _Arguments, _: Any, x: Any, *__: Any) -> list[Part]:
    """A copy into a tensor of the same shape."""
    return [Reshape(given.shape)]


# --- activations ------------------------------------------------------------------------------------------------------


def _plain(name: str) -> Callable[..., list[Part]]:
    """An activation without parameters."""
    return lambda given, x: [Activation(name)]


def _elu(given: _Arguments, x: Flow, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> list[Part]:
    if (alpha, scale, input_scale) == (1, 1, 1):
        return [Activation("elu")]
    if input_scale == 1 and math.isclose(alpha, SELU_ALPHA) and math.isclose(scale, SELU_SCALE):
        return [Activation("selu")]
    raise UnsupportedModelError(f"is an ELU with alpha={alpha:g}, which has a kink at 0; only alpha=1 is supported")


def _softplus(given: _Arguments, x: Flow, beta: float = 1.0, threshold: float = 20.0) -> list[Part]:
    """log(1 + exp(beta x)) / beta; PyTorch has x where beta x is above the threshold, which is off by exp(-20)."""
    if threshold < 20:
        raise UnsupportedModelError(f"is a softplus that jumps at its threshold={threshold}; at least 20 is supported")
    return [Activation("softplus", steepness=beta)]


def _clamp(given: _Arguments, x: Flow, low: Any = None, high: Any = None) -> list[Part]:
    """Outputs cut off below, above or on both sides: affine maps around a ReLU, hardtanh or hardsigmoid."""
    ends = [None if end is None else float64(end, "a limit") for end in (low, high)]
    if any(end is not None and end.numel() > 1 for end in ends):
        raise UnsupportedModelError("cuts outputs off at limits of their own; only one for all is supported")
    low, high = (None if end is None or end.isinf().all() else float(end.reshape(())) for end in ends)
    if low is None and high is None:
        return []
    if high is None or low is None:
        end, sign = (low, 1.0) if high is None else (high, -1.0)  # low + relu(x - low), high - relu(high - x)
        if end == 0 and sign > 0:
            return [Activation("relu")]
        return [*given.scale(sign, -sign * end), Activation("relu"), *given.scale(sign, end)]
    if not low < high:
        raise UnsupportedModelError(f"cuts outputs off at {low} and {high}, which leaves one value or none")
    if low == -high:
        return [Activation("hardtanh", steepness=1 / high)]
    # low + r min(max(v / 6 r + 1/2, 0), 1), where r = high - low
    after = given.scale(1.0, low) if low else []
    return [
        *given.scale(6.0, -6 * low - 3 * (high - low)),
        Activation("hardsigmoid", steepness=1 / (high - low)),
        *after,
    ]


def _sloped(given: _Arguments, x: Any, slope: Any) -> list[Part]:
    """max(x, 0) + slope min(x, 0), with a number or a tensor that broadcasts."""
    if not isinstance(slope, Tensor):
        return [Activation.of_slope(slope)]
    return [Activation.of_slope(given.constant(slope).numpy())]


def _gated(given: _Arguments, x: Flow, parts: Sequence[Part]) -> list[Part]:
    return list(parts)


_ARITHMETIC = {"add", "sub", "rsub", "mul", "div"}
_PARTS: dict[str, Callable[..., list[Part]]] = {
    "linear": _linear_layer,
    "mm": _product,
    "bmm": _product,
    "addmm": _product_with_bias,
    "baddbmm": _product_with_bias,
    "convolution": _convolution,
    "_convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": lambda given, x, w, b, mean, variance, momentum, eps: _batch_norm(
        given, x, w, b, mean, variance, eps=eps
    ),
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "mul": _mul,
    "div": _div,
    "neg": lambda given, x: given.scale(-1.0),
    "copy": _copy,
    **{
        name: _plain(name)
        for name in ("relu", "sigmoid", "tanh", "exp", "silu", "mish", "hardsigmoid", "hardswish", "sin")
    },
    "gelu": lambda given, x, approximate="none": [Activation("gelu" if approximate == "none" else "gelu_tanh")],
    "elu": _elu,
    "celu": lambda given, x, alpha=1.0: [Activation("elu", steepness=1 / alpha)],
    "softplus": _softplus,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda given, x, high: _clamp(given, x, None, high),
    "hardtanh": lambda given, x, low=-1.0, high=1.0: _clamp(given, x, low, high),
    "leaky_relu": lambda given, x, slope=0.01: _sloped(given, x, slope),
    "_prelu_kernel": _sloped,
    "gated": _gated,
}
