"""The kilonova AT2017gfo by fiesta's networks, one for each filter, with an unknown error of the model.

A network predicts coefficients of the singular vectors of light curves in absolute magnitudes, on a grid of days. The
distance adds its modulus; observed times are interpolated. Published errors of the photometry are smaller than what the
networks are off by, so an additional standard deviation in magnitudes is fitted together with the eight parameters.

Source: Koehn et al., "Efficient Bayesian analysis of kilonovae and gamma ray burst afterglows with fiesta",
arXiv:2507.13807. The photometry is what fiesta compiled, between .05 and 14 days. The posterior is drawn again by
emcee: Foreman-Mackey et al., "emcee: the MCMC hammer", PASP 125 (2013) 306, arXiv:1202.3665.
"""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from emcee import EnsembleSampler
from scipy.optimize import least_squares
from torch import Tensor, nn

import unrelu
from unrelu.runtime.array_types import Array
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.others.data_of_others import data_file
from unrelu_studies.benchmarks.others.stellar_spectrum import interpolated
from unrelu_studies.kit.timing import processor_seconds, timed

FILTERS = ("ps1::g", "ps1::r", "ps1::i", "ps1::z", "ps1::y", "2massj", "2massh", "2massks", "sdssu")
BOUNDS = {
    "log10_mej_dyn": (-3.0, -1.3), "v_ej_dyn": (0.12, 0.28), "Ye_dyn": (0.15, 0.35), "log10_mej_wind": (-2.0, -0.886),
    "v_ej_wind": (0.05, 0.15), "Ye_wind": (0.2, 0.4), "inclination_EM": (0.0, np.pi / 2), "distance": (30.0, 50.0),
}  # fmt: skip
# The redshift of the host galaxy, and when gravitational waves said that the stars had merged, in days since 1970.
_REDSHIFT, _MERGER = 0.0098, 57982.5285236896 - 40587.0
_DAYS = (0.05, 14.0)
LARGEST = 1.0  # magnitudes
# Within one per cent: with the level fitted, -2 log L rises by n log 1.01 if squares of residuals rise by one per cent.
SEEDS, STARTS, WITHIN = 10, 200, 1.01
WALKERS, STEPS = 64, 20_000


class _Held:
    """An object of a class that is not imported: only what was stored of it."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __call__(self, *_: Any) -> type:
        return _Held


def _restored(make: Any, arguments: Any, state: Any, *_: Any) -> Any:
    array = make(*arguments)
    array.__setstate__(state)
    return array


class _Metadata(pickle.Unpickler):
    """fiesta's description of a model without its classes: NumPy's arrays, and :class:`_Held` for all else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in (
            "ndarray", "dtype", "_reconstruct", "scalar",
        ):  # fmt: skip
            return super().find_class(module, name)
        return _restored if name in ("_create_array", "_reconstruct_array") else type(name, (_Held,), {})


def _metadata(file: IO[bytes]) -> dict[str, Any]:
    found: dict[str, Any] = _Metadata(file).load()
    return found


class LightCurves(nn.Module):
    """Apparent magnitudes (B, m) at the observed times, filter by filter, of parameters (B, 8)."""

    def __init__(self, data: str | None, days: dict[str, Array]) -> None:
        super().__init__()
        with data_file(data, "fiesta", "Bu2025_metadata.pkl").open("rb") as file:
            stored = _metadata(file)
        self.grid, scaler = torch.tensor(stored["times"].astype(float)), stored["X_scaler"].scaler
        self.low, self.high = (torch.tensor(each.astype(float)) for each in (scaler.min_val, scaler.max_val))
        self.curves: list[tuple[Any, ...]] = []
        for name, observed in days.items():
            network = unrelu.load(
                data_file(data, "fiesta", f"Bu2025_{name}.pkl"), activation=["relu"] * 3 + ["identity"]
            )
            (svd,) = stored["y_scaler"][name].scalers
            arrays = (svd.VA, svd.scaler.min_val, svd.scaler.max_val, observed)
            self.curves.append((network, *(torch.tensor(each.astype(float)) for each in arrays)))

    def forward(self, parameters: Tensor) -> Tensor:
        """Predict absolute magnitudes on the grid, add the distance modulus and interpolate."""
        z = torch.cat([parameters[:, :-1], torch.full_like(parameters[:, :1], _REDSHIFT)], 1)
        z = (z - self.low) / (self.high - self.low)
        modulus = 5 * torch.log10(parameters[:, -1:] * 1e5)
        return torch.cat([
            interpolated(days.expand(len(z), -1), self.grid, low + (high - low) * (network.forward(z) @ vectors))
            for network, vectors, low, high, days in self.curves
        ], dim=1) + modulus  # fmt: skip


def read_photometry(data: str | None) -> tuple[dict[str, Array], Array, Array]:
    """Observed days since the merger by filter, and the magnitudes with their errors in the same order.

    Upper limits, whose error is infinite, are left out.

    Raises:
        OptionError, InputError: the file is missing.
    """
    path: Path = data_file(data, "fiesta", "AT2017gfo.dat")
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in FILTERS}
    for when, name, magnitude, error in map(str.split, path.read_text().splitlines()):
        day = datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp() / 86400 - _MERGER
        if _DAYS[0] <= day <= _DAYS[1] and np.isfinite(float(error)):
            rows[name].append((day, float(magnitude), float(error)))
    days = {name: np.array(each)[:, 0] for name, each in rows.items() if each}
    _, y, errors = np.concatenate([np.array(rows[name]) for name in days]).T
    return days, y, errors


