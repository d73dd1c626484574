"""``gradient_descent``: gradient descent on the code, the paper's baseline."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from unrelu.baselines._first_order import descend
from unrelu.local_search.option_checks import above_zero, at_least, one_of
from unrelu.local_search.squared_error import SquaredError
from unrelu.problem import Problem
from unrelu.result import Inversion
from unrelu.runtime.run_control import Progress

# Step length and iterations of the paper's section 5.1 and 5.2.
_SETTINGS = {"synthetic": (1.0, 1_000), "trained": (1e-3, 10_000)}
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class GradientDescent:
    r"""z <- z - learning_rate * (J^T (A G(z) - y) + prior z), the gradient of half the l2 objective.

    Args:
        setting: the defaults. "trained": step 1e-3, up to 10,000 iterations (section 5.2); "synthetic": step 1, up to
            1,000 iterations, for random weights N(0, 1/n_i) (section 5.1). These steps are for outputs of size 1e-3 to
            1e3; others are rescaled to that size (:mod:`unrelu.measurements.working_units`).
        learning_rate: the step, if not the setting's; in units of 1/y^2.
        max_iterations: the largest number of iterations, if not the setting's.
        gradient_tolerance: an observation stops when its gradient norm is at most this, in units of y^2. Coordinates
            held at a bound do not count. The default is the paper's 1e-9 in working units.

    Raises:
        OptionError: an option has a value it cannot take.

    Source: section 5 of the paper; Huang, Hand, Heckel and Voroninski, "A provably convergent scheme for compressive
    sensing under random generative priors" (2018).
    """

    setting: str = "trained"
    learning_rate: float | None = None
    max_iterations: int | None = None
    gradient_tolerance: float | None = None

    def __post_init__(self) -> None:
        one_of(_SETTINGS, setting=self.setting)
        above_zero(learning_rate=self.learning_rate)
        at_least(1, max_iterations=self.max_iterations)
        at_least(0, gradient_tolerance=self.gradient_tolerance)

    def __call__(self, problem: Problem) -> Inversion:
        """Descend from the start of every observation, all at once."""
        rate, iterations = _SETTINGS[self.setting]
        rate = problem.rescaled(self.learning_rate, -2) if self.learning_rate else rate
        tolerance = _TOLERANCE if self.gradient_tolerance is None else problem.rescaled(self.gradient_tolerance, 2)
        objective = SquaredError.of(problem)

        def step(z: Tensor, observations: Tensor) -> tuple[Tensor, Tensor]:
            gradient = 0.5 * objective.gradient(z, observations)[1]
            gradient = gradient * ~objective.held(z, gradient)
            return z - rate * gradient, gradient.norm(dim=1) <= tolerance

        def report(t: int, active: Tensor, z: Tensor) -> Progress:
            done = len(z) - len(active)
            return Progress("gradient_descent", t, done, len(z), z.cpu().double().numpy().copy())

        start, limit = objective.tensor(problem.start()), self.max_iterations or iterations
        run = descend(start, step, limit, problem.control, report, objective.clip)
        codes, norm = run.z.cpu().double().numpy(), problem.descent_norm
        return Inversion.of(problem, codes, method="gradient_descent", status=run.status, nit=run.nit, norm=norm)
