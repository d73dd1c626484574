"""
Fit a stellar spectrum with a file of The Payne
===============================================

Four parameters in a box, and an error bar that differs for every pixel. A small network learns the light of a star
between 500 and 530 nm from a formula: Planck's law with lines that are shifted by a velocity and as broad as the star
rotates fast. It is saved in the layout of The Payne, and read by one line. SciPy's fits from a single start are often
wrong: where lines start further from the observed ones than they are broad, nothing draws them there.
"""

import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import least_squares
from torch import nn

import unrelu

WAVELENGTHS = torch.linspace(500.0, 530.0, 150)
LINES = torch.tensor([501.8, 504.2, 507.1, 511.4, 516.7, 517.3, 518.4, 523.3, 526.9])
DEPTHS = torch.tensor([0.3, 0.2, 0.25, 0.15, 0.4, 0.45, 0.5, 0.2, 0.3])
NAMES = ("temperature", "velocity", "width", "strength")  # K, km/s, km/s, 1
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
    share = torch.rand(128, 4)
    loss = (module(2 * share - 1) - spectrum(LOWER + (UPPER - LOWER) * share)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
print(f"the emulator is off by {loss.sqrt():.4f} of the flux")

# %%
# The file: a weight and a bias for each layer, and the ranges of parameters, which The Payne scales to -0.5 ... 0.5.

layers = [layer for layer in module if isinstance(layer, nn.Linear)]
lower, upper = LOWER.double().numpy(), UPPER.double().numpy()
arrays = {"x_min": lower, "x_max": upper}
for number, layer in enumerate(layers):
    arrays[f"w_array_{number}"] = layer.weight.detach().double().numpy() * (1 if number else 2)
    arrays[f"b_array_{number}"] = layer.bias.detach().double().numpy()
with tempfile.TemporaryDirectory() as folder:
    np.savez(Path(folder) / "star.npz", **arrays)
    net = unrelu.load(Path(folder) / "star.npz", activation="leaky_relu:0.01").named(NAMES)
print(net)

# %%
# A spectrum whose error bars grow twentyfold to the red, with a gap where the detector saw nothing.

truth = np.array([5800.0, 310.0, 140.0, 0.9])
sigma = np.geomspace(0.005, 0.1, 150)
y = net(truth) + sigma * np.random.default_rng([9, 5]).normal(size=150)
sigma[60:70] = np.inf  # nothing is known of these
y[60:70] = 0.0
seen = np.isfinite(sigma)

seconds = []
for _ in range(2):  # the first call learns how sure it can be on this generator
    begin = time.perf_counter()
    r = unrelu.invert(net, y, bounds=(lower, upper), noise=unrelu.Gaussian(sigma))
    seconds.append(time.perf_counter() - begin)
print(f"{r.status}, success {r.success}, p-value {r.p_value:.2f}, confidence {r.confidence:.3f}")
print(f"chi-square {r.fun:.0f} of {seen.sum()} pixels, at a bound: {np.abs(r.active_bounds).sum()}")

# %%
# Two kinds of error bars. The Laplace approximation says how far the noise can move the fit in its linear region; the
# posterior takes other regions and other optima into account.

local = r.laplace()
p = unrelu.posterior(net, y, bounds=(lower, upper), noise=unrelu.Gaussian(sigma), draws=200, chains=4)
print(p)
print("parameter         fit  Laplace  posterior  truth")
for name, value, error, wide, true in zip(NAMES, r.z, local.std, p.std, truth, strict=True):
    print(f"{name:11} {value:9.3f} {error:8.3f} {wide:10.3f} {true:6g}")

figure, axes = plt.subplots(2, 1, figsize=(8, 4), sharex=True, layout="constrained", height_ratios=[2, 1])
axes[0].errorbar(WAVELENGTHS[seen], y[seen], sigma[seen], fmt=".", color="silver", label="observed")
axes[0].plot(WAVELENGTHS, r.reconstruction, color="tab:blue", label="fit")
axes[0].set_ylabel("flux / mean")
axes[0].legend()
axes[1].axhline(0, color="silver")
axes[1].plot(WAVELENGTHS[seen], ((y - r.reconstruction) / sigma)[seen], ".")
axes[1].set(xlabel="wavelength (nm)", ylabel="residual / error")

# %%
# What a single fit is worth: SciPy's bounded least squares, on the same density and with the exact Jacobian, from forty
# random starts in the box.


def fit(start):
    """One fit: the code, and half of its chi-square."""
    return least_squares(
        lambda z: ((net(z) - y) / sigma)[seen],
        start,
        lambda z: (net.jacobian(z) / sigma[:, None])[seen],
        (lower, upper),
        x_scale=upper - lower,
    )


draw = np.random.default_rng([9, 6])
begin = time.perf_counter()
chi_square = np.array([2 * fit(draw.uniform(lower, upper)).cost for _ in range(40)])
print(f"SciPy: {time.perf_counter() - begin:.2f} s for 40 fits")
print(f"unrelu: {seconds[0]:.2f} s at first, {seconds[1]:.2f} s later")
print(f"of 40 fits of SciPy {np.mean(chi_square > 1.01 * r.fun):.0%} end at a worse optimum,", end=" ")
print(f"the best at {chi_square.min():.2f}, unrelu at {r.fun:.2f}")

figure, axis = plt.subplots(figsize=(8, 2.5), layout="constrained")
axis.semilogy(np.sort(chi_square), "o", label="SciPy from a single start")
axis.axhline(r.fun, color="black", label="unrelu")
axis.set(xlabel="fit, in the order of its chi-square", ylabel="chi-square")
axis.legend()
plt.show()
