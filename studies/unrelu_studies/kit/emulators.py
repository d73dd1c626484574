r"""Emulators: networks that stand for a simulation, x = G(theta), with parameters in a box; their formulas and weights.

``spectrum`` is a star's light in a window of wavelengths, by a formula, as The Payne (Ting et al., ApJ 879, 2019) has
it from models of atmospheres: Planck's law with lines shifted by a velocity and blurred by rotation, LeakyReLU.
``stiff-a`` and ``stiff-b`` are shaped like NNERO's emulator of the reionisation of the universe (Facchinetti,
arXiv:2503.11261, 2025): 16 parameters in [0, 1], six hidden ReLU layers of 90, 28 outputs, whose sensitivities to the
parameters are up to four decades apart.

Weights are made by ``python -m unrelu_studies.zoo.train_emulators`` and kept in ``kit/weights``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.loaders import from_arrays
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.runtime.streams import torch_stream
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
    """

    names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    formula: Callable[[Tensor], Tensor]
    hidden: tuple[int, ...]
    activation: str


# --- a star's spectrum ------------------------------------------------------------------------------------------------

WAVELENGTHS = np.linspace(480.0, 530.0, 250)
_SECOND_RADIATION = 1.438777e7  # h c / k in nm K
_LIGHT = 299_792.458  # km/s
# Lines in nm, their depth at 5,500 K, and how it falls with the temperature: hydrogen grows where metals fade.
_LINES = (
    (486.13, 0.55, 1.2), (489.15, 0.35, -1.5), (495.76, 0.45, -1.2), (501.84, 0.30, -0.4), (504.18, 0.25, -2.0),
    (516.73, 0.60, -1.6), (517.27, 0.65, -1.6), (518.36, 0.70, -1.6), (526.95, 0.40, -1.8), (523.30, 0.20, 0.8),
)  # fmt: skip


def spectrum(theta: Tensor) -> Tensor:
    r"""The flux between 480 and 530 nm, of temperature (K), metallicity (dex), velocity (km/s), line width (km/s) and
    reddening (mag), 1 on average without it: Planck's law

    .. math:: B(\lambda, T) \propto \lambda^{-5} (e^{h c / \lambda k T} - 1)^{-1},

    times lines :math:`\prod_i (1 - d_i e^{-(\lambda - \lambda_i (1 + v/c))^2 / 2 w^2})`, times an extinction.
    """
    temperature, metals, velocity, width, reddening = theta[:, :, None].unbind(dim=1)
    at = torch.tensor(WAVELENGTHS, dtype=theta.dtype)
    flux = at**-5 / torch.expm1(_SECOND_RADIATION / (at * temperature))
    for line, depth, rise in _LINES:
        depth_now = depth * torch.exp(rise * (temperature / 5500 - 1)) * (1 if rise > 0 else 10 ** (0.5 * metals))
        sigma = line * width / _LIGHT
        away = at - line * (1 + velocity / _LIGHT)
        flux = flux * (1 - depth_now / (1 + depth_now) * torch.exp(-0.5 * (away / sigma) ** 2))
    flux = flux / flux.mean(dim=1, keepdim=True)
    return flux * 10 ** (-0.4 * reddening * (505.0 / at) ** 1.3)


# --- many parameters of very different weight -------------------------------------------------------------------------

_PARAMETERS, _OUTPUTS, _WAVES = 16, 28, 40
_DECADES = 4.0


def stiff(seed: int) -> Callable[[Tensor], Tensor]:
    """Sums of sines of 16 parameters that are worth less and less, by four decades, as 28 smooth outputs."""
    draw = torch_stream("stiff emulator", seed)
    directions, phases, shifts = (
        torch.randn(_PARAMETERS, _WAVES, generator=draw),
        2 * math.pi * torch.rand(_WAVES, generator=draw),
        torch.rand(_WAVES, 1, generator=draw),
    )
    weight = 10 ** (-_DECADES * torch.arange(_PARAMETERS) / (_PARAMETERS - 1))
    order = torch.arange(_WAVES)[:, None]
    mixing = torch.cos(math.pi * order * torch.linspace(0, 1, _OUTPUTS) / 3 + shifts) * (1 + order) ** -0.7

    def formula(theta: Tensor) -> Tensor:
        waves = torch.sin(2.5 * (theta * weight.to(theta)) @ directions.to(theta) + phases.to(theta))
        return waves @ mixing.to(theta)

    return formula


def _stiff(seed: int) -> Emulator:
    names = tuple(f"p{i}" for i in range(_PARAMETERS))
    ends = (0.0,) * _PARAMETERS, (1.0,) * _PARAMETERS
    return Emulator(names, *ends, stiff(seed), (90,) * 6, "relu")


# Deviations of the noise are log-uniform between these fractions of the outputs' root mean square.
NOISE = (1e-3, 1e-1)

EMULATORS = {
    "spectrum": Emulator(
        ("temperature", "metallicity", "velocity", "width", "reddening"),
        (4000.0, -2.0, -400.0, 15.0, 0.0), (8000.0, 0.5, 400.0, 60.0, 2.0), spectrum, (200, 200), "leaky_relu:0.01",
    ),
    "stiff-a": _stiff(1),
    "stiff-b": _stiff(2),
}  # fmt: skip


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
