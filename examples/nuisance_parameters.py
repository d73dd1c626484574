"""
Nuisance parameters
===================

An instrument has a gain, a slope of its background, a wavelength scale that is off by a fraction of a pixel. None of
them is in the generator, and a fit that ignores them is a misfit. ``unrelu.extend`` adds them to the generator as
further latent coordinates, each within bounds.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import unrelu

# %%
# A generator of spectra: 12 lines on a continuum of 1, whose depths are those of 3 parameters. Its weights are written
# down here instead of being learned.

rng = np.random.default_rng([16, 1])
pixels = np.arange(300)
lines = np.exp(-0.5 * ((pixels[:, None] - rng.uniform(10, 290, 12)) / 4) ** 2)
net = unrelu.from_arrays(
    [rng.normal(size=(12, 3)), -0.3 * lines], [np.full(12, 1.0), np.ones(300)], activation=["relu", "identity"]
)
position = torch.linspace(-1, 1, 300)


def tilt(x, slope):
    """A continuum that is not flat."""
    return x * (1 + slope * position.to(x))


wide = unrelu.extend(net, tilt, slope=(-0.5, 0.5), scale=(0.5, 2), shift=(-3, 3))
truth = rng.normal(size=3)
y = wide(wide.join(truth, slope=0.2, scale=1.3, shift=1.4)) + rng.normal(0, 0.02, 300)

# %%
# The same spectrum is fitted by the bare generator and by the extended one.

bare = unrelu.invert(net, y, noise="gaussian:0.02")
r = unrelu.invert(wide, y, noise="gaussian:0.02")
code, found = wide.split(r.z)
print(f"bare: {bare.status}, p-value {bare.p_value:.1g}")
print(f"extended: {r.status}, p-value {r.p_value:.2f}, identifiable {r.identifiable}")
print(f"  slope {found['slope']:.2f}, scale {found['scale']:.2f}, shift {found['shift']:.2f}")
print(f"  largest error of the code: {np.abs(code - truth).max():.2f}")

figure, axes = plt.subplots(2, 1, figsize=(8, 4.5), sharex=True, layout="constrained")
for axis, (name, fit) in zip(axes, {"bare generator": bare, "with nuisance parameters": r}.items(), strict=True):
    axis.plot(y, ".", color="silver", label="observed")
    axis.plot(fit.reconstruction, color="tab:red" if fit is bare else "tab:green", label=name)
    axis.set_title(f"{name}: {fit.status}, p = {fit.p_value:.2g}")
    axis.legend(loc="lower left", ncols=2)
axes[1].set_xlabel("pixel")
plt.show()