def _restarts(network: unrelu.Generator, y: Array, errors: Array, seed: int, count: int) -> tuple[Array, float]:
    """The lowest -2 log L of parameters and level by SciPy's trf from each start, up to a constant, and the seconds.

    The likelihood has the terms (r / s)^2 + log s^2. They are squares after a constant is added to the logarithm.
    """
    low, high = np.transpose([*BOUNDS.values(), (0.0, LARGEST)])
    constant = 1 - np.log(np.square(errors).min())
    width = high - low

    def parts(t: Array) -> tuple[Array, Array, Array, Array]:
        p = low + width * t
        spread = np.hypot(errors, p[-1])
        return p, spread, (network.outputs(p[None, :-1])[0] - y) / spread, np.sqrt(np.log(spread**2) + constant)

    def residuals(t: Array) -> Array:
        return np.concatenate(parts(t)[2:])

    def jacobian(t: Array) -> Array:
        p, spread, r, root = parts(t)
        slopes = network.linearize(torch.tensor(p[None, :-1]))[1][0].numpy().T / spread[:, None]
        level = p[-1] / spread**2
        top = np.column_stack([slopes, -r * level])
        bottom = np.column_stack([np.zeros_like(slopes), level / root])
        return np.asarray(np.concatenate([top, bottom]) * width)

    rng = stream("starts on a kilonova", seed)
    runs, seconds = timed(
        lambda: [
            least_squares(residuals, rng.random(len(low)), jacobian, (0.0, 1.0), "trf") for _ in range(count)
        ],
        processor_seconds,
    )  # fmt: skip
    return np.array([2 * run.cost - len(y) * constant for run in runs]), seconds / count


def deviance(network: unrelu.Generator, y: Array, errors: Array, z: Array, level: float) -> float:
    """-2 log L of parameters and a level, less the constant of the normal distribution."""
    spread = np.hypot(errors, level)
    return float(np.square((network.outputs(z[None])[0] - y) / spread).sum() + np.log(spread**2).sum())


def _ensemble(network: unrelu.Generator, y: Array, errors: Array, seed: int, best: Array, steps: int) -> Array:
    """Parameters and level (N, 9) by emcee's walkers on the same density, flat within the ranges; half is discarded."""
    low, high = np.transpose([*BOUNDS.values(), (0.0, LARGEST)])

    def log_density(t: Array) -> Array:
        inside = np.all((t > 0) & (t < 1), axis=1)
        p = low + (high - low) * np.where(inside[:, None], t, 0.5)
        spread = np.hypot(errors, p[:, -1:])
        r = (network.outputs(p[:, :-1]) - y) / spread
        return np.where(inside, -0.5 * np.square(r).sum(axis=1) - np.log(spread).sum(axis=1), -np.inf)

    rng = stream("walkers on a kilonova", seed)
    near = np.clip((np.append(best, LARGEST / 2) - low) / (high - low), 0.05, 0.95)
    start = np.clip(near + 0.02 * rng.standard_normal((WALKERS, len(low))), 0.001, 0.999)
    sampler = EnsembleSampler(WALKERS, len(low), log_density, vectorize=True)
    sampler.random_state = np.random.RandomState(rng.integers(2**31)).get_state()
    sampler.run_mcmc(start, steps)
    return np.asarray(low + (high - low) * sampler.get_chain(discard=steps // 2, flat=True))


def measure_kilonova(data: str | None, seed: int, quick: bool = False) -> dict[str, Any]:
    """Fit parameters and level by ten seeds, beside trf from 200 starts, and draw from their posterior."""
    days, y, errors = read_photometry(data)
    network = unrelu.from_torch(LightCurves(data, days), bounds=BOUNDS)
    stated: dict[str, Any] = {"noise": unrelu.Gaussian(errors, extra=(0, LARGEST))}
    fits = [
        timed(lambda own=own: unrelu.invert(network, y, seed=own, **stated), processor_seconds)  # type: ignore[misc]
        for own in range(seed, seed + (2 if quick else SEEDS))
    ]
    ends, each = _restarts(network, y, errors, seed, 10 if quick else STARTS)
    found = fits[0][0]
    level = found.levels["extra"]
    values = [deviance(network, y, errors, fit.z, fit.levels["extra"].value) for fit, _ in fits]
    p, spent = timed(lambda: unrelu.posterior(network, y, seed=seed, **stated), processor_seconds)
    ensemble = _ensemble(network, y, errors, seed, found.z, 400 if quick else STEPS)
    drawn = np.column_stack([p.z.reshape(-1, len(BOUNDS)), p.levels["extra"].ravel()])
    off = np.abs(drawn.mean(axis=0) - ensemble.mean(axis=0)) / ensemble.std(axis=0)
    return {
        "part": "kilonova", "points": len(y), "deviances": values, "trf best": float(ends.min()),
        "trf within": float((ends <= ends.min() + len(y) * np.log(WITHIN)).mean()), "starts": len(ends),
        "trf ten": 10 * each,
        "p": float(found.p_value), "level": [level.value, level.error], "confidence": float(found.confidence),
        "status": found.status.name, "seconds": [spent for _, spent in fits],
        "fitted": {name: float(value) for name, value in found.parameters.items()},
        "posterior": {
            "status": p.status.name, "mean": p.mean.tolist(), "std": p.std.tolist(),
            "level": [float(drawn[:, -1].mean()), float(drawn[:, -1].std())], "off by": float(off.max()),
            "widths": (drawn.std(axis=0) / ensemble.std(axis=0)).tolist(), "seconds": spent,
        },
    }  # fmt: skip
