"""PLUGIn: gradient descent without the activations' derivatives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch

from unrelu.models.network import Network
from unrelu.models.opaque_network import as_chain
from unrelu.problem import Problem
from unrelu.result import Ending, Inversion

# A run ends after so many steps, or when a step is shorter than this fraction of its code.
_STEPS, _TOLERANCE = 10_000, 1e-13


@dataclass(frozen=True)
class Plugin:
    r"""The residual is propagated back through the transposed weights, without the activations' derivatives.

    .. math:: z \gets z + \eta \, W_1^T W_2^T \cdots W_d^T A^T (y - A G(z))

    Biases are ours; the theory does not cover them.

    Args:
        theta: the step :math:`\eta = \theta 2^d` for ReLU and weights N(0, 1/n_i). 3/8 is the step 3 of the experiments
            with d = 3, and 1 that of Corollary 1. None is :math:`1 / \prod_i \|W_i\|_2`, the heuristic for learned
            weights.

    Source: Joshi, Li, Plan and Yilmaz, "PLUGIn: A simple algorithm for inverting generative models with recovery
    guarantees" (NeurIPS 2021), equation (5), sections 4 and 5; with A, their "PLUGIn-CS" (NeurIPS 2021 workshop on deep
    learning and inverse problems).
    """

    theta: float | None = None

    def step(self, network: Network) -> float:
        r"""The step :math:`\eta` for a network."""
        if self.theta is None:
            return 1 / math.prod(float(np.linalg.norm(layer.matrix(), 2)) for layer in network.layers)
        return self.theta * 2.0 ** len(network.layers)

    @torch.no_grad()
    def __call__(self, problem: Problem) -> Inversion:
        """Run from the start of every observation, all at once."""
        network, operator = as_chain(problem.network, "plugin"), problem.operator
        y, z = torch.tensor(problem.y), torch.tensor(problem.start())
        weights = reduce(lambda product, layer: layer.matrix() @ product, network.layers, np.eye(network.latent_dim))
        back = self.step(network) * torch.tensor(weights)
        for _ in range(_STEPS):
            step = operator.adjoint(y - operator.forward(network.forward(z))) @ back
            z += step
            if (step.norm(dim=1) <= _TOLERANCE * z.norm(dim=1)).all():
                return Inversion.of(problem, z.numpy(), method="plugin", norm="l2")
        return Inversion.of(problem, z.numpy(), method="plugin", status=Ending.ITERATION_LIMIT, norm="l2")
