"""
Fit Planck's spectra
====================

TT, TE and EE of Planck 2018 by three published networks: 613 bins with their covariance, six cosmological parameters, a
calibration, and a prior for the optical depth. :doc:`A page of its own </planck>` says where the data are, and shows
what comes out. The networks are CosmoPower-JAX's (``pip install cosmopower-jax --no-deps``); JAX is not needed. As
these pages are built without the data, nothing is printed here::

    python examples/fit_planck.py planck-lite-py/data/planck2018_plik_lite
"""

import sys
from importlib.util import find_spec

import numpy as np

import unrelu

# %%
# The networks share parameters by name. Those of TT and EE give logarithms, that of TE principal components. A
# calibration, known to 0.25%, divides all spectra by its square.

data, nets = sys.argv[1], find_spec("cosmopower_jax").submodule_search_locations[0]
tt, ee = (unrelu.load(f"{nets}/trained_models/cmb_{name}.pkl", output_log=10) for name in ("tt", "ee"))
std, mean = (np.load(f"{nets}/pca_utils/cmb_te_training_{name}.npy") for name in ("std", "mean"))
basis = np.load(f"{nets}/pca_utils/cmb_te_pca_transform_matrix.npy") * std
te = unrelu.load(f"{nets}/trained_models/cmb_te.pkl", output_basis=(basis, mean))
net = unrelu.extend(unrelu.join(tt=tt, te=te, ee=ee), lambda x, cal: x / cal**2, cal=unrelu.Normal(1, 0.0025))

# %%
# Band powers, the weights of multipoles in bins, and the covariance: the lower triangle, in a record of Fortran. The
# networks begin at multipole 2, the bins at 30, and the networks' unit is :math:`(2.7255\,\mathrm{K})^2`.

values = np.loadtxt(f"{data}/cl_cmb_plik_v22.dat")[:, 1]
first, last = (np.loadtxt(f"{data}/bl{end}.dat").astype(int) for end in ("min", "max"))
weights, bins = np.loadtxt(f"{data}/bweight.dat"), np.zeros((215, 2507))
for row, low, high in zip(bins, first, last, strict=False):
    row[low + 28 : high + 29] = 2.7255e6**2 * weights[low : high + 1]
lower = np.tril(np.fromfile(f"{data}/c_matrix_plik_v22.dat", offset=4, count=613**2).reshape(613, 613))

# %%
# What was measured, stated once, and three answers: the best fit, the profile likelihood of h, the posterior.

problem = {
    "y": {"tt": values[:215], "te": values[215:414], "ee": values[414:]},
    "operator": {"tt": bins, "te": bins[:199], "ee": bins[:199]},
    "noise": unrelu.Gaussian(covariance=lower + np.tril(lower, -1).T),
    "prior": unrelu.Normal({"tau_reio": 0.0544}, {"tau_reio": 0.0073}),
    "bounds": {"omega_b": (0.019, 0.025), "omega_cdm": (0.08, 0.16), "h": (0.5, 0.9), "tau_reio": (0.01, 0.15),
               "n_s": (0.85, 1.1), "ln10^{10}A_s": (2.6, 3.5)},
}  # fmt: skip
print(unrelu.invert(net, **problem))
profile = unrelu.profile(net, names="h", values=np.linspace(0.66, 0.695, 15), **problem)
posterior = unrelu.posterior(net, **problem)
print(profile, posterior, sep="\n")
profile.plot().savefig("profile.png")
posterior.plot_corner(["omega_cdm", "h", "n_s"]).savefig("posterior.png")
