"""Random and degenerate layer programs at all scales through the public methods: is any answer wrongly called optimal?

    python fuzz/programs.py [--quick] [--seed N] --output FILE

Half of them are layers, given to the layer methods: one of ``degenerate_layers`` with its weights, biases and
data times 10^p and its input times 10^q, p from -7 to 7 and q from -5 to 5, or powers of two near these. What comes
back is compared, in the instance's own units, with what scipy.optimize.linprog finds for the same program (``linf``,
``l1``, ``relaxed``), with what scipy.optimize.lsq_linear finds (``least_squares``) or with the output (``exact``).
The other half are networks of one to three layers with every activation, each layer in units of its own,
given to ``unrelu.invert``, which brings them to working units; what is called an exact fit, or explained by uniform
noise, is evaluated again in extended precision.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.optimize import linprog, lsq_linear

import unrelu
from unrelu.errors import UnreluError
from unrelu.layerwise import L1, Exact, LayerSystem, LeastSquares, LInf, Relaxed, rows
from unrelu.models.activations import Activation
from unrelu.result import Status
from unrelu.runtime.streams import stream

sys.path[:0] = [str(Path(__file__).parent)]
from degenerate_layers import KINDS, instance, reference  # noqa: E402 - scripts are no package
from fuzzing import run_fuzzer  # noqa: E402

METHODS = {"exact": Exact, "linf": LInf, "l1": L1, "relaxed": Relaxed, "least_squares": LeastSquares}
ACTIVATIONS = ("relu", "leaky_relu:0.1", "identity", "sigmoid", "tanh", "prelu")
# Of each method, as a layer and as a network: 100,000 in all.
PROGRAMS, QUICK_PROGRAMS = 10_000, 30
SLOW = 5.0
CLAIMED = (Status.CONVERGED, Status.EXACT_FIT, Status.NOT_UNIQUE)
# Objectives are not compared below this share of the data, and not closer than the second number to each other.
FLOOR, SAME = 1e-8, 1e-6


# --- layers -----------------------------------------------------------------------------------------------------------


def layer_program(name, rng):
    """Seconds, and what became of one layer program."""
    system, asked = instance(str(rng.choice(KINDS)), rng)
    # Powers of two near those of ten: rounded weights of nearly equal columns would be another program.
    f, g = 2.0 ** (rng.integers(-498, 499) // 20), 2.0 ** (rng.integers(-332, 333) // 20)
    scaled = LayerSystem(
        system.matrix * (f / g), system.bias * f, system.activation, system.lower * g, system.upper * g
    )
    threshold = asked.threshold * f if rng.random() < 0.5 else None
    begin = time.perf_counter()
    try:
        found = METHODS[name]()(scaled, asked.target * f, threshold, 4 * SLOW)
    except UnreluError:
        return time.perf_counter() - begin, "named error"
    seconds = time.perf_counter() - begin
    if found.status not in CLAIMED:
        return seconds, "says so"
    # Objectives in squares of the output's unit may be beyond the largest double, which is infinite, and true.
    if not np.isfinite(found.h).all() or np.isnan(found.objective):
        return seconds, "NaN with success"
    eps = max(found.threshold / f, np.finfo(float).tiny)
    return seconds, WRONG[name](system, rows(system, asked.target, eps), found.h / g)


def of_exact(system, asked, h):
    """Whether the output at h is x."""
    error = np.abs(system.value(h) - asked.target).max(initial=0.0)
    return "agrees" if error <= SAME * max(asked.scale, np.finfo(float).tiny) else "wrongly optimal"


def of_errors(norm):
    """The judge of a norm: whether linprog's point has smaller errors."""

    def judge(system, asked, h):
        errors = asked.violation(system.matrix @ h)
        ours = float(errors.max() if norm == "linf" else errors.sum())
        floor = FLOOR * asked.scale
        if ours <= max(floor, np.finfo(float).tiny):
            return "agrees"
        best = reference(system, asked, norm, h, ours / (1 if norm == "linf" else len(errors)))
        if best is None:
            return "no reference"
        return "agrees" if ours - best <= SAME * max(ours, floor) else "wrongly optimal"

    return judge


