r"""Noise that moves the code found by ``linf`` or ``l1`` as far as we can make it: what error bounds have to cover.

**Another code.** With :math:`e = J v` the observation is exactly the output of :math:`z^* + v`, as long as no ReLU
switches, so every method is off by v. The v that J extends least gives an error of :math:`|e| / c(J)`, where a bound
for one layer says :math:`2 |e| / c`. The factor of 2 can be gained as well:

- in the largest error, :math:`e = \mathrm{clip}(s J v \pm (s - 1))`, s from 1 to 2, stays in its box while
  :math:`z^* + s v` fits it to :math:`s - 1`; with random signs in the rows that :math:`J v` moves little, no code fits
  better, as enough random rows have 0 in their convex hull;
- in the sum of errors, e is J v in rows that have just more than half of :math:`|J v|_1`, and 0 elsewhere. The majority
  wins.

**Another hidden layer.** A layer-wise method is led astray by :math:`e = W_d u` as well, for a u that the layers before
cannot produce. With P the pseudo-inverse of their Jacobian it answers with about :math:`P u`, and a linear program
finds the u with the largest coordinate of that.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unrelu.lp.highs import LinearProgram, solve
from unrelu.lp.lp_status import LpStatus
from unrelu.models.network import Network
from unrelu_studies.paper.theory import c_1, c_inf

Array = npt.NDArray[np.float64]

_STRETCHES = (1.0, 1.2, 1.4, 1.6, 1.8)
_DRAWS = 4  # of the random signs, for the other code
_MAJORITY = 0.51
_ORDERS = 3  # random sets of rows, beside those with the largest and the smallest entries


def attacks(network: Network, z: Array, norm: str, rng: np.random.Generator) -> Array:
    """Candidates for the worst noise of size 1 in ``norm``, "linf" or "l1", (A, n), computed as if no ReLU switched.

    Rows of the pseudo-inverse of the Jacobian are among them: their signs are the worst noise for least squares.
    """
    jacobian = network.jacobian(z[None]).reshape(-1, len(z))
    on = np.abs(jacobian).sum(axis=1) > 0
    least = (c_inf if norm == "linf" else c_1)(jacobian[on]).v
    images = [*[jacobian @ least] * _DRAWS, *_hidden(network, z, on, norm)]
    if norm == "linf":
        found = [image for j in images for image in _stretched(j, on, rng)]
        inverse = np.zeros((len(z), len(on)))
        inverse[:, on] = np.sign(np.linalg.pinv(jacobian[on]))
        found += list(inverse)
    else:
        found = [image for j in images for image in _majorities(j, rng)]
    sizes = [np.abs(e).max() if norm == "linf" else np.abs(e).sum() for e in found]
    return np.array([e / size for e, size in zip(found, sizes, strict=True) if size > 0])


def _stretched(image: Array, on: npt.NDArray[np.bool_], rng: np.random.Generator) -> list[Array]:
    """clip(s J v + (s - 1) r) with random signs r, only where the output is on."""
    unit = image / np.abs(image).max()
    signs = rng.choice((-1.0, 1.0), len(unit))
    return [on * np.clip(s * unit + (s - 1) * signs, -1, 1) for s in _STRETCHES]


def _majorities(image: Array, rng: np.random.Generator) -> list[Array]:
    """J v, whole and in sets of rows that have just more than half of its sum."""
    size = np.abs(image)
    descending = np.argsort(-size, kind="stable")
    orders = [descending, descending[::-1], *(rng.permutation(len(size)) for _ in range(_ORDERS))]
    found = [image]
    for order in orders:
        count = int(np.searchsorted(np.cumsum(size[order]), _MAJORITY * size.sum())) + 1
        part = np.zeros_like(image)
        part[order[:count]] = image[order[:count]]
        found.append(part)
    return found


def _hidden(network: Network, z: Array, on: npt.NDArray[np.bool_], norm: str) -> list[Array]:
    """W_d u of the hidden layers h* + u that move the code furthest, one for each coordinate."""
    if len(network.layers) == 1:
        return []
    before = Network(network.layers[:-1], network.latent_shape)
    jacobian = before.jacobian(z[None]).reshape(-1, len(z))
    active = np.abs(jacobian).sum(axis=1) > 0
    inverse = np.zeros(jacobian.T.shape)
    inverse[:, active] = np.linalg.pinv(jacobian[active])
    matrix = np.asarray(network.layers[-1].matrix())
    found = []
    for goal in inverse:
        u = _furthest(matrix[on], goal, active, norm)
        if u is not None:
            found.append(on * (matrix @ u))
    return found


def _furthest(w: Array, goal: Array, free: npt.NDArray[np.bool_], norm: str) -> Array | None:
    """The u with the largest goal . u and |W u| <= 1; what is not free is at least 0, as a hidden layer that is off."""
    m, k = w.shape
    low, ones = np.where(free, -np.inf, 0.0), np.ones(m)
    if norm == "linf":
        program = LinearProgram(-goal, sparse.csc_array(w), -ones, ones, low, np.full(k, np.inf))
    else:
        # -t <= W u <= t, sum t <= 1.
        eye = np.eye(m)
        above = np.block([[w, -eye], [-w, -eye], [np.zeros((1, k)), np.ones((1, m))]])
        program = LinearProgram(
            cost=np.append(-goal, np.zeros(m)),
            matrix=sparse.csc_array(above),
            row_lower=np.full(2 * m + 1, -np.inf),
            row_upper=np.append(np.zeros(2 * m), 1.0),
            col_lower=np.append(low, np.zeros(m)),
            col_upper=np.full(k + m, np.inf),
        )
    solution = solve(program)
    return solution.x[:k] if solution.status is LpStatus.OPTIMAL else None
