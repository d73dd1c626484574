"""
Fit a spectrum with an emulator
===============================

Four parameters in a box, and an error bar that differs for every pixel. A small network learns the light of a star
between 500 and 530 nm from a formula: Planck's law with lines that are shifted by a velocity and as broad as the star
rotates fast. The network stands for the formula then, and a noisy spectrum is fitted inside the bounds of its
parameters. Fits from a single start are often wrong: a line that is shifted further than it is broad does not pull.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import unrelu

WAVELENGTHS = torch.linspace(500.0, 530.0, 150)
LINES = torch.tensor([501.8, 504.2, 507.1, 511.4, 516.7, 517.3, 518.4, 523.3, 526.9])
DEPTHS = torch.tensor([0.3, 0.2, 0.25, 0.15, 0.4, 0.45, 0.5, 0.2, 0.3])
NAMES = ("temperature (K)", "velocity (km/s)", "width (km/s)", "line strength")
LOWER, UPPER = torch.tensor([4000.0, -400.0, 80.0, 0.2]), torch.tensor([8000.0, 400.0, 250.0, 1.5])


def spectrum(parameters):
    """The flux, 1 on average, of parameters (N, 4)."""
    temperature, velocity, width, strength = parameters[:, :, None].unbind(dim=1)
    flux = WAVELENGTHS**-5 / torch.expm1(1.4388e7 / (WAVELENGTHS * temperature))
    for line, depth in zip(LINES, DEPTHS, strict=True):
        away = WAVELENGTHS - line * (1 + velocity / 299_792)
        flux = flux * (1 - strength * depth * torch.exp(-0.5 * (away / (line * width / 299_792)) ** 2))
    return flux / flux.mean(dim=1, keepdim=True)


# %%
# The emulator: two hidden layers of LeakyReLU, trained on draws of the formula.

torch.manual_seed(1)
torch.set_num_threads(1)
module = nn.Sequential(
    nn.Linear(4, 100), nn.LeakyReLU(), nn.Linear(100, 100), nn.LeakyReLU(), nn.Linear(100, len(WAVELENGTHS))
)
optimizer = torch.optim.Adam(module.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=1500)
for _ in range(1500):
    scaled = 2 * torch.rand(128, 4) - 1
    loss = (module(scaled) - spectrum((LOWER + UPPER) / 2 + (UPPER - LOWER) / 2 * scaled)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
print(f"the emulator is off by {loss.sqrt():.4f} of the flux")

# %%
# The network takes scaled parameters. In physical units, and as matrices: what a colleague's file would hold.

layers = [layer for layer in module if isinstance(layer, nn.Linear)]
lower, upper = LOWER.double().numpy(), UPPER.double().numpy()
net = unrelu.from_arrays(
    [layer.weight.detach().double().numpy() for layer in layers],
    [layer.bias.detach().double().numpy() for layer in layers],
    activation=["leaky_relu:0.01", "leaky_relu:0.01", "identity"],
    input_scale=((lower + upper) / 2, (upper - lower) / 2),
)

# %%
# A spectrum whose error bars grow twentyfold to the red, with a gap where the detector saw nothing.

truth = np.array([5800.0, 310.0, 140.0, 0.9])
sigma = np.geomspace(0.005, 0.1, 150)
y = net(truth) + sigma * np.random.default_rng([9, 5]).normal(size=150)
sigma[60:70] = np.inf  # nothing is known of these
y[60:70] = 0.0

r = unrelu.invert(net, y, bounds=(lower, upper), noise=unrelu.Gaussian(sigma))
print(f"{r.status}, success {r.success}, p-value {r.p_value:.2f}, confidence {r.confidence:.3f}")
print(f"chi-square {r.fun:.0f} of {np.isfinite(sigma).sum()} pixels, at a bound: {np.abs(r.active_bounds).sum()}")

# %%
# Error bars, from the linear region of the fit: how far the noise can move it there.

local = r.laplace()
print(local)
for name, value, error, true in zip(NAMES, r.z, local.std, truth, strict=True):
    print(f"  {name:16} {value:8.2f} +- {error:.2f}, true {true:g}")

figure, axes = plt.subplots(2, 1, figsize=(8, 4), sharex=True, layout="constrained", height_ratios=[2, 1])
axes[0].errorbar(WAVELENGTHS[:60], y[:60], sigma[:60], fmt=".", color="silver", label="observed")
axes[0].errorbar(WAVELENGTHS[70:], y[70:], sigma[70:], fmt=".", color="silver")
axes[0].plot(WAVELENGTHS, r.reconstruction, color="tab:blue", label="fit")
axes[0].set_ylabel("flux")
axes[0].legend()
axes[1].plot(WAVELENGTHS, (y - r.reconstruction) / sigma, ".")
axes[1].set(xlabel="wavelength (nm)", ylabel="residual / error bar")

# %%
# What a single fit is worth: Levenberg-Marquardt from one random start in the box, forty times.

many = np.tile(y, (40, 1))
chi_square = unrelu.invert(net, many, "lm", bounds=(lower, upper), noise=unrelu.Gaussian(sigma)).fun
wrong = np.mean(chi_square > 1.01 * r.fun)
print(f"of 40 fits from a single start {wrong:.0%} end at a worse optimum, the worst at {chi_square.max():.0f}")

figure, axis = plt.subplots(figsize=(8, 2.5), layout="constrained")
axis.semilogy(np.sort(chi_square), "o", label="fits from a single start, sorted")
axis.axhline(r.fun, color="black", label="auto")
axis.set(ylabel="chi-square")
axis.legend()
plt.show()
