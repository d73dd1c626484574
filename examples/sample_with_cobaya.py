"""
Sample with cobaya
==================

A generator as a ``Theory`` of cobaya, bins and their covariance as a ``Likelihood`` (``pip install cobaya``). The fit
tells cobaya where to begin, and how far to step. :doc:`From cobaya or candl </cobaya>` lists what corresponds to what.
"""

from importlib.util import find_spec

import numpy as np
from cobaya.likelihood import Likelihood
from cobaya.run import run
from cobaya.theory import Theory

import unrelu

# %%
# CosmoPower-JAX's network for TT (``pip install cosmopower-jax --no-deps``), and a spectrum in 36 bins of 60 multipoles
# whose calibration is known to 1%.

package = find_spec("cosmopower_jax").submodule_search_locations[0]
names = ["omega_b", "omega_cdm", "h", "tau_reio", "n_s", "logA"]  # cobaya takes only names that are Python's
tt = unrelu.load(f"{package}/trained_models/cmb_tt.pkl", output_log=10).named(names)
window = 1e12 * np.kron(np.eye(36), np.full((1, 60), 1 / 60)) @ np.eye(2507)[28:2188]
clean = window @ tt([0.0224, 0.12, 0.674, 0.054, 0.965, 3.044])
covariance = np.diag((0.01 * clean) ** 2)
y = np.random.default_rng([49, 1]).multivariate_normal(1.005 * clean, covariance)


class Spectrum(Theory):
    """What the network puts out for cobaya's parameters."""

    def get_requirements(self):
        return dict.fromkeys(names)

    def get_can_provide(self):
        return ["spectrum"]

    def calculate(self, state, want_derived=True, **parameters):
        state["spectrum"] = tt([parameters[name] for name in names])


class Bins(Likelihood):
    """The probability of the bins; the calibration belongs to the instrument."""

    def get_requirements(self):
        return {"spectrum": None, "cal": None}

    def logp(self, **_):
        x = self.provider.get_param("cal") * window @ self.provider.get_result("spectrum")
        return -0.5 * (y - x) @ np.linalg.solve(covariance, y - x)


# %%
# cobaya's priors, and what they are here: uniform ones are bounds, normal ones :class:`unrelu.Normal`.

priors = {
    "omega_b": {"min": 0.019, "max": 0.025}, "omega_cdm": {"min": 0.08, "max": 0.16}, "h": {"min": 0.5, "max": 0.9},
    "tau_reio": {"dist": "norm", "loc": 0.054, "scale": 0.007}, "n_s": {"min": 0.85, "max": 1.1},
    "logA": {"min": 2.6, "max": 3.5}, "cal": {"dist": "norm", "loc": 1.0, "scale": 0.01},
}  # fmt: skip
bounds = {name: (prior["min"], prior["max"]) for name, prior in priors.items() if "min" in prior}
net = unrelu.extend(tt, lambda x, cal: cal * x, cal=unrelu.Normal(1.0, 0.01))
known = {"operator": window, "bounds": bounds, "noise": unrelu.Gaussian(covariance=covariance)}
prior = unrelu.Normal({"tau_reio": 0.054}, {"tau_reio": 0.007})
fit, posterior = (f(net, y, prior=prior, **known) for f in (unrelu.invert, unrelu.posterior))
print(fit, posterior, sep="\n")

# %%
# The sampler begins at the fit. Proposals are as wide as its Laplace approximation.

wide = {name: (high - low) / 2 for name, (low, high) in fit.laplace().intervals.items()}
params = {name: {"prior": priors[name], "ref": fit.parameters[name], "proposal": wide[name]} for name in priors}
sampler = {"mcmc": {"seed": 1, "Rminus1_stop": 0.05, "max_samples": 4000}}
_, sampled = run({"theory": {"spectrum": Spectrum}, "likelihood": {"bins": Bins}, "params": params, "sampler": sampler})
chain = sampled.products(skip_samples=0.3)["sample"]
for name, mean, variance in zip(priors, chain.mean(), np.diag(chain.cov()), strict=True):
    ours = posterior.parameters[name]
    print(f"{name}: cobaya {mean:.5f} +- {variance**0.5:.5f}, unrelu {ours.mean():.5f} +- {ours.std():.5f}")
