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

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from unrelu.certification.certified_chain import CertifiedChain, Signs
from unrelu.certification.safe_bounds import Multipliers, Region
from unrelu.runtime.array_types import Array, Flags, Integers

# Kinds of rows. INACTIVE: h >= c u; ACTIVE: h >= u; CHORD: h <= chord; SIGN: v >= 0 or v <= 0 of an output; ERROR: a
# line below the envelope of an error; IF_ACTIVE and IF_INACTIVE: such lines of outputs that are decided.
INACTIVE, ACTIVE, CHORD, SIGN, ERROR, IF_ACTIVE, IF_INACTIVE = range(7)

# A violation below this share of the largest unknown is a rounding error.
_AGREES = 1e-9


class RelaxationRows(NamedTuple):
    """Rows lo <= own + factor u <= hi: u is a pre-activation, and own an unknown of its neuron (h, the error, or none).

    Attributes:
        kind, neuron: kind and neuron of each row, (M,).
        factor: (M,); a row's multiplier changes the slope s of its neuron by ``-factor`` for each unit.
        own: column of the own unknown, (M,); -1 for none.
        lo, hi: (M,).
    """

    kind: Integers
    neuron: Integers
    factor: Array
    own: Integers
    lo: Array
    hi: Array


class Relaxation:
    """The linear relaxation of min F over the codes with F < level.

    Args:
        chain: the chain to relax.
        region: intervals of pre-activations; those of the outputs are the level set.

    Attributes:
        decided: signs of the neurons that the intervals decide, (N,); 1 for neurons without a kink.
        rows, matrix: all rows, of which the ``lazy`` ones are rarely tight: errors above the observation.
        cost, low, high: the objective, and bounds of the unknowns.
    """

    def __init__(self, chain: CertifiedChain, region: Region) -> None:
        self.chain, self.region, k, hidden = chain, region, chain.latent_dim, int(chain.ends[-2])
        signs = np.where(region.low >= 0, 1, np.where(region.high <= 0, -1, 0))
        self.decided: Signs = np.where(chain.bent, signs, np.arange(len(signs)) < hidden).astype(np.int8)
        self._sums = len(chain.y) if chain.norm == "l1" else 1
        self.size = k + hidden + self._sums
        parts = (np.broadcast_arrays(*part) for part in (*self._hidden(), *self._errors()))
        self.rows = rows = RelaxationRows(*map(np.concatenate, zip(*parts, strict=True)))
        center, unit = chain.frame
        # The map from the code in its frame and the outputs of hidden layers to all pre-activations, without biases.
        self._map = sparse.csr_array(sparse.block_diag([chain.weights[0] * unit, *chain.weights[1:]]))
        self._biases = np.concatenate([chain.weights[0] @ center + chain.biases[0], *chain.biases[1:]])
        self.shift = rows.factor * self._biases[rows.neuron]
        owned = np.flatnonzero(rows.own >= 0)
        own = sparse.csr_array((np.ones(len(owned)), (owned, rows.own[owned])), shape=(len(rows.own), self.size))
        matrix = self._map[rows.neuron]
        matrix.data *= np.repeat(rows.factor, np.diff(matrix.indptr))
        matrix.resize(own.shape)
        self.matrix = matrix + own
        self.matrix.eliminate_zeros()
        self.lazy: Flags = (rows.kind == ERROR) & (rows.factor < 0)
        self.low, self.high = np.full(self.size, -np.inf), np.full(self.size, np.inf)
        if chain.bounds is not None:
            self.low[:k], self.high[:k] = (chain.bounds.lower - center) / unit, (chain.bounds.upper - center) / unit
        # Outputs of a ReLU have errors of at least -y.
        floor = np.where((chain.y <= 0) & (chain.slopes[-1] == 0), -chain.y, 0.0)
        self.low[k + hidden :] = floor if chain.norm == "l1" else floor.max()
        self._worst = int(np.argmax(floor))
        self.cost = np.repeat([0.0, 1.0], [k + hidden, self._sums])

    def _hidden(self) -> list[tuple[Any, ...]]:
        """Write the rows of hidden neurons by kind, as fields of :class:`RelaxationRows`.

        A number stands for all rows of its kind.
        """
        number, c = np.arange(self.chain.ends[-2]), np.concatenate([*self.chain.slopes[:-1], np.zeros(0)])
        low, high, h = self.region.low[number], self.region.high[number], self.chain.latent_dim + number
        chord = np.flatnonzero((c < 1) & np.isfinite(low) & np.isfinite(high) & (low < 0) & (high > 0))
        rise = (high[chord] - c[chord] * low[chord]) / (high[chord] - low[chord])
        return [
            (INACTIVE, number, -c, h, 0.0, np.inf),
            (ACTIVE, number, -1.0, h, 0.0, np.inf),
            (CHORD, number[chord], -rise, h[chord], -np.inf, (c[chord] - rise) * low[chord]),
        ]

    def _errors(self) -> list[tuple[Any, ...]]:
        """Write the rows error + sigma v >= side of the outputs in the same way."""
        y, c = self.chain.y, self.chain.slopes[-1]
        number = np.arange(self.chain.ends[-2], self.chain.ends[-1])
        low, positive = self.region.low[number], y > 0
        error = self.size - self._sums + (np.arange(len(y)) if self._sums > 1 else np.zeros(len(y), dtype=np.int64))
        # The v of the smallest error, and the slope of the envelope to the left of it. Where err is concave there, the
        # envelope is a line from the end of the interval.
        least = np.where(positive, y, np.divide(y, c, out=np.zeros_like(y), where=c > 0))
        finite = np.where(np.isfinite(low), low, 0.0)
        line = np.divide(y - self.chain.outputs(-1, finite), y - finite, out=np.ones_like(y), where=y > finite)
        left = np.where(positive & np.isfinite(low), line, c)
        open_, rising, falling = self.chain.bent[number] & (low < 0), left > 0, ~positive & (c > 0)
        return [
            (ERROR, number[rising], left[rising], error[rising], (left * least)[rising], np.inf),
            (ERROR, number[falling], -c[falling], error[falling], -(c * least)[falling], np.inf),
            (ERROR, number, -1.0, error, -y, np.inf),
            (IF_ACTIVE, number[open_], 1.0, error[open_], -np.inf, np.inf),
            (IF_INACTIVE, number[open_], c[open_], error[open_], -np.inf, np.inf),
            (SIGN, number[open_], 1.0, -1, -np.inf, np.inf),
        ]

    def sides(self, signs: Signs) -> tuple[Array, Array]:
        """Compute the sides of all rows with some neurons decided, (M,) each."""
        kind, neuron = self.rows.kind, self.rows.neuron
        sign = np.where(signs != 0, signs, self.decided)[neuron]
        lo, hi = self.rows.lo.copy(), self.rows.hi.copy()
        hi[((kind == ACTIVE) & (sign > 0)) | ((kind == INACTIVE) & (sign < 0))] = 0.0
        held = ((kind == IF_ACTIVE) & (sign > 0)) | ((kind == IF_INACTIVE) & (sign < 0))
        lo[held] = self.chain.y[neuron[held] - int(self.chain.ends[-2])]
        lo[(kind == SIGN) & (sign > 0)] = 0.0
        hi[(kind == SIGN) & (sign < 0)] = 0.0
        return lo - self.shift, hi - self.shift

    def code(self, x: Array) -> Array:
        """Return the code z of a point, see :meth:`CertifiedChain.at_bounds`."""
        center, unit = self.chain.frame
        return self.chain.at_bounds(center + unit * x[: self.chain.latent_dim])

    def pre_activations(self, x: Array) -> Array:
        """Compute the pre-activations of all neurons at a point, (N,)."""
        return np.asarray(self._map @ x[: self._map.shape[1]] + self._biases)

    def violations(self, x: Array, signs: Signs) -> Array:
        """Compute the geometric mean of h - u and h - c u at a point, (N,); 0 where a neuron is decided or h = phi(u).

        For outputs whose error is not convex (sums of errors only), it is the error minus its envelope.
        """
        chain, hidden, u = self.chain, int(self.chain.ends[-2]), self.pre_activations(x)
        h, slopes = x[chain.latent_dim : chain.latent_dim + hidden], np.concatenate(chain.slopes)
        miss = np.maximum(chain.errors(u[hidden:]) - x[len(x) - self._sums :], 0.0)
        above = np.concatenate([h - u[:hidden], miss])
        below = np.concatenate([h - slopes[:hidden] * u[:hidden], miss])
        small = _AGREES * (1 + float(np.abs(x).max(initial=0.0)))
        agrees = ~chain.bent | (signs != 0) | (self.decided != 0) | (np.minimum(above, below) <= small)
        return np.sqrt(np.where(agrees, 0.0, above * below))

    def multipliers(self, y: Array, of_error: bool = True) -> Multipliers:
        """Convert the multipliers of all rows, (M,), to those of a bound.

        The bounds of unknowns need no multipliers: the minima in :mod:`~unrelu.certification.safe_bounds` find the best
        ones. For a bound on the largest error (``of_error``), the weights of the errors have the sum 1, and what the
        rows leave of it goes to the output with the largest floor.
        """
        chain, rows, size = self.chain, self.rows, int(self.chain.ends[-1])
        kappa = np.ones(len(chain.y))
        if chain.norm == "linf":
            paying = np.where(rows.kind == ERROR, np.maximum(y, 0.0), 0.0)
            kappa = np.bincount(rows.neuron, paying, size).astype(np.float64)[chain.neurons(-1)]
            kappa[self._worst] += max(0.0, 1.0 - float(kappa.sum())) if of_error else 0.0
        return Multipliers(kappa, -np.bincount(rows.neuron, rows.factor * y, size).astype(np.float64))
