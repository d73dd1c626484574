"""A chain of layers under construction, and the shapes and constants in it: what all loaders share."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from unrelu.errors import InputError, ModelError, UnsupportedModelError
from unrelu.models.activations import Activation
from unrelu.models.affine import Affine, Reshape, Scale, Shape, Step
from unrelu.models.generator import numbers

Part = Step | Activation

# Batch sizes that stand for the unknown one. A reshape that mixes the batch axis with another is seen from its result,
# and whatever is computed from the batch size, or happens to equal it, is seen from a difference between the two.
BATCHES = (7919, 7927)

# What PyTorch and NumPy raise where shapes and arguments do not fit.
_COMPLAINTS = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, eq=False)
class Flow:
    """The tensor that runs along the chain, by shape only.

    Attributes:
        shape: of one element, without the batch axis.
        batch: size of the batch axis.
        origin: the node that made it, for messages.
    """

    shape: Shape
    batch: int
    origin: str

    def meta(self) -> Tensor:
        """A tensor of the full shape that holds no numbers."""
        return torch.empty(self.batch, *self.shape, dtype=torch.float64, device="meta")


class ChainBuilder:
    """The parts so far, and the :class:`Flow` that leaves them (``head``)."""

    def __init__(self, latent_shape: Shape, batch: int, origin: str) -> None:
        self.head = Flow(latent_shape, batch, origin)
        self.parts: list[Part] = []
        self.places: list[str] = []
        self._takers: dict[Flow, str] = {}

    @contextmanager
    def at_node(self, place: str, flows: Sequence[Flow]) -> Iterator[None]:
        """What goes wrong at the node ``place``, which takes ``flows``, told with its name.

        Raises:
            UnsupportedModelError, ModelError: raised within, or in place of the complaints of PyTorch and NumPy.
        """
        with told(place, [flow.shape for flow in flows]):
            if len(flows) > 1:
                raise UnsupportedModelError("joins two branches; only chains of layers can be inverted")
            yield

    def advance(self, flow: Flow, parts: Sequence[Part], place: str) -> Flow:
        """Append the parts that the node ``place`` makes of ``flow``; returns what leaves it.

        Raises:
            UnsupportedModelError: another node took ``flow`` already, so the model branches.
            ModelError: a part does not fit the shape that reaches it, or its weights are not finite.
        """
        if flow is not self.head:
            raise UnsupportedModelError(
                f"{place} and {self._takers[flow]} both take the output of {flow.origin}, where the model branches; "
                "only chains of layers can be inverted"
            )
        shape = flow.shape
        for part in parts:
            try:
                shape = Affine.compose([part], shape).out_shape if isinstance(part, Step) else shape
            except ModelError as error:
                raise type(error)(f"{place}: {error}") from error
        self.parts.extend(parts)
        self.places.extend([place] * len(parts))
        self._takers[flow] = place
        self.head = Flow(shape, flow.batch, place)
        return self.head

    def finish(self, flow: Flow) -> None:
        """Check that ``flow``, the output of the model, is what leaves the last part."""
        if flow is not self.head:
            raise UnsupportedModelError(
                f"{self._takers[flow]} takes the output of {flow.origin}, which is also the output of the model; "
                "only chains of layers can be inverted"
            )

    def check_same(self, other: ChainBuilder) -> None:
        """Compare with a second walk along the same model, for another batch size."""
        pairs = zip(self.parts, other.parts, self.places, strict=False)
        place = next((place for a, b, place in pairs if not _same(a, b)), None)
        if place is not None or len(self.parts) != len(other.parts):
            raise UnsupportedModelError(
                f"{place or 'the model'} depends on the batch size or on random numbers; it must not"
            )


@contextmanager
def told(place: str, shapes: Sequence[Shape]) -> Iterator[None]:
    """What goes wrong at the node ``place``, which takes data of these shapes, told with its name.

    Raises:
        UnsupportedModelError, ModelError: raised within, or in place of the complaints of PyTorch and NumPy.
    """
    try:
        yield
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{place} {error}") from error
    except ModelError as error:
        raise ModelError(f"{place}: {error}") from error
    except _COMPLAINTS as error:
        what = f"does not fit an input of shape {shapes[0]}" if shapes else "cannot be computed"
        raise ModelError(f"{place} {what}: {error}") from error


def code_shape(latent_shape: object) -> Shape:
    """The shape of one latent code as a tuple; an integer k means (k,)."""
    entries = tuple(latent_shape) if isinstance(latent_shape, Iterable) else (latent_shape,)
    try:
        shape = tuple(operator.index(n) for n in entries)
    except TypeError:
        shape = ()
    if not shape or min(shape) < 1 or any(isinstance(n, bool) for n in entries):
        raise ModelError(f"latent_shape must be a positive integer or a tuple of them, got {latent_shape!r}")
    return shape


def float64(value: object, what: str) -> Tensor:
    """A float64 copy on the CPU of a tensor, an array or nested lists of real numbers."""
    try:
        dense = value.to_dense() if isinstance(value, Tensor) else value
        return torch.from_numpy(numbers(dense, what)).contiguous()  # type: ignore[arg-type] # checked there
    except (InputError, NotImplementedError) as error:  # the last of tensors without data
        raise ModelError(str(error)) from None


def reshaped(flow: Flow, full: Sequence[int]) -> Reshape:
    """The step from ``flow`` to the shape ``full``, whose first entry must be the untouched batch axis."""
    shape = tuple(int(n) for n in full)
    if not shape or shape[0] != flow.batch:
        before, after = shown((flow.batch, *flow.shape)), shown(shape)
        raise UnsupportedModelError(f"reshapes {before} to {after}, which mixes the batch axis with the others")
    return Reshape(shape[1:])


def shown(shape: Iterable[int]) -> str:
    """The shape as text, with B where it holds a stand-in for the batch size."""

    def entry(n: int) -> str:
        times = next((n // batch for batch in BATCHES if n and n % batch == 0), None)
        return str(n) if times is None else "B" if times == 1 else f"{times}*B"

    return str(tuple(map(entry, shape))).replace("'", "")


def _same(one: Part, two: Part) -> bool:
    """Whether two parts are the same, tensor by tensor."""
    if type(one) is not type(two):
        return False
    pairs = [(getattr(one, f.name), getattr(two, f.name)) for f in fields(one)]
    arrays = Tensor | np.ndarray
    # Smooth activations carry NaN as their slope.
    return all(np.array_equal(a, b, equal_nan=True) if isinstance(a, arrays) else a == b for a, b in pairs)


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


def constant(value: object, shape: Shape) -> Tensor:
    """A number, array or tensor as float64 that broadcasts to one element of the batch, of shape ``shape``."""
    tensor = float64(value, "a constant")
    if tensor.dim() == len(shape) + 1 and tensor.shape[0] == 1:
        tensor = tensor[0]
    try:
        fits = np.broadcast_shapes(tuple(tensor.shape), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise UnsupportedModelError(
            f"combines a constant of shape {shown(tensor.shape)} with elements of shape {shape}; "
            "a constant must broadcast to one element"
        )
    return tensor
