r"""Emulators: networks that stand for a simulation, x = G(theta), with parameters in a box, and their weights.

``spectrum`` is a star's light in a window of wavelengths, by a formula, as The Payne (Ting et al., ApJ 879, 2019) has
it from models of atmospheres: Planck's law with lines shifted by a velocity and blurred by rotation, LeakyReLU.
``stiff-a`` and ``stiff-b`` are shaped like NNERO's emulator of the reionisation of the universe (Facchinetti,
arXiv:2503.11261, 2025): 16 parameters in [0, 1], six hidden ReLU layers of 90, 28 outputs, whose sensitivities to the
parameters are up to four decades apart. The others stand for formulas with the degeneracies of a science each, by six
hidden layers: products of which only one is seen, amplitudes that trade with slopes, components that can change
places. The search was tuned on those in :data:`TUNED`, and on no other; the rest were chosen by the condition numbers
of their Jacobians, about a million, before any fit by this package.

Weights are made by ``python -m unrelu_studies.zoo.train_emulators`` and kept in ``kit/weights``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

import numpy as np
import torch
from torch import Tensor

from unrelu.loaders import from_arrays
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array
from unrelu.runtime.streams import torch_stream
from unrelu_studies.kit.random_instances import random

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

STIFF_PARAMETERS, _OUTPUTS, _WAVES = 16, 28, 40
_DECADES = 4.0


def stiff(seed: int) -> Callable[[Tensor], Tensor]:
    """Sums of sines of 16 parameters that are worth less and less, by four decades, as 28 smooth outputs."""
    draw = torch_stream("stiff emulator", seed)
    directions, phases, shifts = (
        torch.randn(STIFF_PARAMETERS, _WAVES, generator=draw),
        2 * math.pi * torch.rand(_WAVES, generator=draw),
        torch.rand(_WAVES, 1, generator=draw),
    )
    weight = 10 ** (-_DECADES * torch.arange(STIFF_PARAMETERS) / (STIFF_PARAMETERS - 1))
    order = torch.arange(_WAVES)[:, None]
    mixing = torch.cos(math.pi * order * torch.linspace(0, 1, _OUTPUTS) / 3 + shifts) * (1 + order) ** -0.7

    def formula(theta: Tensor) -> Tensor:
        waves = torch.sin(2.5 * (theta * weight.to(theta)) @ directions.to(theta) + phases.to(theta))
        return waves @ mixing.to(theta)

    return formula


# --- dust in the far infrared ---------------------------------------------------------------------------------------

_WAVELENGTHS = torch.linspace(1.3, 3.0, 28)  # log10 of micrometres
_DUST_FLOOR = -3.5
_TEN = math.log(10.0)


def dust(theta: Tensor) -> Tensor:
    r"""log10 of the flux of a dusty galaxy at 28 wavelengths from 20 to 1,000 micrometres.

    Four components of one size, each a black body behind its own dust:
    :math:`F = (s / d)^2 \sum_i (1 - e^{-\tau_i}) B(\lambda, T_i)` with
    :math:`\tau_i = M \kappa s^{-2} m_i (\lambda / 200)^{-\beta_i}` (Casey, MNRAS 425, 2012), and a weak floor. Mass and
    opacity are seen as a product only.

    Parameters: log10 of distance d, mass M, opacity kappa and size s; for each component log10 of its share m and of
    its temperature (K), and beta.
    """
    distance, mass, opacity, size = theta[:, :4, None].unbind(dim=1)
    shares, temperatures, slopes = theta[:, 4:].reshape(-1, 4, 3)[..., None].unbind(dim=2)  # (N, 4, 1)
    at = _WAVELENGTHS.to(theta)
    depth = torch.exp(_TEN * ((mass + opacity - 2 * size)[:, None] + shares - slopes * (at - 2.3)))
    x = torch.exp(_TEN * (math.log10(_SECOND_RADIATION / 1e3) - at - temperatures))
    log_planck = -3 * _TEN * (at - 2) - x - torch.log(-torch.expm1(-x))
    parts = torch.log(-torch.expm1(-depth)) + log_planck
    floor = torch.full_like(parts[:, :1], _TEN * _DUST_FLOOR)
    return 2 * (size - distance) + torch.logsumexp(torch.cat([parts, floor], dim=1), dim=1) / _TEN


# --- the impedance of an electrode ----------------------------------------------------------------------------------

_HERTZ = torch.logspace(-1.5, 3.5, 28)


def impedance(theta: Tensor) -> Tensor:
    r"""log10 of the squared modulus of an electrochemical cell's impedance at 28 frequencies from .03 to 3,000 Hz.

    Six relaxations in series and a finite diffusion (Barsoukov and Macdonald, Impedance Spectroscopy, 2005):

    .. math:: Z(\omega) = A^{-1} \left(R_0 + \sum_i \frac{R_i}{1 + (i \omega t_i)^n}
       + R_d \frac{\tanh \sqrt{10 i \omega}}{\sqrt{10 i \omega}}\right).

    Their time constants lie so close that their arcs overlap.

    Parameters: log10 of the area A and of R_0, the exponent n; log10 of R_i and t_i (s) of each relaxation; log10 of
    R_d.
    """
    area, ohmic, exponent = theta[:, :3, None].unbind(dim=1)
    sizes, times = theta[:, 3:15].reshape(-1, 6, 2)[..., None].unbind(dim=2)  # (N, 6, 1)
    omega = 2 * math.pi * _HERTZ.to(theta)
    angle = math.pi / 2 * exponent[:, None]
    power = torch.exp(exponent[:, None] * (torch.log(omega) + _TEN * times))
    real, imaginary = 1 + power * torch.cos(angle), power * torch.sin(angle)
    arcs = 10**sizes / (real**2 + imaginary**2)
    root = torch.sqrt(10j * omega)
    diffusion = 10 ** theta[:, 15:16] * (torch.tanh(root) / root)
    resistance = 10**ohmic + (arcs * real).sum(dim=1) + diffusion.real
    reactance = diffusion.imag - (arcs * imaginary).sum(dim=1)
    return torch.log10(resistance**2 + reactance**2) - 2 * area


# --- the relaxation of water in rock --------------------------------------------------------------------------------

_ECHOES = torch.logspace(-3.3, 0.2, 28)  # s
_RELAXATION_FLOOR = -1.0


def relaxation(theta: Tensor) -> Tensor:
    r"""log10 of the nuclear magnetic signal of water in rock at 28 times from .5 ms to 1.6 s.

    Pores of six sizes p decay each at their own rate (Brownstein and Tarr, Physical Review A 19, 1979):
    :math:`S(t) = g (\sum_i m_i e^{-t / T_i} + f)`, :math:`1 / T_i = 1 / T_b + \rho / p_i + D`, with a floor f. Only
    the ratios of relaxivity rho and sizes are seen, and neighbours are hard to tell apart.

    Parameters: log10 of the gain g, of rho, of T_b (s) and of D (1/s); log10 of the share m and of the size of each.
    """
    gain, relaxivity, bulk, diffusion = theta[:, :4, None].unbind(dim=1)
    shares, pores = theta[:, 4:].reshape(-1, 6, 2)[..., None].unbind(dim=2)  # (N, 6, 1)
    rate = 10 ** -bulk[:, None] + 10 ** (relaxivity[:, None] - pores) + 10 ** diffusion[:, None]
    left = _TEN * shares - rate * _ECHOES.to(theta)
    floor = torch.full_like(left[:, :1], _TEN * _RELAXATION_FLOOR)
    return gain + torch.logsumexp(torch.cat([left, floor], dim=1), dim=1) / _TEN


# --- the emulators ----------------------------------------------------------------------------------------------------


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
    names = tuple(f"p{i}" for i in range(STIFF_PARAMETERS))
    ends = (0.0,) * STIFF_PARAMETERS, (1.0,) * STIFF_PARAMETERS
    return Emulator(names, *ends, stiff(seed), (90,) * 6, "relu")


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
        (4000.0, -2.0, -400.0, 15.0, 0.0), (8000.0, 0.5, 400.0, 60.0, 2.0), spectrum, (200, 200),
        "leaky_relu:0.01",
    ),
    "stiff-a": _stiff(1),
    "stiff-b": _stiff(2),
    "dust": _boxed(dust, 80, "swish", {
        "log distance": (-1.25, 1.25), "log mass": (-0.5, 0.5), "log opacity": (-0.3, 0.3), "log size": (-0.2, 0.2),
    } | {
        f"{what} {i}": ends
        for i, (share, temperature) in enumerate(((0.0, 1.25), (-0.6, 1.4), (-1.4, 1.55), (-2.4, 1.7)), 1)
        for what, ends in (
            ("log share", (share - 0.3, share + 0.3)), ("log temperature", (temperature - 0.08, temperature + 0.08)),
            ("beta", (1.4, 2.0)))
    }, LONG),
    "impedance": _boxed(impedance, 80, "leaky_relu:0.01", {
        "log area": (-2.0, 2.0), "log ohmic": (-1.0, 0.0), "exponent": (0.7, 0.9),
    } | {
        f"{what} {i}": ends for i, time in enumerate((-2.5, -2.2, -1.9, -1.6, -1.3, -1.0), 1) for what, ends in (
            ("log resistance", (-1.0, 0.0)), ("log time", (time - 0.15, time + 0.15)))
    } | {"log diffusion": (-0.5, 0.5)}, LONG),
    "relaxation": _boxed(relaxation, 90, "relu", {
        "log gain": (-2.0, 2.0), "log relaxivity": (-0.2, 0.2), "log bulk": (0.0, 0.5), "log diffusion": (-1.0, 0.0),
    } | {
        f"{what} {i}": ends for i, pore in enumerate((-2.4, -2.1, -1.8, -1.5, -1.2, -0.9), 1) for what, ends in (
            ("log share", (-1.0, 0.0)), ("log pore", (pore - 0.15, pore + 0.15)))
    }, LONG),
}  # fmt: skip


TUNED = ("spectrum", "stiff-a", "stiff-b")


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
