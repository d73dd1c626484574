"""
Fit a power spectrum with CosmoPower's network
==============================================

A spectrum of the cosmic microwave background in 82 bins, whose errors depend on each other; six cosmological parameters
in a box, a Gaussian prior for one of them, and a calibration that is known to 1%. The network is that of
CosmoPower-JAX, read from the file in its package (``pip install cosmopower-jax --no-deps``); JAX is not needed. SciPy's
bounded least squares fits the same density.
"""

import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import least_squares

import unrelu

# %%
# The network puts out logarithms of :math:`C_\ell`. Its package is found, and not run. A calibration multiplies the
# spectrum.

package = find_spec("cosmopower_jax")
if package is None:
    raise SystemExit("this example reads a file of a package: pip install cosmopower-jax --no-deps")
file = Path(package.submodule_search_locations[0]) / "trained_models" / "cmb_tt.pkl"
cmb = unrelu.load(file, output_log=10)
net = unrelu.extend(cmb, lambda x, calibration: calibration * x, calibration=unrelu.Normal(1, 0.01))
print(cmb)

# %%
# The measurement is :math:`D_\ell = \ell (\ell + 1) C_\ell / 2 \pi` in square microkelvins, averaged over bins. The
# covariance is that of cosmic variance on 0.6 of the sky, and of a beam that is off by half a per cent at
# :math:`\ell = 2000`, which is marginalised.

multipoles = np.arange(2, 2 + cmb.output_dim)
edges = np.array([*range(2, 30, 4), *range(30, 2500, 33), 2509])
window = np.array([(low <= multipoles) & (multipoles < high) for low, high in pairwise(edges)], dtype=float)
window *= 2.7255e6**2 * multipoles * (multipoles + 1) / (2 * np.pi) / np.diff(edges)[:, None]
at = (edges[:-1] + edges[1:] - 1) / 2

truth = {"omega_b": 0.0224, "omega_cdm": 0.12, "h": 0.674, "tau_reio": 0.054, "n_s": 0.965, "ln10^{10}A_s": 3.044}
clean = window @ cmb(list(truth.values()))
beam = 0.005 * clean * (at / 2000) ** 2
covariance = np.diag(2 * clean**2 / ((2 * at + 1) * np.diff(edges) * 0.6)) + np.outer(beam, beam)
y = np.random.default_rng([37, 1]).multivariate_normal(1.008 * clean, covariance)

bounds = {
    "omega_b": (0.019, 0.025), "omega_cdm": (0.08, 0.16), "h": (0.5, 0.9),
    "tau_reio": (0.01, 0.15), "n_s": (0.85, 1.1), "ln10^{10}A_s": (2.6, 3.5),
}  # fmt: skip
prior = unrelu.Normal({"tau_reio": 0.054}, {"tau_reio": 0.007})
noise = unrelu.Gaussian(covariance=covariance)

seconds = []
for _ in range(2):  # the first call learns how sure it can be on this generator
    begin = time.perf_counter()
    r = unrelu.invert(net, y, operator=window, noise=noise, prior=prior, bounds=bounds)
    seconds.append(time.perf_counter() - begin)
print(r)
local = r.laplace()
for name, value in {**truth, "calibration": 1.008}.items():
    low, high = local.intervals[name]
    print(f"  {name:13} {r.parameters[name]:8.5f} +- {(high - low) / 2:.5f}, true {value:g}")

# %%
# The same density in SciPy: whitened residuals, and a residual for each Gaussian prior. The seventh coordinate of the
# code is the calibration in standard deviations. Both use the exact Jacobian of the network.

whiten = np.linalg.inv(np.linalg.cholesky(covariance))
lower, upper = np.array([*bounds.values(), (-5, 5)]).T
gaussian = np.diag([0, 0, 0, 1 / 0.007, 0, 0, 1])[[3, 6]]


def residuals(z):
    """Their squares add up to the objective of ``invert``."""
    return np.append(whiten @ (window @ net(z) - y), gaussian @ z - [0.054 / 0.007, 0])


def slopes(z):
    """The Jacobian of the residuals."""
    return np.vstack([whiten @ window @ net.jacobian(z), gaussian])


draw = np.random.default_rng([37, 2])
begin = time.perf_counter()
fits = [
    least_squares(residuals, draw.uniform(lower, upper), slopes, (lower, upper), x_scale=upper - lower)
    for _ in range(5)
]
seconds_of_scipy = time.perf_counter() - begin
best = min(fits, key=lambda fit: fit.cost)
print(f"unrelu: chi-square and priors {r.fun:.3f}, {seconds[0]:.1f} s at first, {seconds[1]:.1f} s later")
worst = max(fits, key=lambda fit: fit.cost)
print(f"SciPy: {2 * best.cost:.3f}, {seconds_of_scipy:.1f} s for 5 fits, the worst {2 * worst.cost:.3f}")
print(f"the parameters differ by at most {np.abs((best.x - r.z) / local.std).max():.1g} standard deviations")

# %%
# All fits end at the same optimum. ``invert`` needs no residuals and Jacobians to be written, and adds the p-value, the
# confidence, and parameters by name.

figure, axes = plt.subplots(2, 1, figsize=(8, 4.5), sharex=True, layout="constrained", height_ratios=[2, 1])
error = np.sqrt(np.diag(covariance))
axes[0].errorbar(at, y, error, fmt=".", color="silver", label="observed")
axes[0].plot(at, window @ r.reconstruction, color="tab:blue", label="fit")
axes[0].plot(at, window @ net(best.x), ":", color="black", label="SciPy, best of five")
axes[0].set(ylabel="$D_\\ell$ ($\\mu K^2$)")
axes[0].legend()
axes[1].axhline(0, color="silver")
axes[1].plot(at, (y - window @ r.reconstruction) / error, ".")
axes[1].set(xlabel="multipole", ylabel="residual / error")
plt.show()
