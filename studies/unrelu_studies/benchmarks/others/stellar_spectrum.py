"""A spectrum of APOGEE by binspec's networks: one star, and two stars, beside SciPy's trf from forty starts.

binspec predicts each of 7,214 pixels by a network of its own. A spectrum is the product of normalised lines and a
continuum, shifted by the star's velocity and divided by a fit of its own continuum. Of two stars, the temperature and
the gravity of the second follow from the mass ratio q; their fluxes are added before the division.

Source: El-Badry et al., "Discovery and characterization of 3000+ main-sequence binaries from APOGEE spectra", MNRAS 476
(2018) 528, arXiv:1711.08793. The data are those of 2M13012770+5754582, which the paper fits by two stars.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import unrelu
from unrelu.runtime.array_types import Array
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.measurements.trf_fits import TrfFits, any_model
from unrelu_studies.benchmarks.others.data_of_others import data_file
from unrelu_studies.kit.timing import processor_seconds, timed

STARS = ("one star", "two stars")
_SPECTRUM = "spectrum_ap_id_2M13012770+5754582_"
# The boxes of binspec's own fits. Its lowest q is that of a second star of 4,150 K, about .83 for the best single fit.
_ONE = {
    "Teff": (4200, 7000),
    "logg": (4, 5),
    "Fe/H": (-1, 0.5),
    "Mg/Fe": (-0.3, 0.5),
    "vmacro": (0, 45),
    "dv": (-100, 100),
}
_COOLEST, _LEAST = 4150.0, 0.2
_SPEED_OF_LIGHT = 2.99792458e5  # km/s
# The last pixels of the first two of APOGEE's three detectors, and the degree of the continuum on each.
_DETECTORS, _DEGREE = (2920, 5320), 4
STARTS, _TEN, _TOLERANCE = 40, 10, 1e-8


def read_binspec(data: str | None, name: str) -> dict[str, Array]:
    """The arrays of one of binspec's files, in double precision.

    Raises:
        OptionError, InputError: the file is missing.
    """
    with np.load(data_file(data, "binspec", f"{name}.npz")) as file:
        return {key: file[key].astype(float) for key in file.files}


class LabelNetwork(nn.Module):
    """One of binspec's networks of a hidden layer or two, of labels scaled to [-1/2, 1/2]."""

    x_min: Tensor
    x_max: Tensor
    w_array_0: Tensor
    w_array_1: Tensor
    b_array_0: Tensor
    b_array_1: Tensor

    def __init__(self, arrays: dict[str, Array]) -> None:
        super().__init__()
        for key, value in arrays.items():
            self.register_buffer(key, torch.tensor(value))
        self.layers = sum(key.startswith("w_array") for key in arrays)

    def forward(self, labels: Tensor) -> Tensor:
        """Predict the outputs (B, n) of labels (B, k); a first weight (n, h, k) has a network for each output."""
        x = (labels - self.x_min) / (self.x_max - self.x_min) - 0.5
        if self.w_array_0.ndim == 3:
            hidden = torch.sigmoid(torch.einsum("nhk,bk->bnh", self.w_array_0, x) + self.b_array_0)
            return (hidden * self.w_array_1).sum(-1) + self.b_array_1
        for i in range(self.layers):
            x = x @ getattr(self, f"w_array_{i}").T + getattr(self, f"b_array_{i}")
            x = torch.sigmoid(x) if i < self.layers - 1 else x
        return x


class BinspecSpectra(nn.Module):
    """Normalised spectra (B, 7214) of the labels of one star, (B, 6), or of two, (B, 9)."""

    wavelength: Tensor

    def __init__(self, data: str | None) -> None:
        super().__init__()
        names = ("NN_normalized_spectra", "NN_unnormalized_spectra", "NN_radius", "NN_Teff2_logg2")
        self.lines, self.flux, self.radius, self.second = (LabelNetwork(read_binspec(data, name)) for name in names)
        pixels = read_binspec(data, "cannon_cont_pixels_apogee")["pixels_cannon"].astype(bool)
        self.errors = read_binspec(data, _SPECTRUM)["spec_err"]
        self.register_buffer("wavelength", torch.tensor(read_binspec(data, "apogee_wavelength")["wavelength"]))
        self.equal = _continuum(pixels, np.ones(len(pixels)))
        self.weighted = _continuum(pixels, self.errors)

    def star(self, labels: Tensor) -> Tensor:
        """The flux at its surface, up to a constant, (B, n)."""
        flux: Tensor = self.flux(labels[:, :4])
        flux = self.lines(labels[:, :5]) * self.equal(flux) / self.wavelength**2
        beta = labels[:, 5:] / _SPEED_OF_LIGHT
        return interpolated(self.wavelength * torch.sqrt((1 - beta) / (1 + beta)), self.wavelength, flux)

    def two(self, labels: Tensor) -> Tensor:
        """The flux of both, each by the square of its radius. The second is at most as hot, and at least as dense."""
        t1, g1, metals, alpha, q, v1, v2, dv1, dv2 = (labels[:, i : i + 1] for i in range(9))
        other = self.second(torch.cat([t1, g1, metals, q], 1))
        t2, g2 = torch.minimum(1000 * other[:, :1], t1), torch.maximum(other[:, 1:], g1)
        first, second = torch.cat([t1, g1, metals, alpha, v1, dv1], 1), torch.cat([t2, g2, metals, alpha, v2, dv2], 1)
        return torch.stack([self.radius(each[:, :3]) ** 2 * self.star(each) for each in (first, second)]).sum(0)

    def forward(self, labels: Tensor) -> Tensor:
        """Normalise the flux as the observed spectrum was, with weights by its errors."""
        flux = self.star(labels) if labels.shape[1] == len(_ONE) else self.two(labels)
        continuum: Tensor = self.weighted(flux)
        return flux / continuum

    def least_q(self, labels: Array) -> float:
        """The mass ratio at which the second star of a first (Teff, logg, Fe/H) is as cool as the networks know."""
        q = np.linspace(_LEAST, 1)
        rows = np.column_stack([np.tile(labels[:3], (len(q), 1)), q])
        return float(np.interp(_COOLEST, 1000 * self.second(torch.tensor(rows))[:, 0].numpy(), q))


