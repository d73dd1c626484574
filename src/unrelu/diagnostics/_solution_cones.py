r"""The codes near a code that have the same observation: a cone for each sign pattern of the neurons at their kink.

Near z, a piecewise linear A G equals A G(z) + f(d), with d the step from z. The hyperplanes of the kinks divide the
steps into cones, and f is linear on each cone. The hyperplane of a neuron depends on the cone in the preceding layers.
The codes near z with the same observation are the steps d with f(d) = 0.

Sign patterns are searched by branch and bound. Let e_j = max(v_j, 0) for the neurons at their kink, whose outputs are
c_j v_j + (1 - c_j) e_j. Then f and the v_j are linear in w = (d, e). An undecided neuron satisfies

.. math:: e_j \ge v_j, \qquad e_j \ge 0.

Deciding its sign means e_j = v_j >= 0 or e_j = 0 with v_j <= 0. The w that satisfy these constraints and f = 0 form a
polyhedral cone. It contains the steps of all patterns that agree with the decided signs.

Source: branch and bound on the signs of ReLUs as in R. Bunel et al., "A unified view of piecewise linear neural network
verification", NeurIPS 2018. Steps have no bounds here, so there is no chord above a ReLU.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from unrelu.lp.polytopes import always_tight, constraints_on, null_space
from unrelu.measurements import Operator
from unrelu.models.network import Layer, Network
from unrelu.runtime.array_types import Array

# Singular values below this share of the largest count as zero. Outputs have rounding errors of eps |y|, eps = 2e-16,
# and |y| is at most about sigma_max |z|. At this share z is therefore uncertain by eps / 1e-10 = 2e-6 of its length. In
# runs it is a tenth of that, as rounding errors spread over all directions. Far below this share, even data exact to
# the last bit do not determine the code to 1e-6.
RANK_TOLERANCE = 1e-10
# Pre-activations below this share of the layer's largest are at the kink. A code found as a vertex of the preimage has
# neurons exactly at the kink, and rounding puts them on either side.
_KINK_TOLERANCE = 1e-7
# If all pre-activations of a layer are below this, in units in which layers have size 1, the largest may be rounding.
_SMALL = 1e-6
# A sum below this many machine epsilons of its terms is zero up to rounding. It must not become a constraint.
_ROUNDING = 64
# The largest numbers of partial sign patterns and of neurons at their kink that are searched. The linear program of a
# pattern takes a millisecond for a few neurons, and half a second for the largest number.
MOST_PATTERNS, MOST_NEURONS = 256, 256


def at_kink(layer: Layer, h: Tensor, u: Tensor) -> Tensor:
    """Find the neurons of a ReLU, LeakyReLU or PReLU whose pre-activation u = W h + b is zero, (B, n)."""
    bent = torch.from_numpy(layer.activation.kinks(layer.n_out))
    largest = u.abs().amax(dim=1, keepdim=True)
    allowed = _KINK_TOLERANCE * largest
    if (largest < _SMALL).any():
        # The rounding error of u is a few machine epsilons of |W| |h| + |b|.
        terms = layer.affine.mapped(lambda _, tensor: tensor.abs()).apply(h.abs())
        allowed = torch.maximum(allowed, _ROUNDING * torch.finfo(u.dtype).eps * terms)
    return bent & (u.abs() <= allowed) & torch.isfinite(largest)


def picks(operator: Operator) -> bool:
    """Check whether A picks outputs, weighted or not.

    Then the neurons of the last layer need no branching. For an observed neuron at its kink, f = 0 means v_j <= 0 if
    its slope is 0, and v_j = 0 otherwise.
    """
    return operator.unweighted.selects


class KinkMap(NamedTuple):
    """The map f near one code as a linear map of w = (d, e), with q entries of e.

    Attributes:
        measured: f(d), transposed, (k + q, m).
        pre: the v_j, (q, k + q).
        below: rows r for which r . w <= 0 under every sign pattern, (s, k + q).
    """

    measured: Tensor
    pre: Array
    below: Array


def kink_map(network: Network, z: Tensor, operator: Operator, outward: Array) -> KinkMap | None:
    """Build A G near a code (1, k) as a map of the step; None if more than MOST_NEURONS neurons are at their kink.

    Args:
        network: G, in double precision.
        z: the code.
        operator: A for this observation.
        outward: outward normals of the code's active bounds, (c, k).
    """
    x, k, picked = z, z.shape[1], picks(operator)
    tangents = torch.eye(k, dtype=z.dtype)
    pre = [torch.zeros(0, k, dtype=z.dtype)]
    below = [torch.from_numpy(outward[outward.any(axis=1)])]
    for layer in network.layers:
        v = _without_rounding(layer.affine.apply(tangents, constant=False))
        u = layer.affine.apply(x)
        kinks = at_kink(layer, x, u)[0]
        x = layer.activation.forward(u)
        factor = layer.activation.derivative(u, x)[0]
        c = torch.from_numpy(layer.activation.slopes(len(kinks)))
        if picked and layer is network.layers[-1]:
            factor = torch.where(kinks, (c != 0).to(v.dtype), factor)
            observed = operator.adjoint(torch.ones_like(operator.forward(x)))[0] > 0
            below.append(v[:, kinks & (c == 0) & observed].T)
            tangents = v * factor
            continue
        tangents = v * torch.where(kinks, c, factor)
        places = torch.nonzero(kinks & v.any(dim=0))[:, 0]
        if len(tangents) + len(places) > k + MOST_NEURONS:
            return None
        pre.append(v[:, places].T)
        own = torch.zeros(len(places), v.shape[1], dtype=v.dtype)
        own[torch.arange(len(places)), places] = 1 - c[places]
        tangents = torch.cat([tangents, own])
    measured = operator.linearize(x, tangents[None])[1][0]
    return KinkMap(measured, _padded(pre, len(tangents)), _padded(below, len(tangents)))


def _without_rounding(v: Tensor) -> Tensor:
    """Replace derivatives of a layer's pre-activations by 0 where they are zero up to rounding."""
    return torch.where(v.abs() > _ROUNDING * torch.finfo(v.dtype).eps * v.abs().max(), v, 0.0)