def of_relaxed(system, asked, h):
    """max c.(W h) subject to W h <= side; linprog's own inexactness is allowed for.

    Its point may pass the sides, for which its multipliers y say the price, and these leave a residual r = c - W^T y:
    by weak duality it may be better than the optimum by y.(W h' - side) + r.(h' - h).

    Solved in w, h = size (w) / |columns|, with the data and the weights divided by their size.
    """
    up = np.isfinite(asked.high)
    weight = np.where(up, np.abs(asked.target) / asked.high_slope, 0.0)
    side = (asked.high + asked.high_slope * asked.threshold)[up]
    size, largest = float(np.abs(side).max(initial=0.0)), float(weight.max(initial=0.0))
    if not (size > 0 and largest > 0):
        return "agrees"
    matrix, units = system.matrix / system.norms, system.norms / size
    cost = matrix.T @ (weight / largest)
    bounds = list(zip(system.lower * units, system.upper * units, strict=True))
    found = linprog(-cost, matrix[up], side / size, bounds=bounds, method="highs")
    if found.status != 0:
        return "no reference"
    passed = np.maximum(matrix[up] @ found.x - side / size, 0.0)
    left = -cost - matrix[up].T @ found.ineqlin.marginals - found.lower.marginals - found.upper.marginals
    price = (
        float(-found.ineqlin.marginals @ passed)
        + float(np.abs(left) @ np.abs(found.x - h * units))
        + FLOOR * float(weight.sum()) / largest * asked.scale / size
    )
    ours, theirs = float(cost @ (h * units)), -float(found.fun)
    terms = float(np.abs(cost) @ np.abs(h * units))
    return "agrees" if theirs - ours <= SAME * max(abs(theirs), terms) + price else "wrongly optimal"


def of_squares(system, asked, h):
    """The sum of squares against that of scipy.optimize.lsq_linear, with a slack for what a one-sided row may miss.

    Solved around h, and its point is taken with our own sum of squares, so that its own rounding cannot accuse.
    """

    def squares(at):
        errors = asked.violation(system.matrix @ at)
        return float(errors @ errors)

    ours, floor = squares(h), len(asked.target) * (FLOOR * asked.scale) ** 2
    if ours <= max(floor, np.finfo(float).tiny):
        return "agrees"
    if not (np.unique(asked.high_slope).size == np.unique(asked.low_slope).size == 1):
        return "no reference"  # a row with two slopes has no such form
    sigma, wh = np.sqrt(ours), system.matrix @ h
    slack = np.eye(len(wh))[:, ~asked.two_sided]
    side = np.where(np.isfinite(asked.high), asked.high, wh) - wh
    free = np.zeros(slack.shape[1])
    lower = np.concatenate([(system.lower - h) * system.norms / sigma - 1e-300, free])
    upper = np.concatenate([(system.upper - h) * system.norms / sigma + 1e-300, free + np.inf])
    found = lsq_linear(np.hstack([system.matrix / system.norms, slack]), side / sigma, (lower, upper), tol=1e-12)
    theirs = system.inside(h + sigma * found.x[: len(h)] / system.norms)
    best = squares(theirs)
    if not np.isfinite(best):
        return "no reference"
    # Of nearly dependent columns a long h can fit to rounding errors of its own, eps |W| |h|.
    terms = np.abs(system.matrix) @ (np.abs(h) + np.abs(theirs))
    rounding = 2 * sigma * len(h) * np.finfo(float).eps * float(np.linalg.norm(terms))
    return "agrees" if ours - best <= SAME * max(ours, floor) + rounding else "wrongly optimal"


WRONG = {
    "exact": of_exact, "linf": of_errors("linf"), "l1": of_errors("l1"), "relaxed": of_relaxed,
    "least_squares": of_squares,
}  # fmt: skip


# --- networks ---------------------------------------------------------------------------------------------------------


def random_chain(rng):
    """Weights, biases and activations of a network, each layer's output in units of its own."""
    widths = [int(rng.integers(1, 6))]
    weights, biases, activations, unit = [], [], [], 1.0
    depth = int(rng.integers(1, 4))
    for _ in range(depth):
        widths.append(int(rng.integers(1, 3 * widths[-1] + 4)))
        name = str(rng.choice(ACTIVATIONS, p=[0.4, 0.15, 0.15, 0.1, 0.1, 0.1]))
        if name == "prelu":
            activation = Activation("prelu", rng.choice([0.0, 0.25, 1.0], widths[-1]))
        else:
            activation = Activation.parse(name)
        matrix = rng.integers(-2, 3, widths[-1:] + widths[-2:-1]) * 1.0
        if rng.random() < 0.7:
            matrix = rng.standard_normal(matrix.shape) * np.sqrt(2 / widths[-2])
        matrix[rng.random(widths[-1]) < 0.1 * (rng.random() < 0.3)] = 0.0
        after = 1.0 if activation.smooth else 10.0 ** rng.uniform(-150, 150)
        weights.append(matrix * (after / unit))
        biases.append(0.3 * rng.standard_normal(widths[-1]) * after * (rng.random() < 0.6))
        activations.append(activation)
        unit = after
    return weights, biases, activations, unit


