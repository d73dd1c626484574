"""The schedules of searches: the length of each kind of descent, and the budget of an observation.

The numbers below were tuned for the time of a search. :func:`unrelu.search.descents.descents_for` measures the
generator and chooses the schedule. ``TUNE`` below is ``unrelu_studies.kit.families.trained_families.TUNE``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# The number of restarts after each round, and the number of perturbations of each restart. For the same number of
# descents, a few long restarts find as much as many short ones, but many restarts say more about missed optima. Each
# round beyond the last adds _FURTHER restarts.
ROUNDS = (
    (1, 0), (2, 0), (4, 0), (6, 0), (6, 2), (6, 8), (6, 32), (12, 32), (12, 64), (12, 128), (12, 256),
)  # fmt: skip
_FURTHER = 6

# Smoothing schedule: widths, as fractions of the size of a layer's outputs; one step with each.
_WIDTHS = tuple(np.geomspace(1.0, 0.02, 8).tolist())


def effort(rounds: int) -> tuple[int, int]:
    """Return the number of restarts, and of perturbations of each restart, after ``rounds``, which is at least one."""
    restarts, perturbations = ROUNDS[min(max(rounds, 1), len(ROUNDS)) - 1]
    return restarts + _FURTHER * max(0, rounds - len(ROUNDS)), perturbations


@dataclass(frozen=True)
class Schedule:
    """The schedule of one kind of descents: how far they go, and the budget of an observation in their search.

    Attributes:
        widths: the widths of the smoothed generators, each for one step of a descent.
        tempering: the raised levels of noise at which a descent begins, as multiples of the spread of the measurements.
        steps: the most steps after that, on the exact generator at the observation's own level of noise.
        limited_memory: whether descents make L-BFGS steps, because a Jacobian costs too much.
        first: the first round of observations with visible noise. Without noise, one restart may fit exactly.
        last: the largest number of rounds, if the user states none.
        unexplained: the number of further rounds while a far better code may exist.
        hopeless: after this number of rounds, a simulated observation gets further rounds only if its confidence is at
            least 0.8.
        microseconds: the budget of an observation. What is left after all rounds is spent on the best restart.
        more: the factor on this budget if an exact fit may exist, if stated noise does not explain the code, or if the
            learned confidence is below 0.9.
        simulated: the number of simulated observations from which the confidence is learned.
        quick: whether a simulated observation is finished as soon as one restart ends in its best code, see
            :class:`~unrelu.search.learned_prior.Simulation`. On small generators, misfits are excepted.
    """

    widths: tuple[float, ...] = _WIDTHS
    tempering: tuple[float, ...] = ()
    steps: int = 16
    limited_memory: bool = False
    first: int = 3
    last: int = 6
    unexplained: int = 2
    hopeless: int = len(ROUNDS)
    microseconds: float = np.inf
    more: float = 10.0
    simulated: int = 32
    quick: bool = True

    @property
    def large(self) -> bool:
        """Whether the schedule is for large generators."""
        return self.limited_memory or bool(self.tempering)


# Tuned on the decoders of TUNE and the tuning generators of ``unrelu benchmark hard``: the search finds the best codes
# within the budget, and leaves at most half of the observations of the hardest generators without confidence. On
# ill-conditioned emulators an exact fit takes up to 0.4 seconds.
COMPILED = Schedule(first=4, last=len(ROUNDS), hopeless=7, microseconds=4e4, simulated=48, quick=False)
# A descent may cost as much as all restarts of a small dense network. Four restarts are the fewest that can reach a
# confidence of 0.99 if they agree. Where steps take little time, as on small convolutional networks of TUNE, there are
# more. For the gain of a longer search of misfits: studies/notes/search.md, "Opaque generators in units of their own".
BATCH = Schedule(microseconds=1.1e4, simulated=48)
# Nonlinear measurements add optima of their own, so their search makes more restarts, and perturbations.
NONLINEAR = Schedule(last=5)
# Counts add optima too. A strongly smoothed ReLU has larger outputs than the exact one. To fit small counts, a descent
# would turn it off for good, so the smoothing schedule begins at a small width.
COUNTS = Schedule(widths=_WIDTHS[4:])
# A restart takes a tenth of a second or more, and the first few say the most. If the first restarts of all 32 simulated
# observations end in their best optima, four agreeing restarts give a confidence of 0.99. If two miss, it takes six.
LIMITED_MEMORY = Schedule(widths=(), steps=200, limited_memory=True, last=4, unexplained=0)
# With few coordinates, a Jacobian costs little more than a gradient, and saves most of the steps. Such generators are
# mostly ill-conditioned emulators, on which most descents at a low level of noise end far from the best code.
FEW_COORDINATES = Schedule(widths=(), tempering=(0.3, 0.1, 0.03, 0.01), steps=60, first=4, last=4)
