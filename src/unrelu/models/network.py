"""A generator as a chain of layers, each an affine map followed by an activation: G(z) = phi_d(... phi_1(z))."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from unrelu.display.text_tables import text_table
from unrelu.errors import ModelError
from unrelu.models.activations import Activation
from unrelu.models.affine import Affine, Dense, Reshape, Step
from unrelu.models.affine_head import HeadedChain
from unrelu.models.generator import Generator, by, evaluation_lines, read_only, to_numpy
from unrelu.models.rounding_error import Rounding
from unrelu.parameters.latent_bounds import Bounds
from unrelu.runtime.array_types import Array, Flags, Shape
from unrelu.runtime.host import computing
from unrelu.runtime.streams import stream
from unrelu.runtime.words import count

# The table of a printed network: its columns, the columns that hold text, and the most layers that are shown.
_HEADINGS = ("layer", "kind", "shape", "activation", "parameters", "expansion")
_TEXT = ("kind", "shape", "activation")
_SHOWN = 40

# Several threads are faster than one from this many entries of a dense matrix, or this many outputs of any layer.
_LARGE_MATRIX = 4_000_000
_LARGE_OUTPUT = 2**16
# Compiled descents accept chains whose matrices have at most this many entries in total.
LARGEST_COMPILED = 2**19
# The computation of activation sizes may cost at most this many multiplications.
_DRAWING = 2**31


@dataclass(frozen=True, eq=False, repr=False)
class Layer:
    """A layer x = phi(A h + b): one affine map and one activation.

    Attributes:
        affine: the map, from ``in_shape`` to ``out_shape``.
        activation: phi.

    Source: equation (3) of the paper.
    """

    affine: Affine
    activation: Activation

    @property
    def in_shape(self) -> Shape:
        """Shape of h."""
        return self.affine.in_shape

    @property
    def out_shape(self) -> Shape:
        """Shape of x."""
        return self.affine.out_shape

    @property
    def n_in(self) -> int:
        """Number of entries of h."""
        return self.affine.n_in

    @property
    def n_out(self) -> int:
        """Number of entries of x."""
        return self.affine.n_out

    @property
    def expansion(self) -> float:
        """n_out / n_in; the paper's Assumption 1 requires at least 2.1."""
        return self.n_out / self.n_in

    def matrix(self) -> Array | sparse.csr_array:
        """Return A as (n_out, n_in), dense or SciPy sparse. It is computed at the first call and cached."""
        return self._matrix

    def bias(self) -> Array:
        """Return b as (n_out,)."""
        return self._bias

    @cached_property
    @computing()
    def _matrix(self) -> Array | sparse.csr_array:
        matrix = self.affine.matrix()
        return read_only(matrix) if isinstance(matrix, np.ndarray) else matrix

    @cached_property
    @computing()
    def _bias(self) -> Array:
        return read_only(self.affine.bias())

    def value(self, h: Array) -> Array:
        """Compute phi(A h + b) in NumPy with :meth:`matrix`, for h of shape (n_in,) or (B, n_in)."""
        return self.activation.value(np.asarray((self.matrix() @ h.T).T) + self.bias())

    @property
    def kind(self) -> str:
        """The names of the steps of the affine map."""
        return " + ".join(step.kind for step in self.affine.steps) or "Identity"

    @property
    def parameters(self) -> int:
        """The number of parameters: entries of weights and biases."""
        return sum(tensor.numel() for step in self.affine.steps for tensor in step.tensors().values())

    def __repr__(self) -> str:
        return f"{self.kind} {by(self.in_shape)} -> {by(self.out_shape)}, {self.activation}"


