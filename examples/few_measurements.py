"""
A digit from few measurements
=============================

The same digit from 25, 50 and 100 random weighted sums of its pixels. ``invert`` gives one code, the one that fits
best. With few measurements, others fit about as well, and the best fit need not be near the true code. ``posterior``
draws codes by how probable they are, given the measurements, the noise, and codes that are N(0, 1) before anything is
measured. The spread of the draws says how far the truth can be, and what is open about the picture.
"""

import matplotlib.pyplot as plt
import numpy as np

import unrelu

truth = np.random.default_rng([36, 1]).normal(size=20)
matrix = np.random.default_rng([36, 2]).normal(size=(100, 784)) / np.sqrt(784)
noise = np.random.default_rng([36, 3]).normal(0, 0.05, 100)

net = unrelu.zoo.load("mnist-relu")
clean = net(truth)
y = matrix @ clean + noise

# %%
# The best fit and the draws, side by side. A posterior has a status of its own: ``MIXED`` where chains from different
# starts agree. The 90% intervals should hold the true value of about nine in ten coordinates.

rows = []
for m in (25, 50, 100):
    r = unrelu.invert(net, y[:m], operator=matrix[:m], noise="gaussian:0.05")
    p = unrelu.posterior(net, y[:m], operator=matrix[:m], noise="gaussian:0.05", draws=400)
    lower, upper = p.interval(0.9)
    inside = np.sum((lower <= truth) & (truth <= upper))
    print(f"{m} measurements: the best fit is {r.status}, the posterior {p.status}")
    print(f"  distance of the best fit from the true code: {np.linalg.norm(r.z - truth):.2f}")
    print(f"  distance of the mean of the draws: {np.linalg.norm(p.mean - truth):.2f}")
    print(f"  distance to be expected, from the draws alone: {np.sqrt(np.sum(p.std**2)):.2f}")
    print(f"  90% intervals hold {inside} of 20 true coordinates")
    pictures = p.reconstructions(1000)
    rows.append([r.reconstruction, pictures.mean(axis=0), pictures.std(axis=0), *pictures[::250][:3]])

# %%
# Where the map is dark, the measurements leave the pixel open: there, the draws differ.

titles = ["true", "best fit", "mean", "standard\ndeviation", "a draw", "another", "a third"]
figure, axes = plt.subplots(3, 7, figsize=(9.5, 4.6), layout="constrained")
for line, m, pictures in zip(axes, (25, 50, 100), rows, strict=True):
    line[0].set_ylabel(f"{m} measurements")
    for axis, title, picture in zip(line, titles, [clean, *pictures], strict=True):
        spread = "deviation" in title
        axis.imshow(picture.reshape(28, 28), cmap="magma_r" if spread else "gray_r", vmin=0, vmax=0.2 if spread else 1)
        axis.set(title=title if m == 25 else "", xticks=[], yticks=[])
plt.show()
