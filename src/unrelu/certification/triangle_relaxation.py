r"""The linear relaxation of a chain at a level, and the multipliers of its solution.

Every neuron is on (h = u), off (h = c u) or undecided; what is decided is substituted, so that the unknowns are the
code, in the frame of its bounds, the h of undecided neurons and, for the largest error, delta. An undecided neuron has
h >= c u and h >= u, and, where its u is known to lie in [L, U], h below the chord between the ends. Deciding it later
makes one of the first two rows an equation.

An output error err(v) enters by its convex envelope on the interval in which err <= level. No constant of our choice
takes part.

Source: the three rows are the triangle relaxation of a ReLU, R. Ehlers, "Formal verification of piece-wise linear
feed-forward neural networks", ATVA 2017; it is also the "outer adversarial polytope" of Wong and Kolter, ICML 2018,
section 3.1. A ReLU has c = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.safe_bounds import Multipliers, Region

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Signs = npt.NDArray[np.int8]

# What a row says of its neuron: h >= c u, h >= u, h <= chord, u in an interval, v against delta or a cost, a bound on
# F; or of no neuron, that a latent coordinate is within its bounds.
OFF_SIDE, ON_SIDE, CHORD, SIGN, ERROR, FLOOR, LATENT_BOUND = range(7)

# A coordinate this near to a bound, relative to the distance between them, is at it.
_AT = 1e-12


@dataclass(frozen=True, eq=False)
class RelaxationRows:
    """Rows lo <= a x <= hi that cost p below and q above for each unit.

    Attributes:
        matrix: (M, N).
        lo, hi, p, q: (M,).
        kind, neuron: what each row says, and of which neuron, counted through, (M,).
        scale: by how much s_j changes for each unit of an ERROR row's multiplier: minus the slope of v in it.
    """

    matrix: Array
    lo: Array
    hi: Array
    p: Array
    q: Array
    kind: Index
    neuron: Index
    scale: Array


class Relaxation:
    """The program of a chain: min F over the codes with F < level.

    Args:
        chain: what is relaxed.
        region: where pre-activations lie; the outputs' part is the level set.
        signs: neurons decided for good, counted through.
    """

    def __init__(self, chain: CertifiedChain, region: Region, signs: Signs) -> None:
        self.chain, self.region, self.signs = chain, region, signs
        hidden = slice(0, int(chain.ends[-2]))
        undecided = chain.bent & (signs == 0)
        self.undecided: Index = np.flatnonzero(undecided[hidden])
        self.delta = chain.norm == "linf"
        self.size = chain.latent_dim + len(self.undecided) + self.delta
        self.column = np.full(int(chain.ends[-1]), -1)
        self.column[self.undecided] = chain.latent_dim + np.arange(len(self.undecided))
        self._build()

    def _build(self) -> None:
        chain, parts = self.chain, _Parts(self.size)
        constant, unit = chain.frame
        affine = np.eye(chain.latent_dim, self.size) * unit[:, None]
        if chain.bounds is not None:
            low, high = (chain.bounds.lower - constant) / unit, (chain.bounds.upper - constant) / unit
            coordinates = np.eye(chain.latent_dim, self.size)
            parts.add(LATENT_BOUND, np.zeros(chain.latent_dim, dtype=np.int64), coordinates, low, high)
        self.pre: list[tuple[Array, Array]] = []
        for layer, (weight, bias) in enumerate(zip(chain.weights, chain.biases, strict=True)):
            u, shift = weight @ affine, weight @ constant + bias
            self.pre.append((u, shift))
            if layer == chain.depth - 1:
                self._outputs(parts, u, shift)
                break
            affine, constant = self._hidden(parts, layer, u, shift)
        self.rows = parts.rows()

    def _hidden(self, parts: _Parts, layer: int, u: Array, shift: Array) -> tuple[Array, Array]:
        """Add the rows of a hidden layer; returns h as an affine function of the unknowns."""
        chain, begin = self.chain, int(self.chain.ends[layer])
        number = np.arange(begin, begin + len(shift))
        low, high, c = self.region.low[number], self.region.high[number], chain.slopes[layer]
        sign, column = self.signs[number], self.column[number]
        off = (sign < 0) & (c < 1)
        h, constant = np.where(off, c, 1.0)[:, None] * u, np.where(off, c, 1.0) * shift
        open_ = np.flatnonzero(column >= 0)
        h[open_], constant[open_] = 0.0, 0.0
        h[open_, column[open_]] = 1.0
        parts.add(OFF_SIDE, number[open_], h[open_] - c[open_, None] * u[open_], c[open_] * shift[open_], np.inf)
        parts.add(ON_SIDE, number[open_], h[open_] - u[open_], shift[open_], np.inf)
        chord = open_[np.isfinite(low[open_]) & np.isfinite(high[open_]) & (low[open_] < 0) & (high[open_] > 0)]
        rise = (high[chord] - c[chord] * low[chord]) / (high[chord] - low[chord])
        end = c[chord] * low[chord] + rise * (shift[chord] - low[chord])
        parts.add(CHORD, number[chord], h[chord] - rise[:, None] * u[chord], -np.inf, end, scale=rise)
        fixed = np.flatnonzero((column < 0) & (c < 1) & (sign != 0))
        least = np.where(sign > 0, np.maximum(low, 0.0), low)[fixed]
        most = np.where(sign < 0, np.minimum(high, 0.0), high)[fixed]
        parts.add(SIGN, number[fixed], u[fixed], least - shift[fixed], most - shift[fixed])
        return h, constant

    def _outputs(self, parts: _Parts, u: Array, shift: Array) -> None:
        """Add the rows of the errors: sigma v + delta >= b, or v against what its error costs, or v in its interval."""
        chain, start = self.chain, int(self.chain.ends[-2])
        y, c, number = chain.y, chain.slopes[-1], np.arange(start, start + len(chain.y))
        low = self.region.low[number]
        positive, sloped = y > 0, c > 0
        least = np.where(positive, y, np.divide(y, c, out=np.zeros_like(y), where=sloped))
        # The slope of the envelope to the left: the line from the end of the interval, where err is concave.
        finite = np.where(np.isfinite(low), low, 0.0)
        image = np.where(finite > 0, finite, c * finite)
        line = np.divide(y - image, y - finite, out=np.ones_like(y), where=y > finite)
        left = np.where(positive, np.where(np.isfinite(low), line, c), c)
        if self.delta:
            floor = np.flatnonzero(~positive & ~sloped)
            unit = np.zeros((1, self.size))
            unit[0, -1] = 1.0
            worst = floor[np.argmin(y[floor])] if len(floor) else 0
            parts.add(FLOOR, number[[worst]], unit, max(0.0, -float(y[worst])) if len(floor) else 0.0, np.inf)
            # Where the slope on the left is 0 there is a row without a side: a smaller level may give it one.
            rises = np.where(left > 0, left, 1.0)
            for chosen, sigma, side in (
                (np.arange(len(y)), np.full(len(y), -1.0), -y),
                (np.flatnonzero(~positive & sloped), -c, -c * least),
                (np.flatnonzero(positive | sloped), rises, np.where(left > 0, left * least, -np.inf)),
            ):
                matrix = sigma[chosen, None] * u[chosen]
                matrix[:, -1] = 1.0
                slope = sigma[chosen]
                parts.add(ERROR, number[chosen], matrix, side[chosen] - slope * shift[chosen], np.inf, scale=slope)
            return
        self._costs(parts, number, u, shift, least, np.where(self.region.low[number] >= 0, 1.0, c))

    def _costs(self, parts: _Parts, number: Index, u: Array, shift: Array, least: Array, left: Array) -> None:
        """The rows of a sum of errors: a cost on each side of the smallest error, and what deciding an output adds."""
        y, c = self.chain.y, self.chain.slopes[-1]
        positive = y > 0
        parts.add(ERROR, number, u, least - shift, least - shift, p=left, q=np.where(positive, 1.0, c), scale=1.0)
        negative = np.flatnonzero(~positive & (c < 1))
        parts.add(ERROR, number[negative], u[negative], -np.inf, -shift[negative], q=1 - c[negative], scale=1.0)
        open_ = np.flatnonzero(self.chain.bent[number] & (left < 1))
        # Deciding such an output to be on adds the cost 1 - c below y; both decisions are a side of v = 0.
        parts.add(ERROR, number[open_], u[open_], -np.inf, np.inf, p=0.0, scale=1.0)
        parts.add(SIGN, number[open_], u[open_], -np.inf, np.inf)

    def code(self, x: Array) -> Array:
        """The code z of a point, inside the bounds, and at one to the bit where it is there to rounding."""
        t = x[: self.chain.latent_dim]
        if self.chain.bounds is None:
            return t
        center, unit = self.chain.frame
        lower, upper = self.chain.bounds.lower, self.chain.bounds.upper
        z = np.where(unit * t <= lower - center + _AT * unit, lower, center + unit * t)
        return self.chain.bounds.clip(np.where(unit * t >= upper - center - _AT * unit, upper, z))

    @cached_property
    def constant(self) -> float:
        """What F has beside the costs of the rows, with no output decided to be off."""
        y, c = self.chain.y, self.chain.slopes[-1]
        if self.delta:
            return 0.0
        return float(-y[(y <= 0) & (c == 0)].sum())

    @cached_property
    def norms(self) -> Array:
        """Of the rows."""
        return np.asarray(np.linalg.norm(self.rows.matrix, axis=1))

    @cached_property
    def cost(self) -> Array:
        """The objective where F is minimised, (N,)."""
        cost = np.zeros(self.size)
        if self.delta:
            cost[-1] = 1.0
        return cost

    def multipliers(self, index: Index, y: Array, extra: Array | None = None) -> Multipliers:
        """The multipliers of a bound from those of some rows.

        Args:
            index: numbers of rows, those that are not listed have multiplier 0. Those of bounds of the code need not be
            kept: the minimum over the bounds in :mod:`~unrelu.certification.safe_bounds` finds the best ones.
            y: their multipliers.
            extra: what was minimised if not F, as coefficients of all pre-activations.
        """
        chain, rows = self.chain, self.rows
        kind, neuron, scale = rows.kind[index], rows.neuron[index], rows.scale[index]
        total, count = int(chain.ends[-1]), len(chain.y)
        start = total - count
        error = kind == ERROR
        outputs = _summed(neuron[error] - start, -scale[error] * y[error], count)
        if self.delta:
            pays = (kind == ERROR) | (kind == FLOOR)
            kappa = _summed(neuron[pays] - start, np.maximum(y[pays], 0.0), count)
        else:
            kappa = np.ones(count)
        slopes = np.zeros(total)
        sided = _summed(neuron[kind == SIGN], y[kind == SIGN], total)
        slopes[start:] = outputs - sided[start:]
        every = np.concatenate(chain.slopes)
        weight = np.where(kind == OFF_SIDE, every[neuron], np.where(kind == CHORD, scale, 1.0))
        inner = (kind == OFF_SIDE) | (kind == ON_SIDE) | (kind == CHORD)
        open_ = _summed(neuron[inner], weight[inner] * y[inner], total)
        for layer in range(chain.depth - 1, 0, -1):
            here = slice(int(chain.ends[layer - 1]), int(chain.ends[layer]))
            after = slice(int(chain.ends[layer]), int(chain.ends[layer + 1]))
            c = (slopes[after] if extra is None else slopes[after] + extra[after]) @ chain.weights[layer]
            off = (self.signs[here] < 0) & (chain.slopes[layer - 1] < 1)
            fixed = np.where(off, chain.slopes[layer - 1] * c, c) - sided[here]
            slopes[here] = np.where(self.column[here] >= 0, open_[here], fixed)
        return Multipliers(kappa, slopes)


def _summed(place: Index, values: Array, size: int) -> Array:
    """The sums of the values at each place, (size,)."""
    total = np.zeros(size)
    np.add.at(total, place, values)
    return total


class _Parts:
    """Rows being collected."""

    def __init__(self, size: int) -> None:
        self._parts: list[tuple[Array | Index, ...]] = []
        self._size = size

    def add(
        self,
        kind: int,
        neuron: Index,
        matrix: Array,
        lo: Array | float,
        hi: Array | float,
        p: Array | float = np.inf,
        q: Array | float = np.inf,
        scale: Array | float = 0.0,
    ) -> None:
        m = len(neuron)
        sides = [np.broadcast_to(np.asarray(a, dtype=np.float64), (m,)) for a in (lo, hi, p, q, scale)]
        self._parts.append((matrix.reshape(m, self._size), *sides, np.full(m, kind), np.asarray(neuron)))

    def rows(self) -> RelaxationRows:
        matrix, lo, hi, p, q, scale, kind, neuron = (
            np.concatenate(columns) for columns in zip(*self._parts, strict=True)
        )
        return RelaxationRows(np.ascontiguousarray(matrix), lo, hi, p, q, kind, neuron, scale)
