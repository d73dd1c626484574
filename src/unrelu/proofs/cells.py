"""The best code with the signs of a given one: exact, by one small linear program after another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unrelu.proofs.chain import Chain
from unrelu.proofs.program import Program
from unrelu.proofs.relaxation import Relaxation, level_set
from unrelu.proofs.safe_bounds import Region

__all__ = ["best_in_cell"]

Array = npt.NDArray[np.float64]

# Programs at most, and the share of F that is not worth another one.
_ROUNDS, _ENOUGH = 40, 1e-9


def best_in_cell(chain: Chain, z: Array) -> Array:
    """A code with no larger F than z, the best one at which the hidden neurons have the signs that they have at z.

    F is quasi-convex there for the largest error: the program at level t finds a code below t or that there is none.
    The level is the best F so far, and halfway to the program's bound while that leaves something to be gained. The
    signs of the outputs are part of the cell for the sum of errors.
    """
    signs = np.concatenate([np.where(u > 0, 1, -1) for u in chain.pre_activations(z)]).astype(np.int8)
    if chain.norm == "linf":
        signs[chain.ends[-2] :] = 0
    best, value, least = z, chain.objective(z), 0.0
    level = value
    for _ in range(_ROUNDS):
        if level <= 0 or value - least <= _ENOUGH * value:
            break
        low, high = np.full(chain.ends[-1], -np.inf), np.full(chain.ends[-1], np.inf)
        low[chain.ends[-2] :], high[chain.ends[-2] :] = level_set(chain, level)
        relaxation = Relaxation(chain, Region(low, high, np.inf), signs)
        solved = Program(relaxation).solve(signs, cutoff=level)
        least = max(least, min(solved.value, level))
        if not solved.closed and solved.finished:
            trial = solved.x[: chain.latent_dim]
            reached = chain.objective(trial)
            if reached < value:
                best, value = trial.copy(), reached
        level = value if value < level else (value + least) / 2
    return best
