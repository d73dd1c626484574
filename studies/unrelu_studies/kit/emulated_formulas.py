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


# --- the luminosity function of galaxies ------------------------------------------------------------------------------

_MAGNITUDES = torch.linspace(-23.0, -15.5, 7)
_EPOCHS = torch.tensor([4.0, 6.0, 8.0, 10.0])
_FAINTEST = -6.5  # log10 of the density that a survey can count


def luminosity(theta: Tensor) -> Tensor:
    r"""log10 of the number density of galaxies at seven absolute magnitudes and four redshifts, 28 in all.

    A double power law, :math:`\phi^* / (10^{0.4 (\alpha + 1) d} + 10^{0.4 (\beta + 1) d})` with
    :math:`d = M - M^* - A(M)`, whose parameters change with redshift (Bowler et al., MNRAS 493, 2020), dimmed by dust
    that follows the magnitude, with a turnover at the faint end, fewer galaxies after a redshift of quenching, and a
    smooth floor where a survey counts none.

    Parameters: log phi* and its evolution, M* and its evolution, alpha and its evolution, beta and its evolution, dust
    and its slope, the magnitude of the turnover and its sharpness, the redshift of quenching and its depth.
    """
    parts = theta[:, :, None, None].unbind(dim=1)
    phi, phi_z, m, m_z, alpha, alpha_z, beta, beta_z, dust, dust_slope, turn, sharp, quenched, depth = parts
    magnitude, z = _MAGNITUDES.to(theta), (_EPOCHS.to(theta) - 6)[:, None]
    fades = dust * torch.exp(-0.25 * (z + 2)) * torch.nn.functional.softplus(-dust_slope * (magnitude + 19.5) + 0.5)
    away = magnitude - (m + m_z * z) - fades
    faint, bright = alpha + alpha_z * z, beta + beta_z * z
    terms = torch.stack([0.4 * math.log(10) * (slope + 1) * away for slope in (faint, bright)])
    density = phi + phi_z * z - torch.logsumexp(terms, dim=0) / math.log(10)
    cut = torch.nn.functional.softplus(sharp * (magnitude - turn)) / math.log(10)
    lost = depth * torch.sigmoid(1.5 * (quenched - 6 - z)) * torch.sigmoid(-(magnitude + 20))
    seen = density - cut - lost
    return (_FAINTEST + torch.nn.functional.softplus(2 * (seen - _FAINTEST)) / 2).flatten(1)


# --- pyrolysis --------------------------------------------------------------------------------------------------------

_KELVIN = torch.linspace(450.0, 1000.0, 24)
_GAS = 8.314e-3  # kJ/mol/K
_REFERENCE = 1 / 650.0


def pyrolysis(theta: Tensor) -> Tensor:
    r"""The mass left of a sample that is heated at two rates, at 24 temperatures from 450 to 1,000 K each: 48 outputs.

    Three components react at once, :math:`d\alpha/dT = (A/\beta) e^{-E/RT} (1 - \alpha)^n`, as in biomass (Di Blasi,
    Progress in Energy and Combustion Science 34, 2008). A and E compensate each other.

    Parameters: log10 of the rate at 650 K (1/min), E (kJ/mol), order n and share of each component; char and moisture.
    """
    rates, energies, orders, shares = theta[:, :12].reshape(-1, 3, 4)[..., None].unbind(dim=2)  # (N, 3, 1)
    char, moisture = theta[:, 12:13], theta[:, 13:14]
    fine = torch.linspace(400.0, 1000.0, 241).to(theta)
    speed = torch.exp(torch.clamp(math.log(10) * rates - energies / _GAS * (1 / fine - _REFERENCE), max=12.0))
    area = torch.cumsum(speed, dim=-1) * (fine[1] - fine[0])
    at = torch.round((_KELVIN - 400.0) / 2.5).long()
    shares = shares / (shares.sum(dim=1, keepdim=True) + 0.1)
    curves = []
    for heating in (5.0, 40.0):
        left = (1 + (orders - 1) * area[..., at] / heating) ** (-1 / (orders - 1))
        solid = (shares * (char[..., None] + (1 - char[..., None]) * left)).sum(dim=1)
        wet = moisture * torch.sigmoid((480.0 + 8 * heating**0.5 - _KELVIN.to(theta)) / 20)
        curves.append(solid + wet)
    return torch.cat(curves, dim=1)


# --- a structure that vibrates ----------------------------------------------------------------------------------------

_FREQUENCIES = torch.linspace(0.2, 4.0, 40)


def vibration(theta: Tensor) -> Tensor:
    r"""log10 of the amplitude of a structure's response to a force, at 40 frequencies from .2 to 4.

    Five modes, and the residual of those above:
    :math:`|H(f)| = |\sum_j a_j (f_j^2 - f^2 + 2 i \zeta_j f_j f)^{-1} + r|` (Ewins, Modal Testing, 2000).

    Parameters: frequency, log10 damping and amplitude of each mode; r.
    """
    places, damping, sizes = theta[:, :15].reshape(-1, 5, 3)[..., None].unbind(dim=2)  # (N, 5, 1)
    f = _FREQUENCIES.to(theta)
    real, imaginary = places**2 - f**2, 2 * 10**damping * places * f
    size = real**2 + imaginary**2
    total = (sizes * real / size).sum(dim=1) + theta[:, 15:16]
    other = (sizes * imaginary / size).sum(dim=1)
    return torch.log10(total**2 + other**2 + 1e-3) / 2


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
