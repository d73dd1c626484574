r"""The peer of our proofs: the same program with binaries for the hidden signs, solved by HiGHS.

Is there a code with an error below a level t? With b_i in {0, 1} for every hidden neuron,

.. math::
    \min \delta \le t, \quad |y_j - v_j| \le \delta \; (y_j \ge t), \quad v_j - \delta \le y_j \; (y_j < t), \quad
    h \ge 0, \; h \ge u, \; h \le u - L (1 - b), \; h \le U b

with u and v the pre-activations of the hidden layers and of the outputs, L <= u <= U. The rows of the outputs are those
of our relaxation. An infeasible program proves that there is none. A solution is a code whose error may exceed its
delta by outputs with y_j < t; the program is then written down again with this error as its level.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from unrelu.certification.bound_propagation import backward_propagation, forward_propagation, region_of
from unrelu.certification.bound_tightening import backward_bounds
from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.proof import GAP
from unrelu.lp.highs import LinearProgram
from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.array_types import Array, Flags
from unrelu_studies.benchmarks.proofs.integer_programs import solve_mip

# L and U hold up to so much more than the error known, as in our search.
_REACH = 1.001


@dataclass(frozen=True, eq=False)
class Mip:
    """A program with integers.

    Attributes:
        program: without the restriction to integers; z comes first, then all h, all b, and delta.
        integral: which unknowns are binary.
    """

    program: LinearProgram
    integral: Flags


@dataclass(frozen=True)
class MipRun:
    """What HiGHS found.

    Attributes:
        status: OPTIMAL where the gap is closed, else what stopped it.
        seconds: of the processor for all solves, without writing the programs down.
        lower: no code has a smaller error, by the word of the solver.
        upper: the error of the best code, recomputed.
        nodes: of its trees.
        programs: solved, one for each level.
    """

    status: str
    seconds: float
    lower: float
    upper: float
    nodes: int
    programs: int


def intervals(chain: CertifiedChain, level: float, box: float = math.inf) -> tuple[Array, Array, float]:
    """L and U of every hidden neuron, and a bound of |z_i|, for codes with F < level and |z_i| <= box.

    From what our search proves first: how large hidden outputs and codes can be.
    """
    lemmas = backward_bounds(chain, level)
    radius = min(box, region_of(chain, level, lemmas).full.radius)
    region = forward_propagation(chain, replace(backward_propagation(chain, level, lemmas), radius=radius))
    hidden = slice(0, int(chain.ends[-2]))
    return region.low[hidden], region.high[hidden], radius


def mip(chain: CertifiedChain, level: float, low: Array, high: Array, radius: float) -> Mip:
    """The program of the largest error of a chain of ReLU layers; see the module.

    Args:
        chain: the observation.
        level: t.
        low, high: L and U, (hidden neurons,).
        radius: a bound of every |z_i|.
    """
    k, hidden = chain.latent_dim, int(chain.ends[-2])
    total = k + 2 * hidden + 1
    rows: list[tuple[Array, Array, Array]] = []
    before = slice(0, k)
    for layer, (weight, bias) in enumerate(zip(chain.weights[:-1], chain.biases[:-1], strict=True)):
        n, begin = len(bias), int(chain.ends[layer])
        u = np.zeros((n, total))
        u[:, before] = weight
        h, b = np.eye(n, total, k + begin), np.eye(n, total, k + hidden + begin)
        least, most, free = low[begin : begin + n], high[begin : begin + n], np.full(n, np.inf)
        rows += [
            (h - u, bias, free),
            (h - u - least[:, None] * b, -free, bias - least),
            (h - most[:, None] * b, -free, np.zeros(n)),
        ]
        before = slice(k + begin, k + begin + n)
    bright = chain.y >= level
    side, free = chain.y - chain.biases[-1], np.full(len(chain.y), np.inf)
    v = np.zeros((len(side), total))
    v[:, before] = chain.weights[-1]
    delta = np.eye(1, total, total - 1)
    rows += [(v - delta, -free, side), ((v + delta)[bright], side[bright], free[bright])]
    matrix, row_low, row_high = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    integral = np.zeros(total, dtype=bool)
    integral[k + hidden : -1] = True
    ends = np.full(k, radius), np.maximum(high, 0.0), np.ones(hidden), np.array([level])
    # No output is negative, so that no error is below -y_j.
    floor = np.array([max(0.0, -float(chain.y.min()))])
    program = LinearProgram(
        delta[0],
        sparse.csc_array(matrix),
        row_low,
        row_high,
        np.concatenate([-ends[0], np.zeros(2 * hidden), floor]),
        np.concatenate(ends),
    )
    return Mip(program, integral)


def prove_by_mip(chain: CertifiedChain, z: Array, time_limit: float, box: float = math.inf) -> MipRun:
    """Bound the smallest error as our search does, by HiGHS.

    Args:
        chain: the observation.
        z: the code that was found, (k,).
        time_limit: of all solves, in seconds of the clock.
        box: codes with a larger |z_i| are left out.
    """
    upper = chain.objective(z)
    bounds = intervals(chain, _REACH * upper, box)
    elapsed, spent, nodes, programs, lower = 0.0, 0.0, 0, 0, 0.0
    while True:
        level = upper * (1 - GAP / 2)
        written = mip(chain, level, *bounds)
        began, begin = time.perf_counter(), time.process_time()
        found = solve_mip(written.program, written.integral, max(0.0, time_limit - elapsed), GAP / 2)
        elapsed += time.perf_counter() - began
        spent += time.process_time() - begin
        nodes, programs = nodes + found.nodes, programs + 1
        if found.status is LpStatus.INFEASIBLE:
            return MipRun("OPTIMAL", spent, max(lower, level), upper, nodes, programs)
        if math.isfinite(found.bound):
            lower = max(lower, min(found.bound, level))
        before = upper
        if np.isfinite(found.x).all():
            upper = min(upper, chain.objective(found.x[: chain.latent_dim]))
        if upper - lower <= GAP * upper:
            return MipRun("OPTIMAL", spent, lower, upper, nodes, programs)
        if found.status is not LpStatus.OPTIMAL or upper >= before:
            status = "ROUNDING" if found.status is LpStatus.OPTIMAL else found.status.name
            return MipRun(status, spent, lower, upper, nodes, programs)