def evaluated(weights, biases, activations, z):
    """G(z) in extended precision, whose range is that of the fourth power of a double's."""
    h = np.asarray(z, dtype=np.longdouble)
    for weight, bias, activation in zip(weights, biases, activations, strict=True):
        u = weight.astype(np.longdouble) @ h + bias
        if activation.smooth:
            h = np.tanh(u) if activation.name == "tanh" else 1 / (1 + np.exp(-u))
        else:
            h = np.where(u > 0, u, u * activation.slope.astype(np.longdouble))
    return h


def network_program(name, rng):
    """Seconds, and what became of one network."""
    weights, biases, activations, unit = random_chain(rng)
    steps = [unrelu.from_arrays([w], [b]).layers[0].affine.steps[0] for w, b in zip(weights, biases, strict=True)]
    parts = [part for pair in zip(steps, activations, strict=True) for part in pair]
    network = unrelu.Network.chain(parts, (weights[0].shape[1],))
    x = np.asarray(evaluated(weights, biases, activations, rng.standard_normal(weights[0].shape[1])), dtype=float)
    level = float(rng.choice([0.0, 1e-3, 0.1])) * max(float(np.abs(x).max()), 1e-3 * unit)
    y = x + level * rng.uniform(-1, 1, len(x))
    if rng.random() < 0.15:
        y = rng.choice([0.0, -1.0, 1e-9, 1e9]) * unit * rng.random(len(x))
    noise = f"uniform:{level!r}" if level and rng.random() < 0.5 else None
    begin = time.perf_counter()
    try:
        found = unrelu.invert(network, y, name, noise=noise, scale="none", time_limit=4 * SLOW)
    except UnreluError:
        return time.perf_counter() - begin, "named error"
    seconds = time.perf_counter() - begin
    if not np.isfinite(found.z).all():
        return seconds, "NaN with success" if found.success else "says so"
    error = float(np.abs(y - evaluated(weights, biases, activations, found.z)).max())
    if found.status in (Status.EXACT_FIT, Status.NOT_UNIQUE):
        # Evaluating G in double precision is off by its rounding, relative to the terms of its sums.
        allowed = (
            2
            * float(found.problem.tolerance[0])
            * max(float(np.abs(y).max()), 1e-5 * found.problem.network.typical_output)
        )
        return seconds, "agrees" if error <= allowed else "wrongly optimal"
    if found.status is Status.NOISE_LEVEL:
        return seconds, "agrees" if error <= level * (1 + 1e-6) + 1e-9 * float(np.abs(y).max()) else "wrongly optimal"
    return seconds, "wrongly optimal" if found.success else "says so"


# --- the table --------------------------------------------------------------------------------------------------------


def measure(quick, seed):
    """A row for each method, as a layer and as a network."""
    each, table = QUICK_PROGRAMS if quick else PROGRAMS, []
    for what, program in (("layers", layer_program), ("networks", network_program)):
        for name in METHODS:
            tally, slow, slowest, foreign = Counter(), 0, 0.0, []
            program(name, stream("fuzzed programs, compiling", what, name))
            for i in range(each):
                try:
                    seconds, outcome = program(name, stream("fuzzed programs", seed, what, name, i))
                except Exception as error:  # what is looked for
                    seconds, outcome = 0.0, "foreign exception"
                    foreign.append(f"{i}: {type(error).__name__}: {error}")
                tally[outcome] += 1
                slow, slowest = slow + (seconds > SLOW), max(slowest, seconds)
            table.append({
                "what": f"{what}, {name}", "tried": each, "agree": tally["agrees"],
                "wrongly optimal": tally["wrongly optimal"], "NaN with success": tally["NaN with success"],
                "foreign exceptions": tally["foreign exception"], "over 5 s": slow, "claim nothing": tally["says so"],
                "named errors": tally["named error"], "no reference": tally["no reference"],
                "slowest": round(slowest, 2), "first foreign": foreign[:3],
            })  # fmt: skip
    return table


if __name__ == "__main__":
    run_fuzzer("programs", __doc__, measure, ("wrongly optimal", "NaN with success", "foreign exceptions", "over 5 s"))
