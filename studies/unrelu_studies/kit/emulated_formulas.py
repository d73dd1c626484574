r"""Formulas that emulators stand for, as functions of parameters (N, k) to outputs (N, n), differentiable.

They are short models of what scientists emulate, with the degeneracies of the real thing: products of which only one is
seen, amplitudes that trade with slopes, components that can change places, and parameters whose effect saturates.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from unrelu.runtime.streams import torch_stream

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


# --- the reionisation of the universe ---------------------------------------------------------------------------------

_REDSHIFTS = torch.linspace(18.0, 5.0, 53)
_OVERDENSITY = 1.686  # of the collapse of a sphere


def reionization(theta: Tensor) -> Tensor:
    r"""The neutral fraction at 14 redshifts from 11.5 to 5, log10 of the ionised one at 13 before, and tau.

    The ionised fraction Q is fed by galaxies and quasars and lost to recombination (Madau, Haardt and Rees, ApJ 514,
    1999); photons that meet ionised gas are lost: :math:`dQ/dt = (1 - Q) \dot n(z) - Q / t_{rec}(z)`. Stars form in the
    fraction of matter that has collapsed into halos (Press and Schechter, ApJ 187, 1974) above a mass of turnover; of
    their photons a share escapes. Both efficiencies follow the mass, and little else than their product is seen. tau is
    ten times the optical depth of electrons. Scales are rough: it has the shape of the answer, not its accuracy.

    Parameters: sigma_8, Omega_m, Omega_b, h, n_s; log of the efficiency of star formation at 10^10 solar masses and its
    slope, the same of the escaping share, log of the mass of turnover, the time scale of star formation; clumping and
    its slope, log of the gas's temperature; log of the emissivity of quasars and its slope.
    """
    parts = theta[:, :, None].unbind(dim=1)
    s8, matter, baryons, h, tilt = parts[:5]
    star, star_slope, esc, esc_slope, mass, t_star = parts[5:11]
    clump, clump_slope, heat, quasar, slope = parts[11:]
    z = _REDSHIFTS.to(theta)
    growth = 1.28 / (1 + z)
    # sigma(M) near 10^8...10^11 solar masses, a power law whose index follows n_s and the shape Omega_m h.
    masses = torch.linspace(0.0, 3.0, 7).to(theta)
    log_mass = (mass[:, :, None] + masses).transpose(1, 2)  # (N, 7, 1)
    index = 0.10 + 0.08 * (tilt - 0.96) + 0.05 * (matter * h - 0.2)
    sigma = 1.9 * s8[:, None] * 10 ** (-index[:, None] * (log_mass - 12.5)) * (1 + 0.6 * (matter * h - 0.2))[:, None]
    collapsed = torch.erfc(_OVERDENSITY / (math.sqrt(2) * sigma * growth))  # (N, 7, 53)
    share = collapsed - torch.cat([collapsed[:, 1:], torch.zeros_like(collapsed[:, :1])], dim=1)
    stars = 10 ** (star[:, None] + star_slope[:, None] * (log_mass - 10))
    escaping = 10 ** (esc[:, None] + esc_slope[:, None] * (log_mass - 10))
    fed = (share * stars * escaping / (1 + escaping)).sum(dim=1)
    photons = 20000 * fed * baryons / matter / 0.155
    hubble = torch.sqrt(matter * (1 + z) ** 3) * h / 0.7 * 3.0 / math.sqrt(27)
    rate = photons * hubble / t_star + 10**quasar * ((1 + z) / 7) ** (-slope) * 0.1
    recombination = (
        clump * ((1 + z) / 7) ** clump_slope * 10 ** (-0.7 * heat) * baryons * h**2 / 0.022 * ((1 + z) / 7) ** 3 * 0.35
    )
    step = 0.25 / ((1 + z) * hubble) * 2.2
    q, history = torch.zeros_like(rate[:, 0]), []
    for i in range(z.numel()):
        q = (q + step[:, i] * rate[:, i]) / (1 + step[:, i] * (rate[:, i] + recombination[:, i]))
        history.append(q)
    ionised = torch.stack(history, dim=1)
    depth = 0.035 * baryons * h / torch.sqrt(matter) * (ionised * torch.sqrt(1 + z)).sum(dim=1, keepdim=True)
    return torch.cat([1 - ionised[:, 26::2], torch.log10(ionised[:, 2:28:2]), 10 * depth], dim=1)


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


# --- blended lines ----------------------------------------------------------------------------------------------------

_VELOCITIES = torch.linspace(-200.0, 200.0, 30)


def absorption(theta: Tensor) -> Tensor:
    r"""The light that four blended clouds let through, in the two lines of a doublet, at 30 velocities each.

    .. math:: F(v) = e^{-\sum_j \tau_j(v)}, \quad \tau_j \propto N_j b_j^{-1} (e^{-x^2} + a / (x^2 + 3/2)),
       \quad x = (v - v_j) / b_j,

    with half of tau in the weaker line and part of the source left uncovered. Saturated lines no longer tell N from b.

    Parameters: velocity (km/s), log10 column and width b (km/s) of each cloud; the share that is not covered.
    """
    places, columns, widths = theta[:, :12].reshape(-1, 4, 3)[..., None].unbind(dim=2)  # (N, 4, 1)
    x = (_VELOCITIES.to(theta) - places) / widths
    depth = (10**columns * 30 / widths * (torch.exp(-(x**2)) + 0.02 / (x**2 + 1.5))).sum(dim=1)
    bare = theta[:, 12:13]
    return torch.cat([bare + (1 - bare) * torch.exp(-depth / ratio) for ratio in (1.0, 2.0)], dim=1)
