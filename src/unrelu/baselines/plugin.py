"""``plugin``: PLUGIn, gradient descent without the activations' derivatives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unrelu.baselines._first_order import descend_from_start, need_adjoint
from unrelu.local_search.option_checks import above_zero, at_least, one_of
from unrelu.local_search.squared_error import SquaredError
from unrelu.models.activations import Activation
from unrelu.models.network import Layer, Network
from unrelu.models.opaque_network import as_chain
from unrelu.problem import Problem
from unrelu.result import Inversion
from unrelu.runtime.streams import stream

# theta of the step theta / (lambda_1 ... lambda_d), from the experiments (step 3 for three ReLU layers) or Corollary 1.
_THETA = {"synthetic": 3 / 8, "theory": 1.0}
_SETTINGS = ("trained", *_THETA)

# Power iterations for the norm of a layer, and the relative change that ends them.
_POWER, _CONVERGED = 1_000, 1e-12


@dataclass(frozen=True)
class Plugin:
    r"""PLUGIn: the residual is propagated back through the transposed weights, without the activations' derivatives.

    .. math:: z \gets z + \eta \, (W_1^T W_2^T \cdots W_d^T A^T (y - A G(z)) - \lambda z), \qquad \lambda = prior

    The product of the transposed weights is constant and formed once. W_i is a layer's affine map without its constant
    term, convolutions included. The term of the prior and biases are ours; the theory does not cover them. For a linear
    generator, the fixed point is the minimum of ``|y - A G(z)|^2 + prior |z|^2``.

    For weights N(0, 1/n_i), ReLU and n_i above about 5^i k, the codes converge geometrically to within about
    :math:`\sqrt{4^d k / n} |e|` of the true one, for steps up to :math:`\tfrac43 2^d`, even if layers contract. The
    price is accuracy: with noise, the fixed point is not the least-squares code.

    Args:
        setting: the default step :math:`\eta`. "trained": :math:`1 / \prod_i \|W_i\|_2`, the heuristic for learned
            weights; if it is too long, the codes do not converge. "synthetic": :math:`\tfrac38 2^d`, the step 3 of the
            experiments with d = 3. "theory": :math:`2^d` (Corollary 1). For activations other than ReLU,
            :math:`1 / E[g \phi(g)]`, g ~ N(0, 1), replaces 2; the source has this for positively homogeneous ones.
        learning_rate: the step, if not the setting's; in units of 1/y^2. The settings' steps are for outputs of size
            1e-3 to 1e3; other outputs are rescaled to that size (:mod:`unrelu.measurements.equilibration`).
        max_iterations: the largest number of steps; the source has 10,000.
        step_tolerance: an observation has converged when a step is shorter than this fraction of its code; the source
            has 1e-13.

    Raises:
        OptionError: an option has a value it cannot take.
        UnsupportedModelError: the generator is not a chain of layers.

    Source: Joshi, Li, Plan and Yilmaz, "PLUGIn: A simple algorithm for inverting generative models with recovery
    guarantees" (NeurIPS 2021), equation (5), Theorem 1, sections 4 and 5; with A, their "PLUGIn-CS" (NeurIPS 2021
    workshop on deep learning and inverse problems).
    """

    setting: str = "trained"
    learning_rate: float | None = None
    max_iterations: int = 10_000
    step_tolerance: float = 1e-13

    def __post_init__(self) -> None:
        one_of(_SETTINGS, setting=self.setting)
        above_zero(learning_rate=self.learning_rate)
        at_least(1, max_iterations=self.max_iterations)
        at_least(0, step_tolerance=self.step_tolerance)

    def check(self, problem: Problem) -> None:
        """Raise an error if the generator is no chain of layers, y are counts, or the measurement has no adjoint."""
        as_chain(problem.network, "plugin")
        need_adjoint(problem, "plugin")

    def __call__(self, problem: Problem) -> Inversion:
        """Run from the start of every observation, all at once."""
        self.check(problem)
        network, objective = as_chain(problem.network, "plugin"), SquaredError.of(problem)
        weights = weight_product(network)
        eta = problem.rescaled(self.learning_rate, -2) if self.learning_rate else self._step(network)

        @torch.no_grad()
        def step(z: Tensor, observations: Tensor) -> tuple[Tensor, Tensor]:
            back = objective.backprojection(z, observations) @ weights.T
            reached = objective.clip(z + eta * (back - (0 if objective.prior is None else objective.prior * z)))
            return reached, (reached - z).norm(dim=1) <= self.step_tolerance * z.norm(dim=1)

        return descend_from_start(problem, objective, step, self.max_iterations, "plugin")

    def _step(self, network: Network) -> float:
        """The step eta of the setting; any number if a layer's weights or mean slope are zero."""
        if self.setting == "trained":
            return 1 / (math.prod(_norm(layer, network) for layer in network.layers) or 1.0)
        return _THETA[self.setting] / (math.prod(mean_slope(layer.activation) for layer in network.layers) or 1.0)


def weight_product(network: Network) -> Tensor:
    """(W_d ... W_1)^T, (k, n)."""
    product = torch.eye(network.latent_dim, dtype=network.dtype, device=network.device)
    for layer in network.layers:
        product = layer.affine.apply(product, constant=False)
    return product


def mean_slope(activation: Activation) -> float:
    r"""E[g phi(g)] = E[phi'(g)], g ~ N(0, 1): the factor of z in the mean of W^T phi(W z), for weights N(0, 1/n)."""
    if not activation.smooth:
        return float((1 + activation.slope).mean() / 2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    return float(weights @ (nodes * activation.value(nodes)) / weights.sum())


def _norm(layer: Layer, network: Network) -> float:
    """The largest singular value of W, by power iteration on W^T W from a fixed start."""
    h = torch.tensor(stream("power iteration").standard_normal((1, layer.n_in)), dtype=network.dtype)
    h = h.to(network.device)
    norm = 0.0
    for _ in range(_POWER):
        h = (h / h.norm()).requires_grad_(True)
        image = layer.affine.apply(h, constant=False)
        # The gradient of |W h|^2 / 2 is W^T W h.
        (h,) = torch.autograd.grad(0.5 * (image * image).sum(), h)
        last, norm = norm, float(image.detach().norm())
        if norm <= 0 or abs(norm - last) <= _CONVERGED * norm:
            break
    return norm
