r"""Emulators: networks that stand for a simulation, x = G(theta), with parameters in a box, and their weights.

``spectrum`` is a star's light in a window of wavelengths, by a formula, as The Payne (Ting et al., ApJ 879, 2019) has
it from models of atmospheres: Planck's law with lines shifted by a velocity and blurred by rotation, LeakyReLU.
``stiff-a`` and ``stiff-b`` are shaped like NNERO's emulator of the reionisation of the universe (Facchinetti,
arXiv:2503.11261, 2025): 16 parameters in [0, 1], six hidden ReLU layers of 90, 28 outputs, whose sensitivities to the
parameters are up to four decades apart. The others stand for formulas with the degeneracies of a science each, by six
hidden layers. The search was tuned on those in :data:`TUNED`, and on no other.

Weights are made by ``python -m unrelu_studies.zoo.train_emulators`` and kept in ``kit/weights``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

import numpy as np
import numpy.typing as npt
from torch import Tensor

from unrelu.loaders import from_arrays
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu_studies.kit import emulated_formulas as formulas
from unrelu_studies.kit.random_instances import random

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Emulator:
    """A formula, the box of its parameters, and the network that stands for it.

    Attributes:
        names: of the parameters.
        lower, upper: their bounds.
        formula: parameters (N, k) to outputs (N, n).
        hidden, activation: the widths of the hidden layers, and what follows each.
        steps: of its training.
    """

    names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    formula: Callable[[Tensor], Tensor]
    hidden: tuple[int, ...]
    activation: str
    steps: int = 4000


def _stiff(seed: int) -> Emulator:
    names = tuple(f"p{i}" for i in range(formulas.STIFF_PARAMETERS))
    ends = (0.0,) * formulas.STIFF_PARAMETERS, (1.0,) * formulas.STIFF_PARAMETERS
    return Emulator(names, *ends, formulas.stiff(seed), (90,) * 6, "relu")


def _boxed(
    formula: Callable[[Tensor], Tensor], width: int, activation: str, box: dict[str, tuple[float, float]]
) -> Emulator:
    lower, upper = zip(*box.values(), strict=True)
    return Emulator(tuple(box), lower, upper, formula, (width,) * 6, activation, 16_000)


# Deviations of the noise are log-uniform between these fractions of the outputs' root mean square.
NOISE = (1e-3, 1e-1)

EMULATORS = {
    "spectrum": Emulator(
        ("temperature", "metallicity", "velocity", "width", "reddening"),
        (4000.0, -2.0, -400.0, 15.0, 0.0), (8000.0, 0.5, 400.0, 60.0, 2.0), formulas.spectrum, (200, 200),
        "leaky_relu:0.01",
    ),
    "stiff-a": _stiff(1),
    "stiff-b": _stiff(2),
    "reionization": _boxed(formulas.reionization, 90, "relu", {
        "sigma_8": (0.75, 0.90), "Omega_m": (0.25, 0.37), "Omega_b": (0.042, 0.056), "h": (0.62, 0.76),
        "n_s": (0.92, 1.0), "log f_star": (-2.0, -1.0), "slope of f_star": (0.0, 0.8), "log f_esc": (-1.6, -0.6),
        "slope of f_esc": (-0.8, 0.2), "log turnover": (8.0, 9.5), "t_star": (0.2, 1.0), "clumping": (1.5, 6.0),
        "slope of clumping": (-2.0, 0.0), "log heat": (-0.2, 0.3), "log quasars": (-2.0, 0.0),
        "slope of quasars": (1.0, 5.0),
    }),
    "luminosity": _boxed(formulas.luminosity, 80, "relu", {
        "log phi": (-4.5, -3.0), "change of log phi": (-0.3, -0.1), "M": (-22.0, -19.5), "change of M": (-0.2, 0.2),
        "alpha": (-2.4, -1.3), "change of alpha": (-0.05, -0.03), "beta": (-6.0, -3.5), "change of beta": (-0.02, 0.02),
        "dust": (0.0, 0.5), "slope of dust": (0.2, 1.5), "turnover": (-18.5, -15.0), "sharpness": (1.0, 4.0),
        "quenching": (4.0, 10.0), "depth of quenching": (0.0, 1.0),
    }),
    "pyrolysis": _boxed(formulas.pyrolysis, 80, "relu", {
        f"{what} {i}": ends for i, start in enumerate((0.5, -0.2, -0.9), 1) for what, ends in (
            ("log rate", (start - 0.35, start + 0.35)), ("energy", (30.0, 90.0)), ("order", (1.9, 2.1)),
            ("share", (0.1, 1.0)))
    } | {"char": (0.0, 0.3), "moisture": (0.0, 0.001)}),
    "vibration": _boxed(formulas.vibration, 80, "leaky_relu:0.01", {
        f"{what} {i}": ends for i, start in enumerate((0.8, 1.4, 2.0, 2.6, 3.2), 1) for what, ends in (
            ("frequency", (start - 0.3, start + 0.3)), ("log damping", (-1.0, -0.2)), ("amplitude", (0.1, 2.0)))
    } | {"residual": (-0.01, 0.01)}),
    "absorption": _boxed(formulas.absorption, 80, "leaky_relu:0.01", {
        f"{what} {i}": ends for i, start in enumerate((-75.0, -25.0, 25.0, 75.0), 1) for what, ends in (
            ("velocity", (start - 25.0, start + 25.0)), ("log column", (-1.0, 0.6)), ("width", (40.0, 90.0)))
    } | {"bare": (0.0, 0.1)}),
}  # fmt: skip


TUNED = ("spectrum", "stiff-a", "stiff-b", "reionization", "absorption")


@cache
def emulator(name: str) -> Network:
    """The network of an emulator by its name; codes are parameters in their own units."""
    about = EMULATORS[name]
    resource = files("unrelu_studies.kit") / "weights" / f"{name}.npz"
    with as_file(resource) as path, np.load(path, allow_pickle=False) as arrays:
        count = len(about.hidden) + 1
        weights = [arrays[f"W{i}"].astype(np.float64) for i in range(1, count + 1)]
        biases = [arrays[f"b{i}"].astype(np.float64) for i in range(1, count + 1)]
    lower, upper = np.array(about.lower), np.array(about.upper)
    scale = (lower + upper) / 2, (upper - lower) / 2
    activation = [about.activation] * len(about.hidden) + ["identity"]
    return from_arrays(weights, biases, activation=activation, input_scale=scale)


def observed(network: Generator, truth: Array, noisy: bool, seed: int, name: str) -> tuple[Array, Array]:
    """Observations (B, n), and the deviation of each output's noise, (n,): ones where there is none."""
    y = network.outputs(truth)
    if not noisy:
        return y, np.ones(y.shape[1])
    low, high = np.log(NOISE)
    share = np.exp(low + (high - low) * random("emulator sigma", seed, name).random(y.shape[1]))
    sigma = share * np.sqrt(np.square(y).mean())
    return y + sigma * random("emulator noise", seed, name).standard_normal(y.shape), sigma
