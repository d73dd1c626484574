"""``gradient_descent``: the paper's baseline."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from unrelu.baselines.first_order import descend, progress_of
from unrelu.errors import OptionError
from unrelu.local_search.squared_error import SquaredError
from unrelu.problem import Problem
from unrelu.result import Inversion

# Step length and iterations of the paper's section 5.1 and 5.2.
_SETTINGS = {"synthetic": (1.0, 1_000), "trained": (1e-3, 10_000)}
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class GradientDescent:
    r"""z <- z - learning_rate * (J^T (A G(z) - y) + prior z), the gradient of half the l2 objective.

    Args:
        setting: where the defaults come from. "trained": step 1e-3, up to 10,000 iterations (section 5.2); "synthetic":
            step 1, up to 1,000 iterations, for random weights N(0, 1/n_i) (section 5.1). These steps are for outputs of
            an ordinary size, from 1e-3 to 1e3; others are brought to it (:mod:`unrelu.measurements.equilibration`).
        learning_rate: the step, if not the setting's; in units of 1/y^2.
        max_iterations: iterations at most, if not the setting's.
        gradient_tolerance: an observation stops when its gradient norm is no more than this, in units of y^2; by
            default the paper's 1e-9 for outputs of an ordinary size. Of a coordinate held at a bound it is 0.

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
        if self.setting not in _SETTINGS:
            raise OptionError(f"setting={self.setting!r} is unknown; use 'trained' or 'synthetic'")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise OptionError(f"learning_rate={self.learning_rate} must be above 0")
        if self.max_iterations is not None and self.max_iterations < 1:
            raise OptionError(f"max_iterations={self.max_iterations} must be at least 1")
        if self.gradient_tolerance is not None and not self.gradient_tolerance >= 0:
            raise OptionError(f"gradient_tolerance={self.gradient_tolerance} must be at least 0")

    def __call__(self, problem: Problem) -> Inversion:
        """Descend from the start of every observation, all at once."""
        rate, iterations = _SETTINGS[self.setting]
        rate = problem.ordinary(self.learning_rate, -2) if self.learning_rate else rate
        tolerance = _TOLERANCE if self.gradient_tolerance is None else problem.ordinary(self.gradient_tolerance, 2)
        iterations = self.max_iterations or iterations
        objective = SquaredError.of(problem)

        def step(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            gradient = 0.5 * objective.gradient(z, rows)[1]
            gradient = gradient * ~objective.held(z, gradient)
            return z - rate * gradient, gradient.norm(dim=1) <= tolerance

        run = descend(
            objective.tensor(problem.start()),
            step,
            iterations,
            problem.control,
            partial(progress_of, "gradient_descent"),
            objective.clip,
        )
        codes = run.z.cpu().double().numpy()
        return Inversion.of(problem, codes, method="gradient_descent", status=run.status, nit=run.nit, norm="l2")
