"""
A corner plot with two answers
==============================

A vibration is measured once a second: frequency, damping and phase are to be found. A frequency above half a hertz
gives the same samples as one below it (aliasing), so there are two answers, and error bars around the best one would
hide the other. A small network emulates the formula. With three parameters the posterior can be computed exactly, on a
grid, and the draws are compared with it.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import unrelu

TIMES = torch.arange(10.0)
NAMES = ("frequency (Hz)", "damping (1/s)", "phase (rad)")
LOWER, UPPER = torch.tensor([0.1, 0.0, -1.5]), torch.tensor([0.9, 0.5, 1.5])


def vibration(parameters):
    """The samples of parameters (N, 3)."""
    frequency, damping, phase = parameters[:, :, None].unbind(dim=1)
    return torch.exp(-damping * TIMES) * torch.cos(2 * torch.pi * frequency * TIMES + phase)


# %%
# The emulator, trained on draws of the formula.

torch.manual_seed(1)
torch.set_num_threads(1)
hidden = [layer for _ in range(2) for layer in (nn.Linear(80, 80), nn.LeakyReLU())]
module = nn.Sequential(nn.Linear(3, 80), nn.LeakyReLU(), *hidden, nn.Linear(80, 10))
optimizer = torch.optim.Adam(module.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=2500)
for _ in range(2500):
    scaled = 2 * torch.rand(128, 3) - 1
    loss = (module(scaled) - vibration((LOWER + UPPER) / 2 + (UPPER - LOWER) / 2 * scaled)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
print(f"the emulator is off by {loss.sqrt():.3f}")

layers = [layer for layer in module if isinstance(layer, nn.Linear)]
lower, upper = LOWER.double().numpy(), UPPER.double().numpy()
net = unrelu.from_arrays(
    [layer.weight.detach().double().numpy() for layer in layers],
    [layer.bias.detach().double().numpy() for layer in layers],
    activation=[*3 * ["leaky_relu:0.01"], "identity"],
    input_scale=((lower + upper) / 2, (upper - lower) / 2),
)

# %%
# The draws. Within two finite bounds, parameters are uniform before anything is measured.

truth = np.array([0.3, 0.15, 0.4])
y = vibration(torch.tensor(truth)[None])[0].numpy() + 0.2 * np.random.default_rng([36, 6]).normal(size=10)
p = unrelu.posterior(net, y, bounds=(lower, upper), noise="gaussian:0.2")
print(p)

# %%
# The same posterior on a grid, and the weight of the answers above half a hertz.

centres = [lower[j] + (upper[j] - lower[j]) * (np.arange(n) + 0.5) / n for j, n in enumerate((240, 50, 80))]
grid = np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1)
misfit = np.concatenate([np.square((net(part) - y) / 0.2).sum(axis=1) for part in grid.reshape(240, -1, 3)])
density = np.exp(-0.5 * (misfit - misfit.min())).reshape(grid.shape[:3])
density /= density.sum()
draws = p.z.reshape(-1, 3)
print(
    f"above half a hertz: {np.mean(draws[:, 0] > 0.5):.3f} of the draws, {density[centres[0] > 0.5].sum():.3f} exactly"
)
for j, name in enumerate(NAMES):
    marginal = density.sum(axis=tuple({0, 1, 2} - {j}))
    mean = marginal @ centres[j]
    print(f"  {name}: {draws[:, j].mean():.3f} +- {draws[:, j].std():.3f}, exactly", end=" ")
    print(f"{mean:.3f} +- {np.sqrt(marginal @ (centres[j] - mean) ** 2):.3f}")

# %%
# Draws as dots and bars, the exact posterior as lines. Both answers are there, in both.

figure, axes = plt.subplots(3, 3, figsize=(7.5, 7), layout="constrained", sharex="col")
for i, j in np.ndindex(3, 3):
    axis = axes[i, j]
    if j > i:
        axis.remove()
    elif i == j:
        marginal = density.sum(axis=tuple({0, 1, 2} - {i}))
        axis.hist(draws[:, i], bins=60, range=(lower[i], upper[i]), density=True, color="lightsteelblue")
        axis.plot(centres[i], marginal / (centres[i][1] - centres[i][0]), color="black", linewidth=1)
        axis.set(yticks=[])
    else:
        (other,) = {0, 1, 2} - {i, j}
        pair = density.sum(axis=other).T
        highest = np.sort(pair.ravel())[::-1]
        levels = [highest[np.searchsorted(np.cumsum(highest), share)] for share in (0.95, 0.5)]
        axis.plot(draws[::4, j], draws[::4, i], ",", color="steelblue")
        axis.contour(centres[j], centres[i], pair, levels, colors="black", linewidths=0.8)
        axis.plot(truth[j], truth[i], "+", color="crimson", markersize=10)
    if i == 2:
        axis.set_xlabel(NAMES[j])
    if j == 0 and i > 0:
        axis.set_ylabel(NAMES[i])
plt.show()
