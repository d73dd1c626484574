r"""A network around one code as one observation sees it: values, kinks, and the linear regions that meet there.

Let v(z), (p,), be what the errors |y - psi(v)| are functions of: the last pre-activation, where the outputs are seen
one by one through a convex piecewise linear psi; otherwise A G(z), with psi the identity. Each neuron of the other
piecewise linear activations has a kink at u = 0, on whose two sides v is another affine function of z.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.measurements import Operator
from unrelu.measurements.latent_bounds import Bounds
from unrelu.measurements.linear_operators import OutputRows
from unrelu.models.network import Network
from unrelu.models.opaque_network import as_chain
from unrelu.problem import Problem
from unrelu.runtime.streams import stream

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

# Beside the sizes of a layer's values, these are zero.
_ROUNDING = 1e-9


class Trace(NamedTuple):
    """Of codes (b, k): the pre-activations of all neurons with a kink, layer after layer, u (b, N), and v (b, p)."""

    u: Array
    v: Array


@dataclass(frozen=True, eq=False)
class AdjacentRegions:
    r"""The linear regions that meet around a code z_0.

    With e_j = relu(u_j) for some kinks j, and all others staying on their side,

    .. math:: v = v_0 + V (z - z_0) + \Gamma (e - e_0), \qquad u = u_0 + U (z - z_0) + H (e - e_0)

    exactly, up to the curvature of smooth activations. H is strictly triangular: a kink moves the layers above it.

    A bound of a coordinate is a kink of which there is one side: u_j >= 0 is the distance from it.

    Attributes:
        u, v: at the code, (m,) and (p,).
        u_code, v_code: U (m, k) and V (p, k).
        u_kink, v_kink: H (m, m) and Gamma (p, m).
        largest: how large e_j may become, (m,): for a bound, the distance to the other one; infinite for kinks.
        bound: which are bounds, (m,); they are the last ones.
    """

    u: Array
    v: Array
    u_code: Array
    v_code: Array
    u_kink: Array
    v_kink: Array
    largest: Array
    bound: npt.NDArray[np.bool_]

    def within(self, z: Array, bounds: Bounds, coordinates: Index) -> AdjacentRegions:
        """The same, with the bounds of some coordinates of the code z: the lower one where it is finite."""
        n, (m, k) = len(coordinates), self.u_code.shape
        if not n:
            return self
        low, high = bounds.lower[coordinates], bounds.upper[coordinates]
        from_low = np.isfinite(low)
        rows = np.zeros((n, k))
        rows[np.arange(n), coordinates] = np.where(from_low, 1.0, -1.0)
        distance = np.where(from_low, z[coordinates] - low, high - z[coordinates])
        return AdjacentRegions(
            np.concatenate([self.u, distance]), self.v, np.vstack([self.u_code, rows]), self.v_code,
            np.pad(self.u_kink, (0, n)), np.pad(self.v_kink, ((0, 0), (0, n))),
            np.concatenate([self.largest, np.where(from_low, high - low, np.inf)]), np.arange(m + n) >= m,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Observation:
    """One observation of a network, evaluated in double precision.

    Attributes:
        network: G.
        operator: A, None where it only picks entries.
        seen: the entries that it picks.
        y: what was observed, (p,).
        keeps: whether v is the last pre-activation.
        sizes: of u in each layer and of v, for codes z ~ N(0, I), (d + 1,): what rounding errors are relative to.
    """

    network: Network
    operator: Operator | None
    seen: OutputRows
    y: Array
    keeps: bool
    sizes: Array

    @cached_property
    def slopes(self) -> Array:
        """The slope of psi below zero, (p,)."""
        if not self.keeps:
            return np.ones(len(self.y))
        return self.network.layers[-1].activation.slopes(self.network.output_dim)[self.seen]

    @cached_property
    def ends(self) -> Index:
        """Where the kinks of each layer begin and end in u, (d + 1,)."""
        layers = self.network.layers
        counts = [layer.n_out if layer.activation.kinks(layer.n_out).any() else 0 for layer in layers]
        if self.keeps:
            counts[-1] = 0
        return np.concatenate([[0], np.cumsum(counts)])

    def errors(self, v: Array) -> Array:
        """|y - psi(v)|, (..., p)."""
        return np.abs(self.y - np.where(v > 0, v, v * self.slopes))

    def at_kink(self, u: Array, share: float = _ROUNDING) -> npt.NDArray[np.bool_]:
        """Where u (N,) is rounding, or within a fraction of the largest of its layer."""
        return np.asarray(np.abs(u) <= share * np.repeat(self._largest(u), np.diff(self.ends)))

    def at_bend(self, v: Array) -> npt.NDArray[np.bool_]:
        """Where psi bends at v (p,), up to rounding."""
        largest = max(float(np.abs(v).max(initial=0.0)), self.sizes[-1])
        return np.asarray((np.abs(v) <= _ROUNDING * largest) & (self.slopes < 1))

    def _largest(self, u: Array) -> Array:
        parts = np.split(np.abs(u), self.ends[1:-1])
        return np.maximum([float(part.max(initial=0.0)) for part in parts], self.sizes[:-1])

    def trace(self, z: Array) -> Trace:
        """U and v of codes (b, k)."""
        x = torch.as_tensor(z, dtype=torch.float64, device=self.network.device)
        kinks, last = [np.empty((len(z), 0))], len(self.network.layers) - 1
        with torch.no_grad():
            for i, layer in enumerate(self.network.layers):
                x = layer.affine.apply(x)
                if self.ends[i + 1] > self.ends[i]:
                    kinks.append(_numpy(x))
                if i < last or not self.keeps:
                    x = layer.activation.forward(x)
            return Trace(np.hstack(kinks), self._measured(x))

    def regions(self, z: Array, kinks: Index) -> AdjacentRegions:
        """The linear regions around a code (k,) at which the given kinks, ascending numbers, meet."""
        m, k, last = len(kinks), len(z), len(self.network.layers) - 1
        device = self.network.device
        x = torch.as_tensor(z[None, :], dtype=torch.float64, device=device)
        tangents = torch.eye(k + m, k, dtype=torch.float64, device=device)
        rows, values = np.zeros((m, k + m)), np.zeros(m)
        with torch.no_grad():
            for i, layer in enumerate(self.network.layers):
                x, tangents = layer.affine.apply(x), layer.affine.apply(tangents, constant=False)
                if i == last and self.keeps:
                    break
                u, x = x, layer.activation.forward(x)
                slope = layer.activation.derivative(u, x)
                here = np.flatnonzero((self.ends[i] <= kinks) & (kinks < self.ends[i + 1]))
                if not len(here):
                    tangents = tangents * slope
                    continue
                # phi(u) = c u + (1 - c) relu(u): the direct part moves with the code, the rest with e.
                neurons = torch.from_numpy(kinks[here] - self.ends[i])
                rows[here], values[here] = _numpy(tangents[:, neurons]).T, _numpy(u[0, neurons])
                below = layer.activation.derivative(-torch.ones_like(u), x)[0, neurons]
                slope[0, neurons] = below
                tangents = tangents * slope
                tangents[k + torch.from_numpy(here), neurons] += 1 - below
            v, moved = self._measured(x)[0], self._measured(tangents).T
        return AdjacentRegions(
            values, v, rows[:, :k], moved[:, :k], rows[:, k:], moved[:, k:], np.full(m, np.inf), np.zeros(m, dtype=bool)
        )

    def _measured(self, x: Tensor) -> Array:
        return _numpy(x)[:, self.seen] if self.operator is None else _numpy(self.operator.forward(x))


def observations(problem: Problem) -> list[Observation]:
    """Every observation of a problem; they share the network."""
    network = as_chain(problem.network, problem.norm).to(torch.float64)
    operator, y = problem.operator, problem.y
    keeps = network.layers[-1].activation.convex
    shown = operator.observed_rows(y)
    if shown is None:
        through = operator.to(torch.float64, network.device)
        each = [through.take(np.array([i])) if through.count else through for i in range(len(y))]
        sizes = _sizes(Observation(network, each[0], slice(None), y[0], False, np.zeros(0)))
        return [Observation(network, own, slice(None), row, False, sizes) for own, row in zip(each, y, strict=True)]
    sizes = _sizes(Observation(network, None, slice(None), np.zeros(network.output_dim), keeps, np.zeros(0)))
    return [Observation(network, None, seen, row, keeps, sizes) for seen, row in shown]


def _sizes(observation: Observation) -> Array:
    """The largest u of each layer and the largest v of a few codes."""
    trace = observation.trace(stream("typical sizes").standard_normal((4, observation.network.latent_dim)))
    parts = [*np.split(trace.u, observation.ends[1:-1], axis=1), trace.v]
    return np.array([float(np.abs(part).max(initial=0.0)) for part in parts])


def _numpy(x: Tensor) -> Array:
    array: Array = x.cpu().numpy()
    return array
