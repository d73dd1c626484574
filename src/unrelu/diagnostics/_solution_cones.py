r"""The codes around a code that have the same observation: a cone for each sign pattern of the neurons at their kink.

Near z a piecewise linear A G is A G(z) + f(d), d the step from z, and f is linear on each of the cones into which the
hyperplanes of the kinks cut the steps; a neuron of a later layer has another hyperplane on every cone of the layers
before it. The codes around z with the same observation are the d with f(d) = 0.

Sign patterns are searched by branch and bound. With e_j = max(v_j, 0) of the neurons at their kink, whose outputs are
c_j v_j + (1 - c_j) e_j, f is linear in w = (d, e), and so are the v_j. A neuron obeys

.. math:: e_j \ge v_j, \qquad e_j \ge 0

until its sign is decided, which makes it e_j = v_j >= 0 or e_j = 0 with v_j <= 0. So the w with f = 0 that obey all
this are a polyhedral cone that holds the steps of all patterns which agree with what was decided.

Source: branch and bound on the signs of ReLUs as in R. Bunel et al., "A unified view of piecewise linear neural network
verification", NeurIPS 2018; steps have no bounds here, so there is no chord above a ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from unrelu.lp.polytopes import always_tight, constraints_on, null_space
from unrelu.measurements import Operator
from unrelu.models.network import Layer, Network
from unrelu.runtime.array_types import Array

# Singular values below this share of the largest count as zero. Outputs carry rounding errors of eps |y|, eps = 2e-16,
# and |y| is about sigma_max |z| at most, so at this share they leave z open by eps / 1e-10 = 2e-6 of its length (in
# runs by a tenth of that, as rounding is spread over all directions). Far below it, not even data that are exact to the
# last bit tell the code to 1e-6.
RANK_TOLERANCE = 1e-10
# Pre-activations below this share of the layer's largest are at the kink: a code found as a vertex of the preimage has
# neurons exactly there, on either side by rounding.
_KINK_TOLERANCE = 1e-7
# Where a whole layer is below this, in units in which layers are of size 1, its largest may itself be rounding.
_SMALL = 1e-6
# Sums that are this many machine epsilons of their terms are rounding of zero. Their rows would look like constraints.
_ROUNDING = 64
# Partial sign patterns that are looked at, and neurons at their kink whose signs may matter: a program of a millisecond
# for each pattern of a few neurons, of half a second where there are so many.
MOST_PATTERNS, MOST_NEURONS = 256, 256


def at_kink(layer: Layer, h: Tensor, u: Tensor) -> Tensor:
    """Where a ReLU, LeakyReLU or PReLU has a pre-activation u = W h + b of zero, (B, n)."""
    bent = torch.from_numpy(layer.activation.kinks(layer.n_out))
    largest = u.abs().amax(dim=1, keepdim=True)
    allowed = _KINK_TOLERANCE * largest
    if (largest < _SMALL).any():
        allowed = torch.maximum(allowed, _ROUNDING * torch.finfo(u.dtype).eps * _terms(layer, h))
    return bent & (u.abs() <= allowed) & torch.isfinite(largest)


def _terms(layer: Layer, h: Tensor) -> Tensor:
    """|W| |h| + |b|, which u is off by a few machine epsilons of, (B, n)."""
    return layer.affine.mapped(lambda _, tensor: tensor.abs()).apply(h.abs())


def picks(operator: Operator) -> bool:
    """Whether A picks outputs, weighed or not.

    Then the neurons of the last layer need no branching: f = 0 asks of an observed one at its kink that v_j <= 0 where
    its slope is 0, and that v_j = 0 elsewhere.
    """
    return operator.unweighted.selects


class KinkMap(NamedTuple):
    """f around one code, linear in w = (d, e), e of q neurons.

    Attributes:
        measured: f(d), transposed, (k + q, m).
        pre: the v_j, (q, k + q).
        below: rows r with r . w <= 0, whatever the signs are, (s, k + q).
    """

    measured: Tensor
    pre: Array
    below: Array


def kink_map(network: Network, fast: Network, z: Tensor, operator: Operator, outward: Array) -> KinkMap | None:
    """f around a code (1, k); None where more neurons are at their kink than MOST_NEURONS.

    Args:
        network: G in double precision, which decides what is at its kink.
        fast: G in the precision of the result.
        z: the code.
        operator: A of this observation.
        outward: outward normals of the bounds that the code is at, (c, k).
    """
    x, k, picked = z, z.shape[1], picks(operator)
    tangents = torch.eye(k, dtype=fast.dtype)
    pre: list[Tensor] = []
    below = [torch.from_numpy(outward[outward.any(axis=1)])]
    for layer, pushing in zip(network.layers, fast.layers, strict=True):
        v = _without_rounding(pushing.affine.apply(tangents, constant=False))
        u = layer.affine.apply(x)
        kinks = at_kink(layer, x, u)[0]
        x = layer.activation.forward(u)
        factor = layer.activation.derivative(u, x)[0]
        c = torch.from_numpy(layer.activation.slopes(len(kinks)))
        if picked and layer is network.layers[-1]:
            factor = torch.where(kinks, (c != 0).to(factor.dtype), factor)
            below.append(v[:, kinks & (c == 0) & _observed(operator, x)].T)
            tangents = v * factor.to(v.dtype)
            continue
        tangents = v * torch.where(kinks, c, factor).to(v.dtype)
        places = torch.nonzero(kinks & v.any(dim=0))[:, 0]
        if len(tangents) + len(places) > k + MOST_NEURONS:
            return None
        pre.append(v[:, places].T)
        own = torch.zeros(len(places), v.shape[1], dtype=v.dtype)
        own[torch.arange(len(places)), places] = (1 - c[places]).to(v.dtype)
        tangents = torch.cat([tangents, own])
    measured = operator.linearize(x, tangents[None].to(x.dtype))[1][0]
    return KinkMap(measured, _padded(pre, len(tangents)), _padded(below, len(tangents)))


def _without_rounding(v: Tensor) -> Tensor:
    """The derivatives of a layer's pre-activations, with 0 for what only rounding left of sums of weights."""
    return torch.where(v.abs() > _ROUNDING * torch.finfo(v.dtype).eps * v.abs().max(), v, 0.0)