def _padded(rows: list[Tensor], width: int) -> Array:
    """Join rows of increasing widths to one matrix, padded with zeros."""
    return torch.cat([torch.nn.functional.pad(row, (0, width - row.shape[1])) for row in rows]).numpy()


def solution_cones(around: KinkMap | None, k: int) -> tuple[int, Array]:
    """Find the codes near a code with the same observation, by branch and bound on the signs, inactive signs first.

    Returns:
        The largest dimension of a cone, and an orthonormal basis of its span, (k, dimension). The dimension is -1 if no
        cone of positive dimension was found and some patterns remain undecided.
    """
    best, basis, decided = 0, np.zeros((k, 0)), True
    if around is None or not torch.isfinite(around.measured).all():
        return -1, basis
    size = len(around.measured)
    equal = scipy.linalg.qr(around.measured.numpy().T, mode="r", check_finite=False)[0][:size]
    open_ = [_Pattern(around, equal, np.eye(size), around.below, 0)]
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
        dimension = int(np.linalg.matrix_rank(cone[:k], tol=RANK_TOLERANCE))
        if dimension > best and leaf:
            best, basis = dimension, cone
        elif dimension > best:
            open_ += [pattern.child(active) for active in sides]
    return -1 if (open_ or not decided) and not best else best, basis


class _Pattern(NamedTuple):
    """A partial sign pattern: the signs of the first neurons.

    Attributes:
        around: f.
        equal: rows r with r . w = 0, (., k + q): the triangular factor of ``measured``.
        expand: the map from d and the undecided e to w, (k + q, k + q - decided).
        below: rows r with r . w <= 0, under every sign pattern or because of the decided signs.
        decided: the number of decided neurons.
    """

    around: KinkMap
    equal: Array
    expand: Array
    below: Array
    decided: int

    def child(self, active: bool) -> _Pattern:
        """Return the pattern that also decides the next neuron, as active or inactive."""
        i, k = self.decided, len(self.around.measured) - len(self.around.pre)
        pre, expand = self.around.pre[i], np.delete(self.expand, k, axis=1)
        expand[k + i] = _product(pre[None], expand)[0] if active else 0.0
        below = np.vstack([self.below, -pre if active else pre])
        return self._replace(expand=expand, below=below, decided=i + 1)

    def relaxed(self) -> tuple[Array, list[bool]] | None:
        """Compute a basis of the cone's span, and the signs to try for the next neuron; None if the program failed."""
        pre = self.around.pre[self.decided :]
        e = np.eye(len(self.expand))[len(self.expand) - len(pre) :]
        normals = _product(np.vstack([pre - e, -e, self.below]), self.expand)
        basis = null_space(_product(self.equal, self.expand))
        restricted = constraints_on(normals, basis)
        size = np.linalg.norm(restricted, axis=1)
        tight = size == 0
        if not tight.all():
            found = always_tight(restricted[~tight] / size[~tight, None], np.zeros(int((~tight).sum())))
            if found is None:
                return None
            tight[~tight] = found
            basis = basis @ null_space(restricted[tight])
        # If e = v in the whole cone, the active pattern contains the inactive one; if e = 0, the reverse.
        always_active, always_inactive = tight[:1].any(), tight[len(pre) : len(pre) + 1].any()
        return basis, [True] if always_active else [False] if always_inactive else [True, False]


def _product(rows: Array, expand: Array) -> Array:
    """Multiply ``rows`` by ``expand``, and replace entries that are zero up to rounding by 0.

    The factor of a QR decomposition has errors of eps times the lengths of its columns, not of its entries.
    """
    product, size = rows @ expand, np.linalg.norm(rows, axis=0) @ np.abs(expand)
    return np.where(np.abs(product) > _ROUNDING * np.finfo(np.float64).eps * size, product, 0.0)
