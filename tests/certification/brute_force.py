"""The smallest error over all codes, by linear programs of another form than the package's, solved by HiGHS.

Unknown are z, the output h of every neuron, and the errors. A neuron that is not decided has h >= u and h >= c u; on it
has h = u too, off h = c u. Every sign pattern is searched: a set of them is left only where its program has no
solution, is no better than the best code evaluated, or is solved by a code that has the very h of the program.
"""

from __future__ import annotations

from dataclasses import dataclass

import highspy
import numpy as np

__all__ = ["Brute", "error_at", "layers_of", "optimum"]

_TOLERANCE = 1e-9


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

    They are equal but for tolerances.

    Args:
        start: F of some code, if one is known.
        bounds: (lower, upper) of z, (k,) each.
    """
    search = Brute(layers, y, norm, (-radius, radius) if bounds is None else bounds)
    search.best = start
    search.explore({})
    return min(search.lowest, search.best), search.best


@dataclass(frozen=True)
class Point:
    """A solution: the objective, z, and what each neuron has too much, (N,)."""

    value: float
    z: np.ndarray
    excess: np.ndarray


class Brute:
    """One model; decisions are changes of its rows' upper sides."""

    def __init__(self, layers, y, norm, bounds=(-np.inf, np.inf)):
        self.layers, self.y, self.norm, self.k = layers, y, norm, layers[0][0].shape[1]
        self.best, self.lowest, self.solved = np.inf, np.inf, 0
        self.slopes = np.concatenate([slope for _, _, slope in layers])
        sums = 1 if norm == "linf" else len(y)
        self.n = self.k + len(self.slopes) + sums
        self.above, self.below, self.sides, self.under = self._neurons()
        errors, levels = self._errors(sums)
        self.model = _model(
            np.vstack([self.above, self.below, errors]),
            np.concatenate([self.sides, self.under, levels]),
            np.concatenate([np.zeros(self.n - sums), np.ones(sums)]),
            np.concatenate([np.broadcast_to(bounds[0], self.k), np.full(self.n - self.k, -np.inf)]),
            np.concatenate([np.broadcast_to(bounds[1], self.k), np.full(self.n - self.k, np.inf)]),
        )

    def _neurons(self):
        """Rows h - u >= b and h - c u >= c b of every neuron."""
        above, below, sides, under, at, before = [], [], [], [], self.k, slice(0, self.k)
        for weight, bias, slope in self.layers:
            h = np.zeros((len(bias), self.n))
            h[:, at : at + len(bias)] = np.eye(len(bias))
            u = np.zeros((len(bias), self.n))
            u[:, before] = weight
            above.append(h - u)
            below.append(h - slope[:, None] * u)
            sides.append(bias)
            under.append(slope * bias)
            before, at = slice(at, at + len(bias)), at + len(bias)
        self.outputs = before
        return np.vstack(above), np.vstack(below), np.concatenate(sides), np.concatenate(under)

    def _errors(self, sums):
        rows = np.zeros((2 * len(self.y), self.n))
        for j in range(len(self.y)):
            at = self.n - sums + (j if sums > 1 or len(self.y) == 1 else 0)
            rows[2 * j, [self.outputs.start + j, at]] = 1.0
            rows[2 * j + 1, [self.outputs.start + j, at]] = -1.0, 1.0
        return rows, np.stack([self.y, -self.y], axis=1).reshape(-1)

    def solve(self, signs):
        """The point of a set of patterns, given by the signs of some neurons; None if it is empty."""
        count = len(self.slopes)
        for neuron in range(count):
            sign = signs.get(neuron, 1 if self.slopes[neuron] == 1 else 0)
            for row, side, fixed in ((neuron, self.sides, sign > 0), (count + neuron, self.under, sign < 0)):
                low = side[neuron]
                self.model.changeRowBounds(row, low, low if fixed else np.inf)
        self.solved += 1
        status = self._run()
        if status == highspy.HighsModelStatus.kInfeasible:
            return None
        assert status == highspy.HighsModelStatus.kOptimal, status
        x = np.array(self.model.getSolution().col_value)
        excess = np.minimum(self.above @ x - self.sides, self.below @ x - self.under)
        excess[list(signs)] = 0.0
        return Point(self.model.getInfo().objective_function_value, x[: self.k], np.maximum(excess, 0.0))

    def _run(self):
        """The model's status; where the last basis leads nowhere, from scratch and with the usual tolerances."""
        known = (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kInfeasible)
        for tolerance in (1e-10, 1e-9, 1e-7):
            for name in ("primal_feasibility_tolerance", "dual_feasibility_tolerance"):
                self.model.setOptionValue(name, tolerance)
            self.model.run()
            if self.model.getModelStatus() in known:
                break
            self.model.clearSolver()
        return self.model.getModelStatus()

    def explore(self, signs):
        """Search a set of patterns."""
        point = self.solve(signs)
        if point is None:
            return
        self.best = min(self.best, error_at(self.layers, self.y, point.z, self.norm))
        if point.value >= self.best - _TOLERANCE * max(1.0, self.best):
            self.lowest = min(self.lowest, point.value)
            return
        neuron = int(np.argmax(point.excess))
        if point.excess[neuron] <= _TOLERANCE:
            self.lowest = min(self.lowest, point.value)
            return
        for sign in (1, -1):
            self.explore({**signs, neuron: sign})


def _model(matrix, low, cost, lower, upper):
    model = highspy.Highs()
    for option, value in (
        ("output_flag", False), ("presolve", "off"), ("threads", 1),
        ("primal_feasibility_tolerance", 1e-10), ("dual_feasibility_tolerance", 1e-10),
    ):  # fmt: skip
        assert model.setOptionValue(option, value) == highspy.HighsStatus.kOk
    program = highspy.HighsLp()
    program.num_row_, program.num_col_ = matrix.shape
    program.col_cost_, program.col_lower_, program.col_upper_ = cost, lower, upper
    program.row_lower_, program.row_upper_ = low, np.full(len(low), np.inf)
    row, column = np.nonzero(matrix)
    program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    program.a_matrix_.start_ = np.concatenate([[0], np.cumsum((matrix != 0).sum(axis=1))])
    program.a_matrix_.index_, program.a_matrix_.value_ = column, matrix[row, column]
    assert model.passModel(program) == highspy.HighsStatus.kOk
    return model
