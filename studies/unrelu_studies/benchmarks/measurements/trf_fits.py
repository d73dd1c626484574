"""SciPy's trust region reflective method from many starts: the fit that users of emulators have, as a peer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares
from scipy.special import expit

from unrelu.models.activations import Activation
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array, Flags
from unrelu_studies.benchmarks.searches.hard import calibration_error

# Values (n,) and derivatives (n, k) at a code.
Model = tuple[Callable[[Array], Array], Callable[[Array], Array]]

TIGHT = 1e-15  # tolerances of SciPy's, for exact fits: at condition 1e6, those of 1e-12 end before
# A code is the best if its objective is within this share of the best known.
WITHIN = 1e-2
SURE = 0.99


@dataclass(frozen=True)
class TrfFits:
    """Fits of W G(z), W a matrix that whitens the noise, or one over its deviations, on the unit cube of the box.

    Attributes:
        model: G and its Jacobian.
        lower, upper: the box, (k,).
        whitening: W, (n, n) or (n,).
        most: evaluations of a fit.
        tolerance: SciPy's ftol, xtol and gtol, at which a fit ends.
    """

    model: Model
    lower: Array
    upper: Array
    whitening: Array
    most: int | None = None
    tolerance: float = TIGHT

    def whitened(self, x: Array) -> Array:
        """W x of an output (n,) or a Jacobian (n, k)."""
        return np.asarray(self.whitening @ x if self.whitening.ndim == 2 else (self.whitening * x.T).T)

    def forward(self, t: Array) -> Array:
        """W G at one code of the cube, (n,)."""
        return self.whitened(self.model[0](self.lower + (self.upper - self.lower) * t))

    def jacobian(self, t: Array) -> Array:
        """Their derivatives, (n, k)."""
        width = self.upper - self.lower
        return self.whitened(self.model[1](self.lower + width * t) * width)

    def objective(self, z: Array, y: Array) -> Array:
        """|W (y - G(z))|_2^2 of codes (B, k) in their own units, (B,)."""
        return np.array(
            [np.square(self.whitened(row - self.model[0](code))).sum() for code, row in zip(z, y, strict=True)]
        )

    def fit(self, y: Array, start: Array) -> Array:
        """The code at which a fit of y (n,) from a code ends."""
        width, target = self.upper - self.lower, self.whitened(y)
        t = np.clip((start - self.lower) / width, 0.0, 1.0)
        run = least_squares(
            lambda t: self.forward(t) - target, t, self.jacobian, (0.0, 1.0), "trf", self.tolerance, self.tolerance,
            self.tolerance, max_nfev=self.most,
        )  # fmt: skip
        return np.asarray(self.lower + width * run.x)

    def runs(self, y: Array, starts: int, draw: np.random.Generator) -> tuple[Array, Array]:
        """Codes (B, starts, k) of fits from uniform draws, and the seconds of each, (B, starts)."""
        draws = self.lower + (self.upper - self.lower) * draw.random((len(y), starts, len(self.lower)))
        codes, seconds = np.empty_like(draws), np.empty(draws.shape[:2])
        for i, row in enumerate(y):
            for j, start in enumerate(draws[i]):
                begin = time.process_time()
                codes[i, j] = self.fit(row, start)
                seconds[i, j] = time.process_time() - begin
        return codes, seconds

    def best(self, runs: Array, y: Array) -> Array:
        """Of runs (B, starts, k) the codes of the least objectives, (B, k)."""
        values = np.array([self.objective(runs[:, j], y) for j in range(runs.shape[1])])
        return np.asarray(runs[np.arange(len(runs)), values.argmin(axis=0)])


def dense_model(network: Network) -> Model:
    """A chain of dense layers and its Jacobian in NumPy, without what a framework adds to their time."""
    layers = [(np.asarray(layer.matrix()), layer.bias(), layer.activation) for layer in network.layers]

    def value(z: Array) -> Array:
        for weight, bias, activation in layers:
            z = activation.value(weight @ z + bias)
        return z

    def jacobian(z: Array) -> Array:
        rows = np.eye(len(z))
        for weight, bias, activation in layers:
            u = weight @ z + bias
            z, rows = activation.value(u), weight @ rows
            if not activation.linear:
                rows = _slopes(activation, u, z)[:, None] * rows
        return rows

    return value, jacobian


def _slopes(activation: Activation, u: Array, x: Array) -> Array:
    """phi'(u) of x = phi(u): of tanh, swish or a piecewise linear activation."""
    if activation.name == "tanh":
        return 1 - x * x
    c = activation.slope
    if not activation.smooth:
        return np.where(u > 0, 1.0, c)
    s = expit(activation.steepness * u)
    return np.asarray(c + (1 - c) * s * (1 + activation.steepness * u * (1 - s)))


def any_model(network: Generator) -> Model:
    """A generator and its Jacobian by the package's own derivatives."""
    return (
        lambda z: network.outputs(z[None])[0],
        lambda z: np.asarray(network.linearize(torch.tensor(z[None]))[1][0].numpy().T),
    )


# --- how sure an answer was -------------------------------------------------------------------------------------------


def confidence_error(rows: list[dict[str, Any]]) -> float:
    """The mean distance of confidence and share of best codes over ten bins of it, weighted by what is in each."""
    return calibration_error(*gathered_confidence(rows))


def gathered_confidence(rows: list[dict[str, Any]]) -> tuple[Array, Flags]:
    """Of rows: the confidence of every observation, and whether its code was the best."""
    return np.concatenate([r["confidence"] for r in rows]), np.concatenate([r["was best"] for r in rows]).astype(bool)


def sure_and_wrong(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """How many answers were sure, and how many of these were not the best."""
    confidence, best = gathered_confidence(rows)
    sure = confidence >= SURE
    return int(sure.sum()), int((~best[sure]).sum())
