r"""Sampling the posterior of one observation: warm-up, rounds of draws until chains agree, modes, and evidence.

A round ends with the check of :mod:`~unrelu.posterior.convergence` over all chains. If they do not agree, the mixture is
fitted to the draws, the draws are left out, and the next round makes twice as many transitions for each draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from unrelu.posterior._code_prior import CodePrior
from unrelu.posterior._mixture import Mixture
from unrelu.posterior._starting_mixture import starting_mixture
from unrelu.posterior._target import Target
from unrelu.posterior._transitions import Chains, Transitions
from unrelu.posterior.convergence import bulk_ess, mixed
from unrelu.problem import Problem
from unrelu.result import Status
from unrelu.runtime.array_types import Array, Flags, Integers

# Transitions of the two parts of the warm-up. After each the mixture is fitted to the draws.
_WARM_UP = (60, 140)
# Transitions between rounds, in which the length of steps adapts to the fitted mixture.
_ADAPTED = 40
# The most transitions for each draw.
_MOST_THINNED = 8
# One descent for so many draws of all chains.
_DRAWS_A_START = 8
# Two components belong to one mode if the density on the segment between them is nowhere below a tenth of the lower end.
_DIP, _ALONG, _NEIGHBOURS = np.log(10.0), 9, 5
# The evidence is not stated if it rests on fewer effective draws of the mixture.
_FEWEST_EFFECTIVE = 50.0


@dataclass(frozen=True, eq=False)
class Sample:
    """Draws of one observation.

    Attributes:
        z: codes, (chain, draw, k).
        log_likelihood: (chain, draw).
        mode: the number of the mode of each draw, (chain, draw).
        best: the best code of each mode, (M, k).
        from_prior: which chains began at a draw of the prior, (chain,).
        log_evidence, log_evidence_error: the logarithm of the mean likelihood under the prior, and its standard error.
        acceptance: the mean probability with which trajectories were accepted.
        ended: why sampling was cut short; None if it was not.
    """

    z: Array
    log_likelihood: Array
    mode: Integers
    best: Array
    from_prior: Flags
    log_evidence: float
    log_evidence_error: float
    acceptance: float
    ended: Status | None
