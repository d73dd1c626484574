r"""The posterior density of one observation, in coordinates t in which the prior is N(0, I).

.. math:: U(t) = \frac{D(y, A G(z(t)))}{2 T} + \frac{|t|^2}{2}, \qquad p(t | y) \propto e^{-U(t)}

D is the sum of squared residuals or the deviance, and T the dispersion parameter of the noise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from unrelu.local_search.packed_observations import packable
from unrelu.local_search.squared_error import SquaredError
from unrelu.measurements.folding import FoldedChain, FoldedLayer
from unrelu.models.activations import Activation
from unrelu.models.network import Network
from unrelu.parameters.latent_bounds import Bounds
from unrelu.problem import Problem
from unrelu.runtime.array_types import Array
from unrelu.runtime.host import flush_subnormals
from unrelu.sampling.prior_transform import PriorTransform
from unrelu.search.descents import Start
from unrelu.search.joint_search import JointSearch

# The largest number of multiplications for the evaluations at all points together, which takes some seconds.
_WORK = 2e10
_ONE = np.zeros(1, dtype=np.int64)


class Target:
    """The energy U of one observation, with its derivatives and its optima.

    Args:
        problem: the problem as stated, with one observation.
        prior: the prior of codes.

    Attributes:
        watch: returns whether to stop.
    """

    def __init__(self, problem: Problem, prior: PriorTransform) -> None:
        self.prior, self.k, self._free = prior, len(prior.mean), np.flatnonzero(~prior.of_codes.fixed)
        # The prior is part of the coordinates. Units are those of the search: physical parameters need not resemble
        # N(0, I), and at codes from N(0, I) outputs can then be of any size.
        self._search = problem.equilibrated()
        units = self._search.units
        self._likelihood = replace(
            self._search, bounds=Bounds.parse(None, problem.network.latent_shape), prior=0.0, normal=None, z0=None,
            network=self._search.network if units.latent is None else units.of_outputs(problem.network),
            units=replace(units, latent=None),
        )  # fmt: skip
        self._temperature = self._likelihood.noise.dispersion_parameter
        self._objective = SquaredError.of(self._likelihood)
        self._layers: DenseLayers | None = None
        network, operator = self._likelihood.network, self._likelihood.operator
        whole = self._likelihood.noise.likelihood is None or bool(operator.seen(1).all())
        if whole and isinstance(network, Network) and packable(network, operator):
            layers, y = FoldedChain(network, operator, self._likelihood.y).of(0)
            self._y = y.copy()  # PyTorch takes no arrays that are read-only
            self._layers = DenseLayers(layers)
        self._started = JointSearch(self._search)
        self.watch = self._started.watch

    # --- the density --------------------------------------------------------------------------------------------------

    def energies(self, t: Array) -> Array:
        """Return U, (c,), at coordinates t (c, k); infinity replaces NaN."""
        return self._total(self._misfits(self.prior.codes(t)), t)

    def code_energies(self, t: Array, energies: Array) -> Array:
        """Return -log p(z | y), up to a constant, at coordinates t (c, k) with energies U (c,).

        It differs from U by log dz/dt. If codes are not linear functions of t, the two have different minima.
        """
        if self.prior.affine:
            return energies
        return np.asarray(energies - 0.5 * np.square(t).sum(axis=1) + self.prior.energies(self.prior.codes(t)))

    def gradients(self, t: Array) -> tuple[Array, Array]:
        """Return U, (c,), and its gradients, (c, k), at coordinates t (c, k)."""
        z = self.prior.codes(t)
        if self._layers is None:
            misfit, gradient = (
                x.cpu().double().numpy() for x in self._objective.gradient(self._objective.tensor(z), self._rows(z))
            )
        else:
            misfit, derivatives = self._scored(self._layers.outputs(z, differentiated=True))
            gradient = self._layers.gradients(derivatives)
        slope = gradient[:, self._free] * self.prior.slopes(t, z) / (2 * self._temperature)
        return self._total(misfit, t), np.where(np.isfinite(slope), slope, 0.0) + t

    def curvatures(self, t: Array) -> tuple[Array, Array, Array]:
        """Return U, (c,), its gradient, (c, k), and J^T W J / T + I, (c, k, k), at coordinates t (c, k).

        J is the Jacobian of A G(z(t)). W is the identity, or for the deviance the weights of Gauss-Newton steps. The
        matrix approximates the Hessian and is positive definite.
        """
        z = self.prior.codes(t)
        gram, half, misfit = (
            x.cpu().double().numpy() for x in self._objective.system(self._objective.tensor(z), self._rows(z))
        )
        gram, half = gram[:, self._free[:, None], self._free], half[:, self._free]
        slopes = self.prior.slopes(t, z)
        information = gram * (slopes[:, :, None] * slopes[:, None, :]) / self._temperature + np.eye(self.k)
        gradient, known = half * slopes / self._temperature, np.isfinite(information.sum(axis=(1, 2), keepdims=True))
        # Where outputs are not finite, only the prior contributes.
        information = np.where(known, information, np.eye(self.k))
        return self._total(misfit, t), np.where(np.isfinite(gradient), gradient, 0.0) + t, information

    def rounding(self, t: Array) -> float:
        """Return the rounding error of D / (2 T), half a unit in the last place, where D is least on t (c, k)."""
        lowest = float(self._misfits(self.prior.codes(t)).min()) / (2 * self._temperature)
        return float(0.5 * torch.finfo(self._objective.y.dtype).eps * lowest)

    def affordable(self, wanted: int, evaluations: int) -> int:
        """Return how many of the wanted points the work limit allows, at least one; each takes ``evaluations``."""
        each = evaluations * max(self._likelihood.network.work, 1)
        return max(1, min(wanted, int(_WORK // each)))

    def _total(self, misfit: Array, t: Array) -> Array:
        with np.errstate(over="ignore"):
            total = misfit / (2 * self._temperature) + 0.5 * np.square(t).sum(axis=1)
        return np.where(np.isfinite(total), total, np.inf)

    def _rows(self, z: Array) -> torch.Tensor:
        return self._objective.index(np.zeros(len(z), dtype=np.int64))

    def _misfits(self, z: Array) -> Array:
        """Return D, (c,), at codes z (c, k)."""
        if self._layers is None:
            values = self._objective.values(self._objective.tensor(z), self._rows(z))
            return values.cpu().double().numpy()
        return self._scored(self._layers.outputs(z), derivatives=False)[0]

    def _scored(self, outputs: Array, derivatives: bool = True) -> tuple[Array, Array]:
        """Return D, (c,), and its derivatives by the outputs, (c, m), or a placeholder without ``derivatives``."""
        loss = self._objective.loss
        if loss is None:
            r = outputs - self._y
            return np.square(r).sum(axis=1), 2 * r if derivatives else r
        mean, y = torch.from_numpy(outputs), torch.from_numpy(self._y).expand(len(outputs), -1)
        total = loss.total(y, mean, torch.ones_like(mean)).numpy()
        return total, 2 * loss.scoring(y, mean)[0].numpy() if derivatives else outputs

    # --- its optima ---------------------------------------------------------------------------------------------------

    @property
    def restarts(self) -> int:
        """The number of descents made so far from the starts of ``auto``."""
        return int(self._started.state.made[0])

    def optima(self, restarts: int) -> Array:
        """Make up to ``restarts`` descents in all from the starts of ``auto``; return the successful ends, (c, k)."""
        self._started.advance(_ONE, restarts, 0)
        state = self._started.state
        return self._coordinates(state.restarts[0][np.isfinite(state.ends[0])])

    @property
    def best_optimum(self) -> Array:
        """The coordinates of the best end of these descents, (1, k); (0, k) if there is none."""
        z = self._started.state.z
        return self._coordinates(z[np.isfinite(z).all(axis=1)])

    def descended(self, t: Array) -> Array:
        """Descend from coordinates t (c, k), and return the ends, (c, k)."""
        z = self._search.units.coordinates(self.prior.codes(t))
        start = Start.unperturbed(_ONE, z[None])
        self._started.descents.improve(start, np.zeros(1), self.watch)
        ended = np.where(np.isfinite(start.f[0])[:, None], start.z[0], z)
        return self._coordinates(ended)

    def lower(self, t: Array) -> Array:
        """Descend from t (c, k), and keep each end at which the code is more probable; return t for the others."""
        ended = self.descended(t)
        after, before = (self.code_energies(each, self.energies(each)) for each in (ended, t))
        return np.where((after < before)[:, None], ended, t)

    def _coordinates(self, z: Array) -> Array:
        with flush_subnormals(False):
            return self.prior.coordinates(self._search.units.codes(z))


class DenseLayers:
    """Layers x = weight * phi(W h + b) as matrix products; for few codes they are faster than PyTorch."""

    def __init__(self, layers: list[FoldedLayer]) -> None:
        self._layers = [(layer, np.ascontiguousarray(layer.dense.T)) for layer in layers]
        self._slopes: list[Array] = []

    def outputs(self, z: Array, differentiated: bool = False) -> Array:
        """Return the outputs, (c, m), at codes z (c, k); ``differentiated`` prepares :meth:`gradients`."""
        x, self._slopes = z, []
        for layer, transposed in self._layers:
            u = x @ transposed + layer.bias
            x = np.maximum(u, 0.0) if layer.activation.name == "relu" else layer.activation.value(u)
            if differentiated:
                self._slopes.append(_slopes(layer.activation, u, x))
        weight = self._layers[-1][0].weight
        return x if weight is None else x * weight

    def gradients(self, derivatives: Array) -> Array:
        """Return derivatives by codes, (c, k), at the last call of :meth:`outputs`, given those by outputs, (c, m)."""
        weight = self._layers[-1][0].weight
        back = derivatives if weight is None else derivatives * weight
        for (_, transposed), slopes in zip(reversed(self._layers), reversed(self._slopes), strict=True):
            back = (back * slopes) @ transposed.T
        return back


def _slopes(activation: Activation, u: Array, x: Array) -> Array:
    """Return phi'(u), where x = phi(u); at a kink, the slope for negative arguments."""
    if activation.name == "relu":
        return np.asarray(u > 0)
    if activation.smooth:
        return activation.derivative(torch.from_numpy(u), torch.from_numpy(x)).numpy()
    return np.where(u > 0, 1.0, activation.slope)
