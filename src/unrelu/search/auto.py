"""``auto``: the joint search for the best code of every observation, and its confidence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from unrelu.errors import OptionError
from unrelu.local_search.option_checks import at_least
from unrelu.problem import Problem
from unrelu.result import Inversion
from unrelu.runtime.array_types import Array
from unrelu.search.joint_search import REFINED, JointSearch, by_agreement, flat_confidence
from unrelu.search.learned_prior import LearnedConfidence
from unrelu.thresholds import CONFIDENT, RADIUS


def first_starts(problem: Problem) -> Array:
    """Return the code at which the search of each observation would begin, (B, k): the user's, or the first start."""
    if problem.z0 is not None:
        return problem.z0
    return JointSearch(problem).starts.codes(np.arange(problem.size), 0, 1)[:, 0]


@dataclass(frozen=True)
class Search:
    r"""Independent restarts of descents and perturbations, until the best code found is likely to be the best of all.

    A descent minimises :math:`|y - A G(z)|_2^2 + \lambda |z|_2^2`, first on smoothed generators
    (:mod:`~unrelu.search.descents`). Restarts start from independent draws of the codes given the observation
    (:mod:`~unrelu.search.sample_cache`). Where few restarts agree, they go on by basin hopping: each perturbs its
    code, descends again, and keeps the lower code. The user's codes ``z0`` start further descents, and so does the code
    that ``exact`` finds layer by layer, if no noise is visible and the first restart is no exact fit. These descents do
    not count for the confidence.

    The rule in :mod:`~unrelu.search._stopping_rule` stops a search. The confidence (:mod:`~unrelu.search.confidence`)
    follows from three facts: how many restarts ended at the best objective, up to 1%, how many at the second best, and
    what perturbations of the best restart found. How far to trust them is learned on the generator
    (:mod:`~unrelu.search.learned_prior`), once for each kind of measurement and level of noise. Measurements are drawn
    for the kind, so the confidence does not depend on earlier calls. Learning takes as long as some searches, at most
    thirty restarts of a large generator. If the learned confidence is below 0.9, a search has ten times its budget.

    Where a Jacobian is expensive (:class:`~unrelu.search.sample_cache.SampleCache`), descents are L-BFGS steps without
    smoothing and perturbations, and starts are drawn from :math:`N(0, 0.3^2 I)`. With few coordinates, descents are
    Levenberg-Marquardt steps from the nearest samples, at noise levels that fall to the stated one (tempering).

    The search runs in single precision. If single precision does not resolve an observation of a small dense network,
    its search goes on in double precision. The best code is refined in double precision to first-order optimality,
    also at kinks (:mod:`~unrelu.local_search.refinement`). For l1 and linf, descents in that norm start from it and
    from other local optima (:mod:`~unrelu.search._norm_finish`). CONVERGED then means first-order stationary.

    Args:
        confidence: the search of an observation stops at this confidence.
        rounds: the largest number of rounds, see ``unrelu.search._schedules.ROUNDS``; 0 makes a descent from ``z0``
            alone. None: as many as the budget of the ``Schedule`` there allows. For small dense networks, the budget is
            0.04 seconds of processor time, or 0.4 if an exact fit may exist: no noise is stated, and either none is
            visible or a code leaves less than 1e-4 of ``|y|^2``.
        max_iterations: the largest number of steps of the refinement, each an evaluation of the objective and its
            gradient. None: 3,000. A code not optimal by then is STOPPED.
        max_programs: linear programs of a descent in l1 or linf.
        pool: whether a batch of at least 20 observations estimates its noise level together, if none is stated (l2, no
            prior). An observation whose residual stands out (:func:`~unrelu.result.residual_tests.too_large`) is
            searched further. If it still stands out, it is a ``MISFIT``. Use False for observations that do not
            belong together.
        radius: the confidence is about codes up to this multiple of :math:`\sqrt k`, the length of N(0, I) draws, or up
            to the length of the answer if it is longer. With bounds, it is about all codes within them. A larger radius
            makes it harder to be sure.
        learn: whether the confidence is learned on the generator. If not, agreement never gives a high confidence.
            Nothing is learned for the Huber loss.
        restarts: the least number of restarts, even after an exact fit or at a high confidence. More restarts find more
            ``optima``; the confidence ignores them. 50 distinct answers for a design take ``restarts=50`` or more.

    Raises:
        OptionError: an option has a value it cannot take.
    """

    confidence: float = CONFIDENT
    rounds: int | None = None
    max_iterations: int | None = None
    max_programs: int = 100
    pool: bool = True
    radius: float = RADIUS
    learn: bool = True
    restarts: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence <= 1:
            raise OptionError(f"confidence={self.confidence} must be a probability, above 0 and at most 1")
        if not 0 < self.radius < math.inf:
            raise OptionError(f"radius={self.radius} must be a finite number above 0")
        at_least(0, rounds=self.rounds, restarts=self.restarts)
        at_least(1, max_iterations=self.max_iterations, max_programs=self.max_programs)

    def check(self, problem: Problem) -> None:
        """Raise an error if there is nothing to start from."""
        if self.rounds == 0 and problem.z0 is None:
            raise OptionError("rounds=0 makes no restarts: pass codes to start from, z0=, or rounds of at least 1")

    def __call__(self, problem: Problem) -> Inversion:
        """Search for the best code of every observation."""
        self.check(problem)
        # Noise levels are defined for squares, and two losses passed by users cannot be told apart.
        learns = self.learn and self.rounds != 0 and problem.stated_loss is None
        learned = LearnedConfidence(problem, self.radius) if learns else flat_confidence
        judge = by_agreement if problem.norm == "l1" else learned
        run = JointSearch(problem, judge, self.confidence, self.rounds, self.pool)
        run.search()
        run.make_restarts(self.restarts)
        run.refine(self.max_iterations or REFINED, self.max_programs)
        confidence, found = run.confidence() if self.rounds != 0 else math.nan, run.state
        return Inversion.of(
            problem, found.z, method="auto", status=found.status, nit=found.steps, confidence=confidence,
            pool=self.pool, restarts=found.found(),
        )  # fmt: skip