def _observed(operator: Operator, x: Tensor) -> Tensor:
    """Which entries of an output (1, n) an operator that picks some shows, (n,)."""
    return operator.adjoint(torch.ones_like(operator.forward(x)))[0] > 0


def _padded(rows: list[Tensor], width: int) -> Array:
    """Rows of growing widths as a matrix, zeros behind them."""
    wide = [torch.nn.functional.pad(row.double(), (0, width - row.shape[1])) for row in rows]
    return torch.cat(wide).numpy() if wide else np.zeros((0, width))


def solution_cones(around: KinkMap | None, k: int) -> tuple[int, Array]:
    """The codes around a code that have the same observation, by branch and bound on the signs; one inactive first.

    Returns:
        The largest dimension of a cone that was found, -1 if none has more than 0 and not all patterns were decided;
        and an orthonormal basis of what that cone spans, (k, dimension).
    """
    best, basis = 0, np.zeros((k, 0))
    decided = around is not None and bool(torch.isfinite(around.measured).all())
    open_ = [_Pattern.undecided(around)] if around is not None and decided else []
    for _ in range(MOST_PATTERNS):
        if not open_:
            break
        pattern = open_.pop()
        leaf = pattern.decided == len(pattern.around.pre)
        found = pattern.relaxed()
        if found is None:
            decided &= not leaf
            open_ += [] if leaf else [pattern.child(active=True), pattern.child(active=False)]
            continue
        cone, sides = found
        dimension = _rank(cone[:k])
        if dimension > best and leaf:
            best, basis = dimension, cone
        elif dimension > best:
            open_ += [pattern.child(active) for active in sides]
    return -1 if (open_ or not decided) and not best else best, basis


@dataclass(frozen=True, eq=False)
class _Pattern:
    """The signs of the first neurons.

    Attributes:
        around: f.
        equal: what has to be zero, (., k + q): the triangular factor of ``measured``.
        expand: w from d and the e that are not decided, (k + q, k + q - decided).
        below: rows r with r . w <= 0 by what was decided, and always.
        decided: how many neurons were.
    """

    around: KinkMap
    equal: Array
    expand: Array
    below: Array
    decided: int

    @classmethod
    def undecided(cls, around: KinkMap) -> _Pattern:
        """No neuron is decided."""
        equal: Array = scipy.linalg.qr(around.measured.double().numpy().T, mode="r", check_finite=False)[0]
        equal = equal[: len(around.measured)]
        return cls(around, equal, np.eye(len(around.measured)), around.below, 0)

    @property
    def _open(self) -> int:
        """The column of ``expand``, and row of w, from which undecided neurons stand."""
        return len(self.around.measured) - len(self.around.pre)

    def child(self, active: bool) -> _Pattern:
        """With the next neuron active, or inactive."""
        i, k = self.decided, self._open
        pre, expand = self.around.pre[i], np.delete(self.expand, k, axis=1)
        expand[k + i] = _product(pre[None], expand)[0] if active else 0.0
        below = np.vstack([self.below, -pre if active else pre])
        return replace(self, expand=expand, below=below, decided=i + 1)

    def relaxed(self) -> tuple[Array, list[bool]] | None:
        """A basis of the span of the cone, and the sides of the next neuron; None if its program was not solved."""
        pre, e = self.around.pre[self.decided :], np.eye(len(self.expand))[self._open + self.decided :]
        normals = _product(np.vstack([pre - e, -e, self.below]), self.expand)
        basis = null_space(_product(self.equal, self.expand))
        seen = constraints_on(normals, basis)
        size = np.linalg.norm(seen, axis=1)
        tight = size == 0
        if not tight.all():
            found = always_tight(seen[~tight] / size[~tight, None], np.zeros(int((~tight).sum())))
            if found is None:
                return None
            tight[~tight] = found
            basis = basis @ null_space(seen[tight])
        # Where e = v in the whole cone, an inactive neuron counts as active too; and the other way round.
        always_active, always_inactive = tight[:1].any(), tight[len(pre) : len(pre) + 1].any()
        return basis, [True] if always_active else [False] if always_inactive else [True, False]


def _product(rows: Array, expand: Array) -> Array:
    """Rows of w as rows of w', with 0 for what only rounding left.

    A factor of a QR decomposition is off by eps times the lengths of its columns, not of its entries.
    """
    product, size = rows @ expand, np.linalg.norm(rows, axis=0) @ np.abs(expand)
    return np.where(np.abs(product) > _ROUNDING * np.finfo(np.float64).eps * size, product, 0.0)


def _rank(rows: Array) -> int:
    return int(np.linalg.matrix_rank(rows, tol=RANK_TOLERANCE)) if rows.size else 0
