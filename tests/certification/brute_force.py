"""The smallest error over all codes, by SciPy's linear programs, of another form than the package's.

Unknown are z, the output h of every neuron, and the errors. A neuron that is not decided has h >= u and h >= c u; on it
has h = u too, off h = c u. Every sign pattern is searched: a set of them is left only where its program has no
solution, is no better than the best code evaluated, or is solved by a code that has the very h of the program.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

__all__ = ["Brute", "error_at", "layers_of", "optimum"]

_TOLERANCE = 1e-9
_EXACTLY = {"presolve": False, "primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def layers_of(net):
    """(W, b, c) of every layer, from the network's own matrices."""
    return [
        (np.asarray(layer.matrix()), layer.bias(), np.broadcast_to(layer.activation.slope, layer.bias().shape))
        for layer in net.layers
    ]


def error_at(layers, y, z, norm):
    """F(z), the layers applied one after the other."""
    h = np.asarray(z, dtype=np.float64)
    for weight, bias, slope in layers:
        u = weight @ h + bias
        h = np.where(u > 0, u, slope * u)
    errors = np.abs(y - h)
    return float(errors.max() if norm == "linf" else errors.sum())


def optimum(layers, y, norm, start=np.inf, radius=np.inf, bounds=None):
    """(lower, upper) of min F over |z_i| <= radius, or within ``bounds``: by the programs, and of the best code.

    They are equal but for tolerances. ``start`` is F of some code, if one is known.
    """
    search = Brute(layers, y, norm, (-radius, radius) if bounds is None else bounds)
    search.best = start
    search.explore({})
    return min(search.lowest, search.best), search.best


class Brute:
    """The programs of one observation: rows matrix x >= low, those of h - u and h - c u of each neuron first."""

    def __init__(self, layers, y, norm, bounds=(-np.inf, np.inf)):
        self.layers, self.y, self.norm, self.k = layers, y, norm, layers[0][0].shape[1]
        self.best, self.lowest = np.inf, np.inf
        self.slopes = np.concatenate([slope for _, _, slope in layers])
        count, sums, m = len(self.slopes), 1 if norm == "linf" else len(y), len(y)
        n = self.k + count + sums
        above, below, at, before = [], [], self.k, np.eye(self.k, n)
        for weight, _, slope in layers:
            h = np.eye(len(weight), n, at)
            above.append(h - weight @ before)
            below.append(h - slope[:, None] * (weight @ before))
            at, before = at + len(weight), h
        error = np.eye(m, n, n - m) if sums == m else np.tile(np.eye(1, n, n - 1), (m, 1))
        biases = np.concatenate([bias for _, bias, _ in layers])
        self.matrix = np.vstack([*above, *below, error + before, error - before])
        self.low = np.concatenate([biases, self.slopes * biases, y, -y])
        self.cost = np.repeat([0.0, 1.0], [n - sums, sums])
        ends = [np.broadcast_to(end, self.k) for end in bounds]
        self.bounds = np.stack([np.append(ends[0], np.full(n - self.k, -np.inf)),
                                np.append(ends[1], np.full(n - self.k, np.inf))], axis=1)  # fmt: skip

    def solve(self, signs, cost=None):
        """The objective and x of a set of patterns, given by the signs of some neurons; None if it is empty."""
        count = len(self.slopes)
        sign = np.array([signs.get(i, 1 if self.slopes[i] == 1 else 0) for i in range(count)])
        fixed = np.concatenate([sign > 0, sign < 0, np.zeros(2 * len(self.y), dtype=bool)])
        found = linprog(
            self.cost if cost is None else cost, -self.matrix[~fixed], -self.low[~fixed],
            self.matrix[fixed] if fixed.any() else None, self.low[fixed] if fixed.any() else None, self.bounds,
            "highs-ds", options=_EXACTLY,
        )  # fmt: skip
        assert found.status in (0, 2), found.message
        return None if found.status == 2 else (found.fun, found.x)

    def explore(self, signs):
        """Search a set of patterns."""
        point = self.solve(signs)
        if point is None:
            return
        value, x = point
        self.best = min(self.best, error_at(self.layers, self.y, x[: self.k], self.norm))
        excess = (self.matrix @ x - self.low)[: 2 * len(self.slopes)].reshape(2, -1).min(axis=0)
        excess[list(signs)] = 0.0
        neuron = int(np.argmax(excess))
        if value >= self.best - _TOLERANCE * max(1.0, self.best) or excess[neuron] <= _TOLERANCE:
            self.lowest = min(self.lowest, value)
            return
        for sign in (1, -1):
            self.explore({**signs, neuron: sign})
