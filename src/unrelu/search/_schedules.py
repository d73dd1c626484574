"""The schedules of searches: how far descents of each kind go, and what an observation may cost.

What was tuned on the time of a search is here; :func:`unrelu.search.descents.descents_for` chooses the schedule by
what is measured on the generator. ``TUNE`` below is ``unrelu_studies.kit.families.trained_families.TUNE``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# The number of restarts, and of perturbations of each, after each round. For the same number of descents, few long
# restarts find as much as many short ones, but many say more about what was missed. Each round beyond the last adds
# _FURTHER restarts.
ROUNDS = (
    (1, 0), (2, 0), (4, 0), (6, 0), (6, 2), (6, 8), (6, 32), (12, 32), (12, 64), (12, 128), (12, 256),
)  # fmt: skip
_FURTHER = 6

# Smoothing schedule: widths, as fractions of the size of a layer's outputs; one step with each.
_WIDTHS = tuple(np.geomspace(1.0, 0.02, 8).tolist())


def effort(rounds: int) -> tuple[int, int]:
    """The number of restarts, and of perturbations of each, after ``rounds``, at least one."""
    restarts, perturbations = ROUNDS[min(max(rounds, 1), len(ROUNDS)) - 1]
    return restarts + _FURTHER * max(0, rounds - len(ROUNDS)), perturbations


@dataclass(frozen=True)
class Schedule:
    """How far descents of one kind go, and the budget of an observation in a search with them.

    Attributes:
        widths: the widths of the smoothed generators, each for one step of a descent.
        tempering: the raised levels of noise at which a descent begins, as multiples of the spread of the measurements.
        steps: the most steps on the exact generator, at its own level of noise, after those.
        limited_memory: whether steps are L-BFGS steps, since a Jacobian costs too much.
        first: the round that observations with visible noise begin with. Without noise, one restart may fit exactly.
        last: the largest number of rounds, if the user states none.
        unexplained: the number of further rounds while a far better code may exist.
        hopeless: after this number of rounds, further ones of a simulated observation are made only at a confidence of
            at least 0.8.
        microseconds: the budget of an observation. The rest after all rounds is spent on the best restart.
        more: the factor of that budget while an exact fit may exist, stated noise does not explain the code, or the
            confidence that was learned is below 0.9.
        simulated: the number of simulated observations from which the confidence is learned.
        quick: whether simulated observations, of small generators those without misfits, are finished when one restart
            ends in their best code, see :class:`~unrelu.search.learned_prior.Simulation`.
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
        """Whether it is for large generators."""
        return self.limited_memory or bool(self.tempering)


# Tuned on the decoders of TUNE and the generators to tune on of ``unrelu benchmark hard``: the best codes are found
# within the budget, and at most half of the observations of the hardest generators are left without confidence. On
# ill-conditioned emulators an exact fit takes up to 0.4 seconds.
COMPILED = Schedule(first=4, last=len(ROUNDS), hopeless=7, microseconds=4e4, simulated=48, quick=False)
# A descent may cost as much as all restarts of a small dense network. There are four restarts, the fewest that can have
# a confidence of 0.99 if they agree, and more where steps take little time, as on small convolutional networks of TUNE.
# What a longer search of misfits is worth: studies/notes/search.md, "Opaque generators in units of their own".
BATCH = Schedule(microseconds=1.1e4, simulated=48)
# Measurements that are not linear add optima of their own, so there are more restarts, and perturbations.
NONLINEAR = Schedule(last=5)
# So do counts. A strongly smoothed ReLU puts out more than the exact one. To fit small counts, a descent would turn it
# off for good, so the smoothing schedule begins at a small width.
COUNTS = Schedule(widths=_WIDTHS[4:])
# A restart takes a tenth of a second and more, and the first few say the most. If the first restarts of all 32
# simulated observations end in their best optima, four that agree have a confidence of 0.99; if two miss, six have.
LIMITED_MEMORY = Schedule(widths=(), steps=200, limited_memory=True, last=4, unexplained=0)
# With few coordinates, a Jacobian costs little more than a gradient, and saves most of the steps. Such generators are
# mostly ill-conditioned emulators, on which most descents at a low level of noise end far from the best code.
FEW_COORDINATES = Schedule(widths=(), tempering=(0.3, 0.1, 0.03, 0.01), steps=60, first=4, last=4)
