r"""Which neuron to decide next.

Deciding an undecided neuron to be on removes the violation f = h - u of its relaxation, deciding it to be off e = h -
c u. The neuron that is far from both comes first. Learning from the gains of earlier decisions (pseudo-costs), with or
without trying the candidates, took as many nodes on the zoo's 20-60-784 network, and more time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unrelu.proofs.program import Program

__all__ = ["missed", "most_violated", "violations"]

Array = npt.NDArray[np.float64]
Signs = npt.NDArray[np.int8]
Flags = npt.NDArray[np.bool_]

# A violation below this share of the largest unknown is rounding.
_AGREES = 1e-9


def violations(program: Program, x: Array, signs: Signs) -> tuple[Array, Array]:
    """f and e of every neuron at a point, (N,) each, 0 where it is decided or agrees with its activation.

    Of outputs whose error is not convex (sums of errors only): what the error exceeds its envelope by, for both.
    """
    relaxation, chain = program.relaxation, program.relaxation.chain
    above, below = np.zeros(len(signs)), np.zeros(len(signs))
    for layer, (u, shift) in enumerate(relaxation.pre[:-1]):
        number = np.arange(chain.ends[layer], chain.ends[layer + 1])
        open_ = relaxation.column[number] >= 0
        number, c = number[open_], chain.slopes[layer][open_]
        h, pre = x[relaxation.column[number]], (u @ x + shift)[open_]
        above[number], below[number] = h - pre, h - c * pre
    small = _AGREES * (1 + float(np.abs(x).max(initial=0.0)))
    if not relaxation.delta:
        u, shift = relaxation.pre[-1]
        start, y, c = chain.ends[-2], chain.y, chain.slopes[-1]
        miss = np.where(chain.bent[start:], (1 - c) * np.minimum(y, y - (u @ x + shift)), 0.0)
        above[start:] = below[start:] = miss
    agrees = (signs != 0) | (np.minimum(above, below) <= small)
    return np.where(agrees, 0.0, above), np.where(agrees, 0.0, below)


def missed(program: Program, x: Array, signs: Signs) -> tuple[Flags, Flags]:
    """Which neurons are not on at a point, and which are not off: sides that may turn out to be empty."""
    above, below = violations(program, x, signs)
    on, off = above > 0, below > 0
    if not program.relaxation.delta:
        u, shift = program.relaxation.pre[-1]
        start, v = program.relaxation.chain.ends[-2], u @ x + shift
        open_ = program.relaxation.chain.bent[start:] & (signs[start:] == 0)
        on[start:], off[start:] = open_ & (v < 0), open_ & (v > 0)
    return on, off


def most_violated(above: Array, below: Array, widths: Array) -> int:
    """The neuron with the largest sqrt(f e), in units of what it does to the next layer; -1 if none is violated.

    Args:
        above, below: f and e.
        widths: of each neuron, the norm of its column in the next layer's weights.
    """
    score = np.sqrt(above * below) * widths
    best = int(np.argmax(score))
    return best if score[best] > 0 else -1