class _Continuum(nn.Module):
    """Least-squares polynomials on each detector through the pixels that are continuum: linear maps of low rank."""

    def __init__(self, factors: list[tuple[Array, Array]]) -> None:
        super().__init__()
        self.factors = [(torch.tensor(basis), torch.tensor(fit)) for basis, fit in factors]

    def forward(self, flux: Tensor) -> Tensor:
        pieces = zip(torch.tensor_split(flux, _DETECTORS, dim=1), self.factors, strict=True)
        return torch.cat([piece @ fit.T @ basis.T for piece, (basis, fit) in pieces], dim=1)


def _continuum(pixels: Array, errors: Array) -> _Continuum:
    factors: list[tuple[Array, Array]] = []
    for chosen, error in zip(np.split(pixels, _DETECTORS), np.split(errors, _DETECTORS), strict=True):
        basis = np.asarray(np.polynomial.chebyshev.chebvander(np.linspace(-1, 1, len(chosen)), _DEGREE), float)
        weights = chosen / error
        factors.append((basis, np.linalg.pinv(weights[:, None] * basis) * weights))
    return _Continuum(factors)


def interpolated(x: Tensor, grid: Tensor, values: Tensor) -> Tensor:
    """Interpolate values (B, n) on a grid (n,) linearly at points (B, m), with constants beyond its ends."""
    x = x.clamp(grid[0], grid[-1])
    right = torch.searchsorted(grid, x.detach().contiguous()).clamp(1, len(grid) - 1)
    a, b = values.gather(1, right - 1), values.gather(1, right)
    share = (x - grid[right - 1]) / (grid[right] - grid[right - 1])
    return a + share * (b - a)


def measure_spectrum(data: str | None, stars: str, seed: int, quick: bool = False) -> dict[str, Any]:
    """Fit the spectrum by one star or by two: the first call and a later one, beside fits by trf."""
    spectra, bounds = BinspecSpectra(data), dict(_ONE)
    y, errors = read_binspec(data, _SPECTRUM)["spectrum"], spectra.errors
    stated: dict[str, Any] = {"noise": unrelu.Gaussian(errors), "seed": seed}
    if stars == STARS[1]:
        single = unrelu.invert(unrelu.from_torch(spectra, bounds=bounds), y, **stated)
        v, dv = bounds.pop("vmacro"), bounds.pop("dv")
        bounds |= {"q": (spectra.least_q(single.z), 1), "vmacro1": v, "vmacro2": v, "dv1": dv, "dv2": dv}
    network = unrelu.from_torch(spectra, bounds=bounds)
    first, seconds = timed(lambda: unrelu.invert(network, y, **stated), processor_seconds)
    found, later = timed(lambda: unrelu.invert(network, y, **stated), processor_seconds)

    low, high = np.transpose(list(bounds.values()))
    trf = TrfFits(any_model(network), low, high, 1 / errors, tolerance=_TOLERANCE)
    codes, each = trf.runs(y[None], 4 if quick else STARTS, stream("starts on a spectrum", seed))
    ends = trf.objective(codes[0], np.tile(y, (codes.shape[1], 1)))
    return {
        "part": "spectrum", "stars": stars, "parameters": len(bounds), "pixels": len(y),
        "chi-square": float(found.fun), "confidence": float(found.confidence), "status": found.status.name,
        "first": seconds, "later": later, "same": bool(np.array_equal(first.z, found.z)),
        "trf best": float(ends.min()), "trf reached": int((ends <= 1.0001 * min(ends.min(), found.fun)).sum()),
        "starts": len(ends), "trf ten": float(each.mean() * _TEN),
        "fitted": {name: float(value) for name, value in found.parameters.items()},
    }  # fmt: skip