@dataclass(frozen=True, eq=False, repr=False)
class Network(Generator):
    """A generator G: R^k -> R^n of d layers.

    Args:
        layers: the layers, from the latent code to the output.
        latent_shape: shape of one latent code.
        dtype, device: precision and device of the evaluation; float64 on the CPU unless :meth:`to` was called.
        rounding, domain: see :class:`~unrelu.Generator`.

    Raises:
        ModelError: there is no layer, or a layer does not fit the output of the one before it.

    Source: equation (3) of the paper.

    >>> import unrelu
    >>> print(unrelu.from_arrays([[[2.0], [-1.0], [1.0]]]))
    Network 1 -> 3, 3 parameters
      layer  kind   shape   activation  parameters  expansion
          1  Dense  1 -> 3  relu                 3          3
    """

    layers: tuple[Layer, ...]
    latent_shape: Shape
    dtype: torch.dtype = torch.float64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rounding: Rounding | None = field(default=None, kw_only=True)
    domain: Bounds | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ModelError("a network needs at least one layer")
        widths = [math.prod(self.latent_shape), *(layer.n_out for layer in self.layers)]
        for i, layer in enumerate(self.layers):
            if layer.n_in != widths[i]:
                raise ModelError(f"layer {i + 1} takes {layer.n_in} inputs but is given {widths[i]}")

    @property
    def output_shape(self) -> Shape:  # type: ignore[override] # read-only, as the fields of a frozen dataclass are
        """Shape of one output."""
        return self.layers[-1].out_shape

    @property
    def width(self) -> int:  # type: ignore[override]
        """The number of outputs of the widest layer."""
        return max(layer.n_out for layer in self.layers)

    @cached_property
    def work(self) -> int:
        """The number of multiplications of one forward pass, computed from layer sizes.

        To count operations instead, PyTorch would import modules for a second.
        """
        return sum(step.work(layer.n_in, layer.n_out) for layer in self.layers for step in layer.affine.steps)

    @property
    def cost(self) -> int:
        """The same as :attr:`work`: activations cost little compared with the matrix products of a layer."""
        return self.work

    @computing()
    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Network:
        dtype, device = self._place(dtype, device)
        layers = tuple(replace(layer, affine=layer.affine.to(dtype, device)) for layer in self.layers)
        return replace(self, layers=layers, dtype=dtype, device=device)

    # --- NumPy in, NumPy out -----------------------------------------------------------------------------------

    @computing()
    def trace(self, z: npt.ArrayLike) -> list[Array]:
        """Compute the output of every layer, first to last, each ``out_shape`` or ``(B, *out_shape)``."""
        return [to_numpy(x) for _, x in self._shaped_layers(z)]

    @computing()
    def pattern(self, z: npt.ArrayLike) -> list[Flags]:
        """Compute the ReLU configuration: where each layer's pre-activation is positive, shaped as in :meth:`trace`."""
        return [(u > 0).cpu().numpy() for u, _ in self._shaped_layers(z)]

    def _shaped_layers(self, z: npt.ArrayLike) -> Iterator[tuple[Tensor, Tensor]]:
        codes = self.as_codes(z)
        for layer, pair in zip(self.layers, self._layers(codes.reshape(-1, self.latent_dim)), strict=True):
            u, x = (t.reshape(*codes.shape[:-1], *layer.out_shape) for t in pair)
            yield u, x

    @cached_property
    def activation_sizes(self) -> tuple[float, ...]:
        """The root mean square of max(u, 0) for each layer, at up to 256 fixed codes.

        Only outputs with a kink count; in a layer without kinks, all outputs do.
        """
        draws = max(16, min(256, _DRAWING // max(1, self.work)))
        codes = stream("activation sizes").standard_normal((draws, self.latent_dim))
        return self._sizes_at(torch.tensor(codes, dtype=self.dtype, device=self.device))

    def _sizes_at(self, z: Tensor) -> tuple[float, ...]:
        bent = [layer.activation.kinks(layer.n_out) for layer in self.layers]
        kinks = [torch.from_numpy(each if each.any() else ~each).to(z.device) for each in bent]
        pairs = zip(self._layers(z), kinks, strict=True)
        return tuple(
            float(torch.relu(u if each.all() else u[:, each]).square().mean().sqrt()) for (u, _), each in pairs
        )

    def smoothed(self, share: float, codes: Tensor | None = None) -> Network:
        """Smooth every kink with a width of ``share`` times the layer's size, see :attr:`activation_sizes`."""
        sizes = self.activation_sizes if codes is None else self._sizes_at(codes)
        layers = tuple(
            replace(layer, activation=layer.activation.smoothed(share * size))
            for layer, size in zip(self.layers, sizes, strict=True)
        )
        return replace(self, layers=layers)

    @property
    def headed(self) -> HeadedChain:
        return HeadedChain(self)

    # --- PyTorch, flat, batched --------------------------------------------------------------------------------

    def forward(self, z: Tensor) -> Tensor:
        *_, (_, x) = self._layers(z)
        return x

    def linearize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Compute G(z) as (B, n) and its transposed Jacobian as (B, k, n), by forward-mode differentiation.

        Each layer maps the k tangents T to phi'(u) * (A T).
        """
        self.check_size()
        batch, k = z.shape
        tangents = self._first_tangents.expand(batch, -1, -1)
        x = z
        for i, (layer, (u, x)) in enumerate(zip(self.layers, self._layers(z), strict=True)):
            if i:
                flat = layer.affine.apply(tangents.flatten(0, 1), constant=False)
                tangents = torch.unflatten(flat, 0, (batch, k))
            tangents = tangents * layer.activation.derivative(u, x)[:, None, :]
        return x, tangents

    @cached_property
    def _first_tangents(self) -> Tensor:
        """A_1^T, (k, n_1): the tangents after the first affine map, which are the same for every code."""
        unit = torch.eye(self.latent_dim, dtype=self.dtype, device=self.device)
        return self.layers[0].affine.apply(unit, constant=False)

    def _layers(self, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the pre-activation and the output of each layer in turn, both (B, n_i)."""
        x = z
        for layer in self.layers:
            u = layer.affine.apply(x)
            x = layer.activation.forward(u)
            yield u, x

    @property
    def parameters(self) -> int:
        """The number of parameters of all layers: entries of weights and biases."""
        return sum(layer.parameters for layer in self.layers)

    def __str__(self) -> str:
        """Format a table of the layers. If there are more than 40, only the first and the last ones are shown."""
        title = f"Network {by(self.latent_shape)} -> {by(self.output_shape)}, {count(self.parameters, 'parameter')}"
        rows = [
            [str(i), layer.kind, f"{by(layer.in_shape)} -> {by(layer.out_shape)}", str(layer.activation),
             count(layer.parameters), f"{layer.expansion:.3g}"]
            for i, layer in enumerate(self.layers, 1)
        ]  # fmt: skip
        half = _SHOWN // 2
        rows = rows if len(rows) <= _SHOWN else [*rows[:half], ["...", *[""] * 5], *rows[-half:]]
        return "\n".join([title, *text_table(_HEADINGS, rows, _TEXT)]) + evaluation_lines(self)

    @classmethod
    @computing()
    def chain(cls, parts: Sequence[Step | Activation], latent_shape: Shape) -> Network:
        """Build a network from affine steps and activations in order.

        An activation and the affine steps before it form one layer. Steps after the last activation form a layer with
        the identity. If they only reshape the output, they join the last layer instead, as activations work entry by
        entry. The slopes of a PReLU may broadcast to the shape of one output, e.g. (C, 1, 1).

        Raises:
            ModelError: shapes do not fit, weights are not finite, or there are no parts.
        """
        layers: list[Layer] = []
        steps: list[Step] = []
        shape = latent_shape
        for part in [*parts, None]:
            if isinstance(part, Step):
                steps.append(part)
                continue
            if part is None and not steps:
                break
            if part is None and layers and all(isinstance(step, Reshape) for step in steps):
                last = layers.pop()
                affine = Affine.compose([*last.affine.steps, *steps], last.in_shape)
                layers.append(Layer(affine, last.activation))
                break
            affine = Affine.compose(steps, shape)
            layers.append(Layer(affine, (part or Activation("identity")).on(affine.out_shape)))
            steps, shape = [], affine.out_shape
        return cls(tuple(layers), latent_shape)


def small(network: object) -> bool:
    """Check whether one thread is enough for every layer, or for every tensor if the layers are not known."""
    network = network.plain if isinstance(network, Generator) else network
    if not isinstance(network, Network):
        return not isinstance(network, Generator) or network.width < _LARGE_OUTPUT
    return all(
        layer.n_out < _LARGE_OUTPUT
        and (layer.n_in * layer.n_out < _LARGE_MATRIX or not any(isinstance(s, Dense) for s in layer.affine.steps))
        for layer in network.layers
    )
