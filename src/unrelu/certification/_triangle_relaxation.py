r"""The triangle relaxation of a chain at a level as a linear program, and the multipliers of its solution.

The unknowns are the code in the frame of its bounds, the outputs h of all hidden neurons, and the errors: the largest
one, or one for each output. Every neuron is active (h = u), inactive (h = c u) or undecided. An undecided neuron
satisfies h >= c u and h >= u, and a decision turns one of these rows into an equation. If u lies in [L, U], h is also
below the chord between the ends. An output error err(v) is replaced by its convex envelope on the interval in which
err <= level. The program contains no arbitrary constants.

Source: the three rows are the triangle relaxation of a ReLU, R. Ehlers, "Formal verification of piece-wise linear
feed-forward neural networks", ATVA 2017; it is also the "outer adversarial polytope" of Wong and Kolter, ICML 2018,
section 3.1. A ReLU has c = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.safe_bounds import Multipliers, Region
from unrelu.runtime.array_types import Array, Flags, Integers

Signs = npt.NDArray[np.int8]

# Kinds of rows. INACTIVE: h >= c u; ACTIVE: h >= u; CHORD: h <= chord; SIGN: v >= 0 or v <= 0 of an output; ERROR: a
# line below the envelope of an error; IF_ACTIVE and IF_INACTIVE: such lines of outputs that are decided; CODE: of z.
INACTIVE, ACTIVE, CHORD, SIGN, ERROR, IF_ACTIVE, IF_INACTIVE, CODE = range(8)

# A violation below this share of the largest unknown is a rounding error.
_AGREES = 1e-9


@dataclass(frozen=True, eq=False)
class RelaxationRows:
    """Rows lo <= a x <= hi.

    Attributes:
        kind, neuron: kind and neuron of each row, (M,).
        scale: the change of the slope s of the row's neuron for each unit of the row's multiplier, (M,).
        matrix: (M, N).
        lo, hi: (M,).
    """

    kind: Integers
    neuron: Integers
    scale: Array
    matrix: sparse.csr_array
    lo: Array
    hi: Array

    @classmethod
    def of(
        cls, kind: int, neuron: Integers, scale: Array | float, matrix: sparse.csr_array, lo: Array | float,
        hi: Array | float,
    ) -> RelaxationRows:  # fmt: skip
        """Rows of one kind; a single number applies to all rows."""
        scale, lo, hi = (np.broadcast_to(np.asarray(a, dtype=np.float64), neuron.shape) for a in (scale, lo, hi))
        return cls(np.full(len(neuron), kind), neuron, scale, matrix, lo, hi)

    @classmethod
    def joined(cls, parts: list[RelaxationRows]) -> RelaxationRows:
        """Concatenate rows."""
        names = ("kind", "neuron", "scale", "lo", "hi")
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(**columns, matrix=sparse.csr_array(sparse.vstack([part.matrix for part in parts])))


def _placed(matrix: Array, size: int, column: int) -> sparse.csr_array:
    """A matrix in the columns from ``column`` on of one with ``size`` columns."""
    found = sparse.csr_array(matrix)
    return sparse.csr_array((found.data, found.indices + column, found.indptr), shape=(len(matrix), size))


def _times(factor: Array, rows: sparse.csr_array) -> sparse.csr_array:
    """Every row times its own factor."""
    return sparse.csr_array(sparse.diags_array(factor) @ rows)


class Relaxation:
    """The program of a chain: min F over the codes with F < level.

    Args:
        chain: the chain to relax.
        region: intervals of pre-activations; those of the outputs are the level set.
        more: further rows a z >= lo of the code, as a matrix and sides.

    Attributes:
        decided: signs of the neurons that the intervals decide, (N,); 1 for neurons without a kink.
        rows: all rows, of which the ``lazy`` ones are rarely tight: errors above the observation.
        cost, low, high: the objective, and bounds of the unknowns.
    """

    def __init__(self, chain: CertifiedChain, region: Region, more: tuple[Array, Array] | None = None) -> None:
        self.chain, self.region, k, hidden = chain, region, chain.latent_dim, int(chain.ends[-2])
        signs = np.where(region.low >= 0, 1, np.where(region.high <= 0, -1, 0))
        self.decided: Signs = np.where(chain.bent, signs, np.arange(len(signs)) < hidden).astype(np.int8)
        self._sums = len(chain.y) if chain.norm == "l1" else 1
        self.size = k + hidden + self._sums
        center, unit = chain.frame
        self.pre: list[tuple[sparse.csr_array, Array]] = []
        parts, column = [], 0
        for layer, (weight, bias) in enumerate(zip(chain.weights, chain.biases, strict=True)):
            # The inputs of the first layer are the code, in its frame.
            own, shift = (weight, bias) if layer else (weight * unit, weight @ center + bias)
            self.pre.append((_placed(own, self.size, column), shift))
            if layer == chain.depth - 1:
                parts += self._errors(own, column, shift)
                break
            column = k + int(chain.ends[layer])
            parts += self._hidden(layer, _placed(np.eye(len(bias)), self.size, column), *self.pre[-1])
        if more is not None:
            matrix, lo = _placed(more[0] * unit, self.size, 0), more[1] - more[0] @ center
            parts.append(RelaxationRows.of(CODE, np.zeros(len(lo), dtype=np.int64), 0.0, matrix, lo, np.inf))
        self.rows = RelaxationRows.joined(parts)
        self.lazy: Flags = (self.rows.kind == ERROR) & (self.rows.scale > 0)
        self.low, self.high = np.full(self.size, -np.inf), np.full(self.size, np.inf)
        if chain.bounds is not None:
            self.low[:k], self.high[:k] = (chain.bounds.lower - center) / unit, (chain.bounds.upper - center) / unit
        # Outputs of a ReLU have errors of at least -y.
        floor = np.where((chain.y <= 0) & (chain.slopes[-1] == 0), -chain.y, 0.0)
        self.low[k + hidden :] = floor if chain.norm == "l1" else floor.max()
        self._worst = int(np.argmax(floor))
        self.cost = np.repeat([0.0, 1.0], [k + hidden, self._sums])

    def _hidden(self, layer: int, h: sparse.csr_array, u: sparse.csr_array, shift: Array) -> list[RelaxationRows]:
        """The rows of a hidden layer with outputs h and pre-activations u + shift."""
        number, c = np.arange(*self.chain.ends[layer : layer + 2]), self.chain.slopes[layer]
        low, high = self.region.low[number], self.region.high[number]
        chord = np.flatnonzero((c < 1) & np.isfinite(low) & np.isfinite(high) & (low < 0) & (high > 0))
        rise = (high[chord] - c[chord] * low[chord]) / (high[chord] - low[chord])
        end = c[chord] * low[chord] + rise * (shift[chord] - low[chord])
        return [
            RelaxationRows.of(INACTIVE, number, c, h - _times(c, u), c * shift, np.inf),
            RelaxationRows.of(ACTIVE, number, 1.0, h - u, shift, np.inf),
            RelaxationRows.of(CHORD, number[chord], rise, h[chord] - _times(rise, u[chord]), -np.inf, end),
        ]

    def _errors(self, weight: Array, column: int, shift: Array) -> list[RelaxationRows]:
        """The rows error + sigma v >= side of the outputs; v = ``weight`` x + ``shift``, with x from ``column`` on."""
        y, c = self.chain.y, self.chain.slopes[-1]
        number = np.arange(self.chain.ends[-2], self.chain.ends[-1])
        low, positive = self.region.low[number], y > 0
        own = np.eye(len(y)) if self.chain.norm == "l1" else np.ones((len(y), 1))
        error = _placed(own, self.size, self.size - self._sums)
        # The v of the smallest error, and the slope of the envelope to the left of it: where err is concave, that of
        # the line from the end of the interval.
        least = np.where(positive, y, np.divide(y, c, out=np.zeros_like(y), where=c > 0))
        finite = np.where(np.isfinite(low), low, 0.0)
        line = np.divide(y - self.chain.outputs(-1, finite), y - finite, out=np.ones_like(y), where=y > finite)
        left = np.where(positive & np.isfinite(low), line, c)
        open_ = self.chain.bent[number] & (low < 0)

        def lines(kind: int, chosen: Flags, sigma: Array, side: Array) -> RelaxationRows:
            at, slope = np.flatnonzero(chosen), sigma[chosen]
            lo = side[at] - slope * shift[at] if kind == ERROR else -np.inf
            return RelaxationRows.of(
                kind,
                number[at],
                -slope,
                error[at] + _placed(slope[:, None] * weight[at], self.size, column),
                lo,
                np.inf,
            )

        return [
            lines(ERROR, left > 0, left, left * least),
            lines(ERROR, ~positive & (c > 0), -c, -c * least),
            lines(ERROR, np.ones_like(positive), np.full(len(y), -1.0), -y),
            lines(IF_ACTIVE, open_, np.ones(len(y)), y),
            lines(IF_INACTIVE, open_, c, y),
            RelaxationRows.of(SIGN, number[open_], -1.0, _placed(weight[open_], self.size, column), -np.inf, np.inf),
        ]

    def sides(self, signs: Signs) -> tuple[Array, Array]:
        """The sides of all rows with some neurons decided, (M,) each."""
        kind, neuron, scale = self.rows.kind, self.rows.neuron, self.rows.scale
        sign = np.where(signs != 0, signs, self.decided)[neuron]
        lo, hi = self.rows.lo.copy(), self.rows.hi.copy()
        equal = ((kind == ACTIVE) & (sign > 0)) | ((kind == INACTIVE) & (sign < 0))
        hi[equal] = lo[equal]
        output = np.maximum(neuron - int(self.chain.ends[-2]), 0)
        shift = self.pre[-1][1][output]
        held = ((kind == IF_ACTIVE) & (sign > 0)) | ((kind == IF_INACTIVE) & (sign < 0))
        lo[held] = (self.chain.y[output] + scale * shift)[held]
        lo[(kind == SIGN) & (sign > 0)] = -shift[(kind == SIGN) & (sign > 0)]
        hi[(kind == SIGN) & (sign < 0)] = -shift[(kind == SIGN) & (sign < 0)]
        return lo, hi

    def code(self, x: Array) -> Array:
        """The code z of a point, see :meth:`CertifiedChain.at_bounds`."""
        center, unit = self.chain.frame
        return self.chain.at_bounds(center + unit * x[: self.chain.latent_dim])

    def pre_activations(self, x: Array) -> Array:
        """The pre-activations of all neurons at a point, (N,)."""
        return np.concatenate([part @ x + shift for part, shift in self.pre])

    def violations(self, x: Array, signs: Signs) -> tuple[Array, Array]:
        """h - u and h - c u at a point, (N,) each; 0 if a neuron is decided or agrees with its activation.

        For outputs whose error is not convex (sums of errors only), both are the error minus its envelope.
        """
        chain, hidden, u = self.chain, int(self.chain.ends[-2]), self.pre_activations(x)
        h, slopes = x[chain.latent_dim : chain.latent_dim + hidden], np.concatenate(chain.slopes)
        miss = np.maximum(chain.errors(u[hidden:]) - x[len(x) - self._sums :], 0.0)
        above = np.concatenate([h - u[:hidden], miss])
        below = np.concatenate([h - slopes[:hidden] * u[:hidden], miss])
        small = _AGREES * (1 + float(np.abs(x).max(initial=0.0)))
        agrees = ~chain.bent | (signs != 0) | (self.decided != 0) | (np.minimum(above, below) <= small)
        return np.where(agrees, 0.0, above), np.where(agrees, 0.0, below)

    def multipliers(self, y: Array, of_error: bool = True) -> Multipliers:
        """The multipliers of a bound from those of all rows, (M,).

        Those of the bounds of unknowns are not needed: the minima in :mod:`~unrelu.certification.safe_bounds` find the
        best ones. In a bound ``of_error``, the output with the largest floor pays what the rows leave of the cost.
        """
        chain, rows, size = self.chain, self.rows, int(self.chain.ends[-1])
        kappa = np.ones(len(chain.y))
        if chain.norm == "linf":
            paying = np.where(rows.kind == ERROR, np.maximum(y, 0.0), 0.0)
            kappa = np.bincount(rows.neuron, paying, size).astype(np.float64)[chain.neurons(-1)]
            kappa[self._worst] += max(0.0, 1.0 - float(kappa.sum())) if of_error else 0.0
        return Multipliers(kappa, np.bincount(rows.neuron, rows.scale * y, size).astype(np.float64))
