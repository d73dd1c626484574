"""The constraints on the input of a layer, given its output: an interval for every pre-activation.

All convex layer problems of the paper are built from these rows. With u = W h + b and a threshold eps, the output x_j
confines u_j to

.. math:: \\ell_j - q_j \\delta \\le u_j \\le m_j + p_j \\delta, \\qquad 0 \\le \\delta \\le \\varepsilon

where an end may be missing. At delta = eps, this is exactly phi^{-1}([x_j - eps, x_j + eps]); between 0 and eps, the
ends move linearly. For a ReLU, this is the sign decision of the paper: both ends if x_j > eps, otherwise the upper one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from unrelu.errors import InputError
from unrelu.models.activations import Activation
from unrelu.models.network import Layer
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.memory_limits import DENSE_NUMBERS


@dataclass(frozen=True, eq=False)
class LayerSystem:
    """The layer x = phi(W h + b) with lower <= h <= upper, without an output.

    Attributes:
        matrix: W, (n, k), dense or SciPy CSR.
        bias: b, (n,).
        activation: phi.
        lower, upper: (k,), the range of the activation that produced h; infinite for the latent code.
        precision: relative rounding error of the outputs: 2e-16 in float64, 1e-7 for a network evaluated in float32.

    Raises:
        InputError: shapes do not match, W has no columns, entries are not finite, or a lower bound is above its upper
            one.
    """

    matrix: Array | sparse.csr_array
    bias: Array
    activation: Activation
    lower: Array
    upper: Array
    precision: float = float(np.finfo(np.float64).eps)

    def __post_init__(self) -> None:
        if not sparse.issparse(self.matrix):
            object.__setattr__(self, "matrix", np.asarray(self.matrix, dtype=np.float64))
        if self.matrix.ndim != 2 or self.matrix.shape[1] == 0:
            raise InputError(f"W has shape {self.matrix.shape}; it must be (n, k) with k of at least 1")
        for name, size in (("bias", self.n_out), ("lower", self.n_in), ("upper", self.n_in)):
            if getattr(self, name).shape != (size,):
                raise InputError(f"{name} has shape {getattr(self, name).shape}, W of shape {self.matrix.shape} needs "
                                 f"({size},)")  # fmt: skip
        entries = self.matrix.data if sparse.issparse(self.matrix) else self.matrix
        if not (np.isfinite(entries).all() and np.isfinite(self.bias).all()):
            raise InputError("W or the bias has entries that are not finite; replace them")
        if not (self.lower <= self.upper).all():
            i = int(np.flatnonzero(~(self.lower <= self.upper))[0])
            raise InputError(f"coordinate {i} has bounds {self.lower[i]} and {self.upper[i]}; the lower one is above")

    @classmethod
    def of(
        cls, layer: Layer, previous: Activation | None = None, precision: float = float(np.finfo(np.float64).eps)
    ) -> LayerSystem:
        """Make the system of a layer whose input is an output of the activation ``previous`` (None: the latent code).

        The range of that activation bounds the input, at least 0 for a ReLU, as in the released code of the paper.
        """
        matrix = layer.matrix()
        if not isinstance(matrix, np.ndarray) and layer.n_out * layer.n_in <= DENSE_NUMBERS:
            matrix = matrix.toarray()
        low, high = previous.range if previous else (np.array(-np.inf), np.array(np.inf))
        shape = (layer.n_in,)
        lower, upper = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
        return cls(matrix, layer.bias(), layer.activation, lower, upper, precision)

    @cached_property
    def gain(self) -> float:
        """The median norm of the non-zero rows of W: the change of a pre-activation per change of h."""
        norms = _norms(self.matrix, axis=1)
        norms = norms[norms > 0]
        return float(np.median(norms)) if len(norms) else 1.0

    def input_threshold(self, h: Array, threshold: float) -> float:
        r"""Return the threshold with which the layer below inverts h, if h was found at ``threshold`` eps.

        .. math:: \min(\varepsilon \, |h|_2 / |W h|_2, \; \varepsilon / \operatorname{median}_j |w_j|_2)

        An error of eps in a pre-activation is an error of about eps / \|w_j\| in h. The paper takes the same eps for
        the layer below, as the first ratio is about 1 for weights N(0, 1/n); in other units of h it is not. A threshold
        that is too small grows, but one that is too large classifies every neuron as inactive.
        """
        stretch = float(np.linalg.norm(self.matrix @ h)) / (float(np.linalg.norm(h)) or 1.0)
        return threshold / max(stretch, self.gain)

    @cached_property
    def norms(self) -> Array:
        """The norms of the columns of W, (k,); 1 for a column of zeros."""
        norms = _norms(self.matrix, axis=0)
        norms[norms == 0] = 1.0
        return norms

    @cached_property
    def absolute(self) -> Array | sparse.csr_array:
        """The absolute values of the entries of W, which bound the rounding errors of products with W."""
        return abs(self.matrix)

    @cached_property
    def balanced(self) -> Array | sparse.csr_array:
        """W with columns of norm 1."""
        if isinstance(self.matrix, np.ndarray):
            return np.ascontiguousarray(self.matrix / self.norms)
        return self.matrix @ sparse.diags_array(1 / self.norms)

    @property
    def dense(self) -> Array:
        """W as an array."""
        return self.matrix if isinstance(self.matrix, np.ndarray) else np.asarray(self.matrix.toarray())

    @property
    def n_in(self) -> int:
        """k, the number of inputs."""
        return int(self.matrix.shape[1])

    @property
    def n_out(self) -> int:
        """n, the number of outputs."""
        return int(self.matrix.shape[0])

    def value(self, h: Array) -> Array:
        """Compute phi(W h + b), (n,)."""
        return self.activation.value(np.asarray(self.matrix @ h) + self.bias)

    def inside(self, h: Array) -> Array:
        """Move h into its bounds."""
        return np.clip(h, self.lower, self.upper)


def _norms(matrix: Array | sparse.csr_array, axis: int) -> Array:
    """Compute the norms of columns (axis 0) or rows (axis 1), also where squares overflow or vanish."""
    largest = abs(matrix).max(axis=axis)
    size = np.asarray(largest.toarray() if sparse.issparse(largest) else largest).ravel()
    inverse = np.divide(1.0, size, out=np.zeros_like(size), where=size > np.finfo(float).tiny)
    unit = matrix * np.expand_dims(inverse, axis)
    norms: Array = size * np.sqrt(np.asarray((unit * unit).sum(axis=axis)).ravel())
    return norms


@dataclass(frozen=True, eq=False)
class Rows:
    """low - q delta <= W h <= high + p delta, with the bias subtracted from the sides; all arrays are (n,).

    Attributes:
        low, high: the sides at delta = 0, infinite where a side is missing.
        low_slope, high_slope: q and p, positive where the side exists.
        target: x after clipping to the range of the activation.
        threshold: eps.
    """

    low: Array
    high: Array
    low_slope: Array
    high_slope: Array
    target: Array
    threshold: float

    @property
    def two_sided(self) -> Flags:
        """Whether a row has both sides: for a ReLU, whether the neuron is classified as active."""
        return np.isfinite(self.low) & np.isfinite(self.high)

    @cached_property
    def center(self) -> Array:
        """The value at which the sides of a row start, (n,); 0 for a row without sides."""
        return np.where(np.isfinite(self.high), self.high, np.where(np.isfinite(self.low), self.low, 0.0))

    @cached_property
    def scale(self) -> float:
        """max|x|, but at least 1e-4 of the largest side: where biases cancel, W h + b has fewer digits than x."""
        return max(float(np.abs(self.target).max(initial=0.0)), 1e-4 * float(np.abs(self.center).max(initial=0.0)))

    @cached_property
    def slopes(self) -> tuple[Array, Array]:
        """p and q, (n,), 0 where the side is missing."""
        up, down = np.isfinite(self.high), np.isfinite(self.low)
        return np.where(up, self.high_slope, 0.0), np.where(down, self.low_slope, 0.0)

    @cached_property
    def box(self) -> tuple[Array, Array]:
        """The least and the largest multiplier of a row, -1/q and 1/p, (n,), 0 where the side is missing."""
        up, down = np.isfinite(self.high), np.isfinite(self.low)
        return np.where(down, -1 / self.low_slope, 0.0), np.where(up, 1 / self.high_slope, 0.0)

    def same_sides(self, other: Rows) -> bool:
        """Check whether both have the same sides and slopes; their thresholds may differ."""
        names = ("low", "high", "low_slope", "high_slope")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    def violation(self, wh: Array) -> Array:
        """Compute the smallest delta_j >= 0 for which row j holds at W h, (n,): its error in units of the output."""
        return np.maximum(0.0, np.maximum((wh - self.high) / self.high_slope, (self.low - wh) / self.low_slope))


def rows(system: LayerSystem, target: Array, threshold: float) -> Rows:
    """Make the rows for one output of a layer and one threshold.

    Args:
        system: the layer.
        target: x, (n,), finite.
        threshold: eps > 0, in units of the output.

    Raises:
        InputError: the target has another shape or entries that are not finite, or the threshold is not above 0.

    An x outside the range of the activation is first moved into it. So a negative output of a ReLU counts as 0; the
    paper's constraints would ask for a pre-activation that far below zero.

    Source: constraints (6), Algorithm 1 and Remark 1 of the paper; studies/notes/layer_programs.md says why the middle
    rows of Remark 1 (-eps < x_j <= eps of a LeakyReLU) run along the chord to phi^{-1}(x_j - eps).
    """
    activation = system.activation
    x = activation.clip(checked_target(system, target))
    if not 0 < threshold < np.inf:
        raise InputError(f"threshold={threshold} must be finite and above 0")
    low, high = activation.preimage(x - threshold, x + threshold)
    # For a saturated sigmoid or tanh, the side at delta = 0 belongs to the output half a threshold inside its range.
    u = activation.inverse(activation.clip(x, margin=min(threshold / 2, 0.25)))
    down, up = _chords(activation, x, u, low, high, threshold)
    has_low, has_high = np.isfinite(low), np.isfinite(high)
    return Rows(
        low=np.where(has_low, u - system.bias, -np.inf),
        high=np.where(has_high, u - system.bias, np.inf),
        low_slope=np.where(has_low, down, 1.0),
        high_slope=np.where(has_high, up, 1.0),
        target=x,
        threshold=threshold,
    )


def checked_target(system: LayerSystem, target: Array) -> Array:
    """Return the target as float64, (n,).

    Raises:
        InputError: it has another shape, or entries that are not finite.
    """
    target = np.asarray(target, dtype=np.float64)
    if target.shape != (system.n_out,):
        raise InputError(f"the layer has {system.n_out} outputs, the target has shape {target.shape}")
    if not np.isfinite(target).all():
        raise InputError(f"the target has {int((~np.isfinite(target)).sum())} entries that are not finite; remove them")
    return target


def _chords(activation: Activation, x: Array, u: Array, low: Array, high: Array, eps: float) -> tuple[Array, Array]:
    """Compute (phi^{-1}(x) - phi^{-1}(x - eps)) / eps and (phi^{-1}(x + eps) - phi^{-1}(x)) / eps."""
    with np.errstate(invalid="ignore", divide="ignore"):
        down, up = (u - low) / eps, (high - u) / eps
        if activation.smooth:
            return down, up
        # On one side of the kink, the slope is 1 or 1/c; the quotient would lose digits for a small eps.
        steep = np.where(activation.slope > 0, 1.0 / activation.slope, 1.0)
    down = np.where(x - eps >= 0, 1.0, np.where(x <= 0, steep, down))
    up = np.where(x >= 0, 1.0, np.where(x + eps <= 0, steep, up))
    return down, up
