r"""The triangle relaxation of a chain at a level as a linear program, and the multipliers of its solution.

Every neuron is active (h = u), inactive (h = c u) or undecided. Decided neurons are substituted. The unknowns are the
code in the frame of its bounds, the h of undecided neurons and, for the largest error, delta. An undecided neuron
satisfies h >= c u and h >= u. If u lies in [L, U], h is also below the chord between the ends. A later decision turns
one of the first two rows into an equation.

An output error err(v) is replaced by its convex envelope on the interval in which err <= level. The program contains no
arbitrary constants.

Source: the three rows are the triangle relaxation of a ReLU, R. Ehlers, "Formal verification of piece-wise linear
feed-forward neural networks", ATVA 2017; it is also the "outer adversarial polytope" of Wong and Kolter, ICML 2018,
section 3.1. A ReLU has c = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt

from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.safe_bounds import Multipliers, Region
from unrelu.runtime.array_types import Array, Flags, Integers

Signs = npt.NDArray[np.int8]

# Kinds of rows. INACTIVE: h >= c u; ACTIVE: h >= u; CHORD: h <= chord; SIGN: u in an interval; ERROR: v with delta or
# with a cost; FLOOR: a lower bound on delta; LATENT_BOUND: a latent coordinate within its bounds.
INACTIVE, ACTIVE, CHORD, SIGN, ERROR, FLOOR, LATENT_BOUND = range(7)

# A coordinate this near to a bound, relative to the distance of the bounds, is at the bound.
_AT = 1e-12
# A violation below this share of the largest unknown is a rounding error.
_AGREES = 1e-9


@dataclass(frozen=True, eq=False)
class RelaxationRows:
    """Rows lo <= a x <= hi with costs p below and q above for each unit of violation.

    Attributes:
        matrix: (M, N).
        lo, hi, p, q: (M,).
        scale: the change of the slope s of the row's neuron for each unit of the row's multiplier, (M,).
        kind, neuron: kind and neuron of each row, (M,).
    """

    matrix: Array
    lo: Array
    hi: Array
    p: Array
    q: Array
    scale: Array
    kind: Integers
    neuron: Integers

    @classmethod
    def of(
        cls,
        kind: int,
        neuron: Integers,
        scale: Array | float,
        matrix: Array,
        lo: Array | float,
        hi: Array | float,
        p: Array | float = np.inf,
        q: Array | float = np.inf,
    ) -> RelaxationRows:
        """Rows of one kind; a single number applies to all rows."""
        m = len(neuron)
        lo, hi, p, q, scale = (np.broadcast_to(np.asarray(a, dtype=np.float64), (m,)) for a in (lo, hi, p, q, scale))
        return cls(matrix, lo, hi, p, q, scale, np.full(m, kind), neuron)

    @classmethod
    def joined(cls, parts: list[RelaxationRows]) -> RelaxationRows:
        """Concatenate rows."""
        columns = (np.concatenate([getattr(part, entry.name) for part in parts]) for entry in fields(cls))
        return cls(*map(np.ascontiguousarray, columns))


class Relaxation:
    """The program of a chain: min F over the codes with F < level.

    Args:
        chain: the chain to relax.
        region: intervals of pre-activations; those of the outputs are the level set.
        signs: permanent decisions, one for each neuron.
    """

    def __init__(self, chain: CertifiedChain, region: Region, signs: Signs) -> None:
        self.chain, self.region, self.signs = chain, region, signs
        undecided = chain.bent & (signs == 0)
        self.undecided: Integers = np.flatnonzero(undecided[: chain.ends[-2]])
        self.delta = chain.norm == "linf"
        self.size = chain.latent_dim + len(self.undecided) + self.delta
        self.column = np.full(int(chain.ends[-1]), -1)
        self.column[self.undecided] = chain.latent_dim + np.arange(len(self.undecided))
        constant, unit = chain.frame
        coordinates, parts = np.eye(chain.latent_dim, self.size), []
        if chain.bounds is not None:
            low, high = (chain.bounds.lower - constant) / unit, (chain.bounds.upper - constant) / unit
            none = np.zeros(len(unit), dtype=np.int64)
            parts.append(RelaxationRows.of(LATENT_BOUND, none, 0.0, coordinates, low, high))
        affine = coordinates * unit[:, None]
        self.pre: list[tuple[Array, Array]] = []
        for layer, (weight, bias) in enumerate(zip(chain.weights, chain.biases, strict=True)):
            u, shift = weight @ affine, weight @ constant + bias
            self.pre.append((u, shift))
            if layer < chain.depth - 1:
                affine, constant, rows = self._hidden(layer, u, shift)
                parts += rows
        parts += self._errors(*self.pre[-1]) if self.delta else self._costs(*self.pre[-1])
        self.rows = RelaxationRows.joined(parts)

    def _hidden(self, layer: int, u: Array, shift: Array) -> tuple[Array, Array, list[RelaxationRows]]:
        """The outputs h of a hidden layer as an affine function of the unknowns, and its rows."""
        chain, number = self.chain, np.arange(self.chain.ends[layer], self.chain.ends[layer + 1])
        low, high, c = self.region.low[number], self.region.high[number], chain.slopes[layer]
        sign, column = self.signs[number], self.column[number]
        factor = np.where((sign < 0) & (c < 1), c, 1.0)
        h, constant = factor[:, None] * u, factor * shift
        open_ = np.flatnonzero(column >= 0)
        h[open_], constant[open_] = 0.0, 0.0
        h[open_, column[open_]] = 1.0
        chord = open_[np.isfinite(low[open_]) & np.isfinite(high[open_]) & (low[open_] < 0) & (high[open_] > 0)]
        rise = (high[chord] - c[chord] * low[chord]) / (high[chord] - low[chord])
        end = c[chord] * low[chord] + rise * (shift[chord] - low[chord])
        fixed = np.flatnonzero((column < 0) & (c < 1) & (sign != 0))
        least = np.where(sign > 0, np.maximum(low, 0.0), low)[fixed]
        most = np.where(sign < 0, np.minimum(high, 0.0), high)[fixed]
        below, above = h[open_] - c[open_, None] * u[open_], h[open_] - u[open_]
        rows = [
            RelaxationRows.of(INACTIVE, number[open_], c[open_], below, c[open_] * shift[open_], np.inf),
            RelaxationRows.of(ACTIVE, number[open_], 1.0, above, shift[open_], np.inf),
            RelaxationRows.of(CHORD, number[chord], rise, h[chord] - rise[:, None] * u[chord], -np.inf, end),
            RelaxationRows.of(SIGN, number[fixed], -1.0, u[fixed], least - shift[fixed], most - shift[fixed]),
        ]
        return h, constant, rows

    def _targets(self) -> tuple[Integers, Array]:
        """The numbers of the outputs among all neurons, and the v at which the error of each is smallest."""
        chain, y, c = self.chain, self.chain.y, self.chain.slopes[-1]
        least = np.where(y > 0, y, np.divide(y, c, out=np.zeros_like(y), where=c > 0))
        return np.arange(chain.ends[-2], chain.ends[-1]), least

    def _errors(self, u: Array, shift: Array) -> list[RelaxationRows]:
        """The rows of the largest error: delta at its floor, and sigma v + delta >= b."""
        y, c, (number, least) = self.chain.y, self.chain.slopes[-1], self._targets()
        positive, sloped, low = y > 0, c > 0, self.region.low[number]
        # The slope of the envelope to the left: where err is concave, that of the line from the end of the interval.
        finite = np.where(np.isfinite(low), low, 0.0)
        line = np.divide(y - self.chain.outputs(-1, finite), y - finite, out=np.ones_like(y), where=y > finite)
        left = np.where(positive & np.isfinite(low), line, c)
        floor = np.where(~positive & ~sloped, -y, 0.0)
        worst, delta = [int(np.argmax(floor))], np.eye(1, self.size, self.size - 1)
        rows = [RelaxationRows.of(FLOOR, number[worst], 0.0, delta, floor[worst], np.inf)]
        # If the slope on the left is 0, the row has no side, as a smaller level may give it one.
        for chosen, sigma, side in (
            (np.arange(len(y)), np.full(len(y), -1.0), -y),
            (np.flatnonzero(~positive & sloped), -c, -c * least),
            (
                np.flatnonzero(positive | sloped),
                np.where(left > 0, left, 1.0),
                np.where(left > 0, left * least, -np.inf),
            ),
        ):
            slope = sigma[chosen]
            matrix, lo = slope[:, None] * u[chosen] + delta, side[chosen] - slope * shift[chosen]
            rows.append(RelaxationRows.of(ERROR, number[chosen], -slope, matrix, lo, np.inf))
        return rows

    def _costs(self, u: Array, shift: Array) -> list[RelaxationRows]:
        """The rows of a sum of errors: costs on both sides of the smallest error, and rows for decisions of outputs."""
        y, c, (number, least) = self.chain.y, self.chain.slopes[-1], self._targets()
        left = np.where(self.region.low[number] >= 0, 1.0, c)
        side, right = least - shift, np.where(y > 0, 1.0, c)
        negative = np.flatnonzero((y <= 0) & (c < 1))
        open_ = np.flatnonzero(self.chain.bent[number] & (left < 1))
        # Deciding such an output to be active adds the cost 1 - c below y. Either decision is a constraint on v at 0.
        return [
            RelaxationRows.of(ERROR, number, -1.0, u, side, side, left, right),
            RelaxationRows.of(ERROR, number[negative], -1.0, u[negative], -np.inf, -shift[negative], q=1 - c[negative]),
            RelaxationRows.of(ERROR, number[open_], -1.0, u[open_], -np.inf, np.inf, p=0.0),
            RelaxationRows.of(SIGN, number[open_], -1.0, u[open_], -np.inf, np.inf),
        ]

    def code(self, x: Array) -> Array:
        """The code z of a point, inside the bounds; exactly at a bound if it is there up to rounding."""
        t = x[: self.chain.latent_dim]
        if self.chain.bounds is None:
            return t
        center, unit = self.chain.frame
        lower, upper = self.chain.bounds.lower, self.chain.bounds.upper
        z = np.where(unit * t <= lower - center + _AT * unit, lower, center + unit * t)
        return self.chain.bounds.clip(np.where(unit * t >= upper - center - _AT * unit, upper, z))

    @cached_property
    def norms(self) -> Array:
        """The norms of the rows."""
        return np.asarray(np.linalg.norm(self.rows.matrix, axis=1))

    @cached_property
    def cost(self) -> Array:
        """The objective for minimising F, (N,)."""
        return np.asarray(np.eye(1, self.size, self.size - 1)[0] * self.delta)

    def violations(self, x: Array, signs: Signs) -> tuple[Array, Array]:
        """h - u and h - c u at a point, (N,) each; 0 if a neuron is decided or agrees with its activation.

        For outputs whose error is not convex (sums of errors only), both are the error minus its envelope.
        """
        chain = self.chain
        u = np.concatenate([part @ x + shift for part, shift in self.pre[: -1 if self.delta else None]] or [x[:0]])
        above, below, open_ = np.zeros(len(signs)), np.zeros(len(signs)), self.undecided
        h = x[self.column[open_]]
        above[open_], below[open_] = h - u[open_], h - np.concatenate(chain.slopes)[open_] * u[open_]
        if not self.delta:
            y, outputs = chain.y, chain.neurons(-1)
            miss = np.where(chain.bent[outputs], (1 - chain.slopes[-1]) * np.minimum(y, y - u[outputs]), 0.0)
            above[outputs] = below[outputs] = miss
        small = _AGREES * (1 + float(np.abs(x).max(initial=0.0)))
        agrees = (signs != 0) | (np.minimum(above, below) <= small)
        return np.where(agrees, 0.0, above), np.where(agrees, 0.0, below)

    def missed(self, x: Array, signs: Signs) -> tuple[Flags, Flags]:
        """Which neurons are not active at a point, and which are not inactive; these sides may be empty."""
        on, off = (violation > 0 for violation in self.violations(x, signs))
        if not self.delta:
            u, shift = self.pre[-1]
            outputs, v = self.chain.neurons(-1), u @ x + shift
            open_ = self.chain.bent[outputs] & (signs[outputs] == 0)
            on[outputs], off[outputs] = open_ & (v < 0), open_ & (v > 0)
        return on, off

    def multipliers(self, index: Integers, y: Array, extra: Array | None = None) -> Multipliers:
        """The multipliers of a bound from those of some rows.

        Args:
            index: numbers of rows; other rows have multiplier 0. Multipliers of the bounds of the code are not needed,
                because the minimum over the bounds in :mod:`~unrelu.certification.safe_bounds` finds the best ones.
            y: their multipliers.
            extra: the objective as coefficients of all pre-activations, if it was not F.
        """
        chain, kind, neuron = self.chain, self.rows.kind[index], self.rows.neuron[index]
        size = int(chain.ends[-1])
        slopes = np.bincount(neuron, self.rows.scale[index] * y, size).astype(np.float64)
        kappa = np.ones(len(chain.y))
        if self.delta:
            paying = np.where((kind == ERROR) | (kind == FLOOR), np.maximum(y, 0.0), 0.0)
            kappa = np.bincount(neuron, paying, size).astype(np.float64)[chain.neurons(-1)]
        for layer in range(chain.depth - 1, 0, -1):
            here, after, slope = chain.neurons(layer - 1), chain.neurons(layer), chain.slopes[layer - 1]
            c = (slopes[after] if extra is None else slopes[after] + extra[after]) @ chain.weights[layer]
            # A decided neuron is substituted: h = u or h = slope u moves the coefficient of h to u.
            inactive = (self.signs[here] < 0) & (slope < 1)
            slopes[here] += np.where(self.column[here] >= 0, 0.0, np.where(inactive, slope * c, c))
        return Multipliers(kappa, slopes)
