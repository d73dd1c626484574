"""``auto``: the joint search for the best code of every observation, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

from unrelu.errors import OptionError
from unrelu.local_search.option_checks import at_least
from unrelu.problem import Problem
from unrelu.result import Inversion
from unrelu.search._joint_search import JointSearch, by_agreement, flat_confidence
from unrelu.search.learned_prior import LearnedConfidence


@dataclass(frozen=True)
class Search:
    r"""Independent restarts of descents and perturbations, until it is sure enough that the best of them is the best.

    One descent goes down :math:`|y - A G(z)|_2^2 + \lambda |z|_2^2` by Levenberg-Marquardt with a smoothing homotopy:
    one step each on smoothed generators, less and less smooth, then steps on the exact one. Restarts start
    from independent draws of the codes that 4,096 samples of the generator suggest for this observation
    (:class:`~unrelu.search._search_starts.SearchStarts`). Where few of them agree, they go on by basin hopping: each
    perturbs its code, by a tenth of its length to ten times that, descends again, and keeps what is lower. The codes
    ``z0`` of the user start further descents, which are no evidence of anything. So does the code of ``exact``, layer
    by layer, where there is no visible noise and the first restart is no exact fit.

    An observation is finished when its code fits exactly, when its confidence is reached, or after all rounds
    (:mod:`~unrelu.search._stopping_rule`). The confidence follows from how many restarts ended at the best objective,
    to 1%, and where the others did (:mod:`~unrelu.search.confidence`). How far agreement can be trusted is learned on
    the generator, at the first search with a measurement and a level of noise, from simulated observations
    (:mod:`~unrelu.search.learned_prior`); that takes about a second, and is kept for other processes.

    The search runs in single precision; its best code is refined in double precision to first-order optimality, at
    kinks by the one-sided derivatives (:mod:`~unrelu.local_search.refinement`). For l1 and linf that code is
    where :class:`~unrelu.local_search.norm_descent.NormDescent` starts, beside a reweighted (l1) and a layer-wise one,
    and, where uniform noise does not explain what it comes to, codes of other local optima; of a generator without
    known layers the l2 code is returned.

    Args:
        confidence: the search of an observation stops when it has this confidence.
        rounds: at most, see :data:`~unrelu.search._stopping_rule.ROUNDS`. None: as many as end within 0.04 seconds of
            the processor, 0.12 where no noise is visible, and what is left goes to perturbations of the best restart;
            where descents are not compiled, fewer.
        max_iterations: steps of the refinement at most, each an evaluation of the objective and its gradient. None:
            3,000, of large generators 1,000. A code that is not at an optimum by then is an ITERATION_LIMIT.
        max_programs: linear programs of a descent in l1 or linf.
        pool: whether the observations of a batch of at least 20 tell their noise level together, where none is stated
            (l2, no prior). An observation whose residual stands out from it
            (:func:`~unrelu.measurements.pooled_noise.too_large`) is searched again until it does not, or through all
            rounds, and is an ``OUTLIER`` if it still does. False for observations that do not belong together.
        learn: whether the confidence is learned on the generator. Without, no agreement makes sure.

    Raises:
        OptionError: an option has a value it cannot take.
    """

    confidence: float = 0.99
    rounds: int | None = None
    max_iterations: int | None = None
    max_programs: int = 100
    pool: bool = True
    learn: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.confidence <= 1:
            raise OptionError(f"confidence={self.confidence} is a probability, above 0 and at most 1")
        at_least(1, rounds=self.rounds, max_iterations=self.max_iterations, max_programs=self.max_programs)

    def __call__(self, problem: Problem) -> Inversion:
        """Search for the best code of every observation."""
        learned = LearnedConfidence(problem) if self.learn else flat_confidence
        judge = by_agreement if problem.norm == "l1" else learned
        run = JointSearch(problem, judge, self.confidence, self.rounds, self.pool)
        run.search()
        z, status = run.refined(self.max_iterations, self.max_programs)
        return Inversion.of(
            problem, z, method="auto", status=status, nit=run.steps, confidence=run.confidence(), pool=self.pool
        )
