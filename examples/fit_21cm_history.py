"""
Fit a 21-cm history with 21cmEMU
================================

The brightness of neutral hydrogen at 84 redshifts, and the optical depth of the microwave background, depend on nine
parameters of the first galaxies. The emulator is a module of PyTorch in its package (``pip install py21cmemu``). It has
a head for each summary, so y and its errors are dictionaries by part. Many parameters fit these two summaries equally
well, which a single fit does not show.
"""

import time
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import least_squares

import unrelu

# %%
# ``unrelu.from_torch(lambda z: model(z)[:, :84], 9)`` is the head of brightness temperatures, with parameters and
# outputs as they were standardised. The module computes all seven heads, so the two of this fit are written out, in the
# units of the package: parameters between their limits, mK, and a number from its logarithm.

package = find_spec("py21cmemu")
if package is None:
    raise SystemExit("this example needs a package: pip install py21cmemu")
from py21cmemu.models.acg.v1_pytorch import load_converted_model  # noqa: E402

folder = Path(package.submodule_search_locations[0])
constants = np.load(folder / "emulator_constants.npz")
lower, upper = constants["limits"].T
redshifts = constants["zs"]
model = load_converted_model(str(folder / "models" / "acg" / "default_model.pt")).double()
low, width = torch.tensor(lower), torch.tensor(upper - lower)
(tb_mean, tb_std), (tau_mean, tau_std) = [
    [float(constants[f"{name}_{moment}"]) for moment in ("mean", "std")] for name in ("Tb", "tau")
]


def layers(x, name, count):
    """The layers of this name, each followed by LeakyReLU."""
    for i in range(count):
        x = F.leaky_relu(model.get_submodule(f"{name}_{i}")(x), model.negative_slope)
    return x


def summaries(theta):
    """The two summaries of parameters (B, 9)."""
    h = layers((theta - low) / width, "shared", 8)
    tb = tb_mean + tb_std * model.tb_final(layers(h, "tb", 7))
    return {"Tb": tb, "tau": 10 ** (tau_mean + tau_std * model.tau_final(layers(h, "tau", 3)))}


names = ["F_STAR10", "ALPHA_STAR", "F_ESC10", "ALPHA_ESC", "M_TURN", "t_STAR", "L_X", "NU_X_THRESH", "X_RAY_SPEC_INDEX"]
net = unrelu.from_torch(summaries, bounds=dict(zip(names, constants["limits"], strict=True)), output=["Tb", "tau"])
print(net)

# %%
# A history with errors of 2 to 11 mK, which grow to high redshifts.

truth = np.array([-1.3, 0.5, -1.0, -0.3, 8.7, 0.5, 40.5, 0.5, 1.0])
clean = net.by_part(net(truth))
sigma = {"Tb": 5 * (1 + redshifts) / 16, "tau": 0.007}
rng = np.random.default_rng([37, 2])
y = {name: clean[name] + sigma[name] * rng.normal(size=clean[name].shape) for name in ("Tb", "tau")}

seconds = []
for _ in range(2):  # the first call learns how sure it can be on this generator
    begin = time.perf_counter()
    r = unrelu.invert(net, y, noise=sigma)
    seconds.append(time.perf_counter() - begin)
print(r)

# %%
# The same density in SciPy, from three starts in the box, with the exact Jacobian of the emulator.

target, error = np.append(y["Tb"], y["tau"]), np.append(sigma["Tb"], sigma["tau"])
begin = time.perf_counter()
fits = [
    least_squares(
        lambda z: (net(z) - target) / error,
        rng.uniform(lower, upper),
        lambda z: net.jacobian(z) / error[:, None],
        (lower, upper),
        x_scale=upper - lower,
    )
    for _ in range(3)
]
seconds_of_scipy = time.perf_counter() - begin
at_truth = np.sum(((net(truth) - target) / error) ** 2)
print(f"chi-square of the truth: {at_truth:.2f}")
print(f"of unrelu: {r.fun:.2f} after {seconds[0]:.1f} s, {seconds[1]:.1f} s in a second call")
print(f"of SciPy: {', '.join(f'{2 * fit.cost:.2f}' for fit in fits)} after {seconds_of_scipy:.1f} s for the three")

# %%
# The history, with its best fit.

figure, axes = plt.subplots(2, 1, figsize=(8, 4.5), sharex=True, layout="constrained", height_ratios=[2, 1])
axes[0].errorbar(redshifts, y["Tb"], sigma["Tb"], fmt=".", color="silver", label="observed")
fitted = net.by_part(r.reconstruction)["Tb"]
axes[0].plot(redshifts, fitted, color="tab:blue", label="fit")
axes[0].set(ylabel="brightness temperature (mK)")
axes[0].legend()
axes[1].axhline(0, color="silver")
axes[1].plot(redshifts, (y["Tb"] - fitted) / sigma["Tb"], ".")
axes[1].set(xlabel="redshift", ylabel="residual / error")
plt.show()

# %%
# All fits are at least as good as the truth, and their parameters are far apart: two summaries do not determine nine
# parameters. :func:`unrelu.posterior` draws from all that fit. The luminosity functions, another head, would determine
# more.

figure, axis = plt.subplots(figsize=(8, 3), layout="constrained")
places = (np.array([fit.x for fit in fits] + [r.z]) - lower) / (upper - lower)
print(f"parameters of these fits differ by up to {np.ptp(places, axis=0).max():.0%} of the range between their bounds")
axis.plot(places[:-1].T, "o", color="tab:orange", alpha=0.6)
axis.plot([], [], "o", color="tab:orange", alpha=0.6, label="SciPy, three fits")
axis.plot(places[-1], "o", color="tab:blue", label="unrelu")
axis.plot((truth - lower) / (upper - lower), "k_", markersize=20, label="truth")
axis.set_xticks(range(9), net.coordinate_names, rotation=30, ha="right")
axis.set(ylabel="place between the bounds", ylim=(-0.05, 1.05))
axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()
