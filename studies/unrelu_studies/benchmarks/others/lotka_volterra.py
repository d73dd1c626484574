"""Lotka-Volterra of the simulation-based inference benchmark: our draws beside its reference draws.

Prey x and predators y begin at 30 and 1, and are counted at ten times, with a log-normal error of deviation .1:
x' = alpha x - beta x y, y' = delta x y - gamma y. The logarithms of the parameters are normal. Draws are compared by a
classifier that is trained to tell them apart (C2ST): its accuracy is .5 where it cannot.

Source: Lueckmann et al., "Benchmarking simulation-based inference", AISTATS 2021, task T.10 and ``metrics/c2st.py``;
Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", ICLR 2017.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

import unrelu
from unrelu.runtime.array_types import Array
from unrelu_studies.benchmarks.others.data_of_others import data_file
from unrelu_studies.kit.timing import processor_seconds, timed

OBSERVATIONS = (1, 2, 3)
# Draws of each of eight chains; as many reference draws are compared with them.
DRAWS, QUICK_DRAWS = 400, 40
PRIOR = unrelu.Normal([-0.125, -3.0, -0.125, -3.0], 0.5)
ERROR = 0.1
# Times between observations, steps of Runge-Kutta between them, and the ends at which the task cuts off counts.
_APART, _STEPS, _LEAST, _MOST = 2.1, 21, 1e-10, 1e4


def log_counts(z: Tensor) -> Tensor:
    """The logarithms of prey and predators at 0, 2.1, ..., 18.9, (B, 20), of log(alpha, beta, gamma, delta), (B, 4).

    The logarithms are integrated by Runge and Kutta's method of order 4.
    """
    alpha, beta, gamma, delta = z.exp().unbind(1)

    def rate(u: Tensor) -> Tensor:
        x, y = u.clamp(max=float(np.log(_MOST))).exp().unbind(1)
        return torch.stack([alpha - beta * y, delta * x - gamma], 1)

    u, h = torch.tensor([[30.0, 1.0]]).to(z).log().expand(len(z), 2), _APART / _STEPS
    seen = [u]
    for step in range(1, 9 * _STEPS + 1):
        a = rate(u)
        b = rate(u + h / 2 * a)
        c = rate(u + h / 2 * b)
        u = u + h / 6 * (a + 2 * b + 2 * c + rate(u + h * c))
        if step % _STEPS == 0:
            seen.append(u)
    return torch.stack(seen, 2).flatten(1).clamp(float(np.log(_LEAST)), float(np.log(_MOST)))


def c2st(x: Array, y: Array, seed: int = 1) -> float:
    """The accuracy of a network trained to tell draws x (n, k) from y (m, k), in five-fold cross-validation."""
    networks, selection = (importlib.import_module(f"sklearn.{name}") for name in ("neural_network", "model_selection"))
    width = 10 * x.shape[1]
    both = (np.concatenate([x, y]) - x.mean(axis=0)) / x.std(axis=0, ddof=1)
    classifier = networks.MLPClassifier((width, width), max_iter=10_000, random_state=seed)
    folds = selection.KFold(n_splits=5, shuffle=True, random_state=seed)
    return float(np.mean(selection.cross_val_score(classifier, both, np.repeat([0, 1], [len(x), len(y)]), cv=folds)))


def read_observation(data: str | None, number: int) -> tuple[Array, Array]:
    """An observation, (20,), and its reference draws, (10000, 4).

    Raises:
        OptionError, InputError: a file is missing.
    """
    names = ("observation.csv", "reference_posterior_samples.csv.bz2")
    paths = [data_file(data, "sbibm", f"lotka_volterra_{number}_{name}") for name in names]
    y, reference = (np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2) for path in paths)
    return y[0], reference


def measure_posterior(data: str | None, number: int, seed: int, quick: bool) -> dict[str, Any]:
    """The posterior of an observation beside the reference draws."""
    y, reference = read_observation(data, number)
    network, size = unrelu.from_torch(log_counts, latent_shape=4), QUICK_DRAWS if quick else DRAWS
    noise = unrelu.Gaussian(ERROR)
    p, seconds = timed(
        lambda: unrelu.posterior(network, np.log(y), noise=noise, prior=PRIOR, draws=size, seed=seed), processor_seconds
    )
    draws = np.exp(p.z.reshape(-1, 4))
    reference = reference[: len(draws)]
    deviation = reference.std(axis=0)
    return {
        "part": "posterior", "observation": number, "draws": len(draws), "status": p.status.name,
        "c2st": c2st(reference, draws),
        "means": (np.abs(draws.mean(axis=0) - reference.mean(axis=0)) / deviation).tolist(),
        "deviations": (draws.std(axis=0) / deviation).tolist(), "seconds": seconds,
    }  # fmt: skip
