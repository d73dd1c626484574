r"""Emulators: networks that stand for a simulation, x = G(theta), with parameters in a box, and their weights.

``spectrum`` is a star's light in a window of wavelengths, by a formula, as The Payne (Ting et al., ApJ 879, 2019) has
it from models of atmospheres: Planck's law with lines shifted by a velocity and blurred by rotation, LeakyReLU.
``stiff-a`` and ``stiff-b`` are shaped like NNERO's emulator of the reionisation of the universe (Facchinetti,
arXiv:2503.11261, 2025): 16 parameters in [0, 1], six hidden ReLU layers of 90, 28 outputs, whose sensitivities to the
parameters are up to four decades apart. The others stand for formulas with the degeneracies of a science each, by six
hidden layers. The search was tuned on those in :data:`TUNED`, and on no other; the rest were chosen by the condition
numbers of their Jacobians, about a million, before any fit by this package.

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


# Steps where the smallest singular values would be lost in the error of a shorter training.
LONG = 32_000


def _boxed(
    formula: Callable[[Tensor], Tensor],
    width: int,
    activation: str,
    box: dict[str, tuple[float, float]],
    steps: int = 16_000,
) -> Emulator:
    lower, upper = zip(*box.values(), strict=True)
    return Emulator(tuple(box), lower, upper, formula, (width,) * 6, activation, steps)


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
    "dust": _boxed(formulas.dust, 80, "swish", {
        "log distance": (-1.25, 1.25), "log mass": (-0.5, 0.5), "log opacity": (-0.3, 0.3), "log size": (-0.2, 0.2),
    } | {
        f"{what} {i}": ends
        for i, (share, temperature) in enumerate(((0.0, 1.25), (-0.6, 1.4), (-1.4, 1.55), (-2.4, 1.7)), 1)
        for what, ends in (
            ("log share", (share - 0.3, share + 0.3)), ("log temperature", (temperature - 0.08, temperature + 0.08)),
            ("beta", (1.4, 2.0)))
    }, LONG),
    "impedance": _boxed(formulas.impedance, 80, "leaky_relu:0.01", {
        "log area": (-2.0, 2.0), "log ohmic": (-1.0, 0.0), "exponent": (0.7, 0.9),
    } | {
        f"{what} {i}": ends for i, time in enumerate((-2.5, -2.2, -1.9, -1.6, -1.3, -1.0), 1) for what, ends in (
            ("log resistance", (-1.0, 0.0)), ("log time", (time - 0.15, time + 0.15)))
    } | {"log diffusion": (-0.5, 0.5)}, LONG),
    "relaxation": _boxed(formulas.relaxation, 90, "relu", {
        "log gain": (-2.0, 2.0), "log relaxivity": (-0.2, 0.2), "log bulk": (0.0, 0.5), "log diffusion": (-1.0, 0.0),
    } | {
        f"{what} {i}": ends for i, pore in enumerate((-2.4, -2.1, -1.8, -1.5, -1.2, -0.9), 1) for what, ends in (
            ("log share", (-1.0, 0.0)), ("log pore", (pore - 0.15, pore + 0.15)))
    }, LONG),
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
