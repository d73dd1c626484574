"""
Is the code determined?
=======================

One code that is determined by its observation, and one that is not. All 784 pixels of a digit determine its code. The
left quarter of the picture does not: it is fitted exactly as well, but ``freedom`` counts the latent directions along
which the code can move without a change of what was observed.
"""

import matplotlib.pyplot as plt
import numpy as np

import unrelu

net = unrelu.zoo.load("mnist-relu")
z = np.random.default_rng([5, 26]).normal(size=net.latent_dim)
y = net(z)

r = unrelu.invert(net, y)
print(f"all pixels: {r.status}, success {r.success}, identifiable {r.identifiable}, freedom {r.freedom}")
print(f"  largest error of the code: {np.abs(r.z - z).max():.1g}")

seen = np.arange(784) % 28 < 7  # the left 7 of 28 columns
r = unrelu.invert(net, y, operator=seen)
print(f"the left quarter: {r.status}, success {r.success}, identifiable {r.identifiable}, freedom {r.freedom}")
print(f"  largest error of the code: {np.abs(r.z - z).max():.1g}")

# %%
# Another code that fits as well: a step along one of the free directions. No neuron changes its side for a step that is
# shorter than the margin, so the free directions stay free.

local = unrelu.identifiability(net, r.z, seen)
step = 0.5 * local.margin
change = np.abs(net(r.z + step * local.directions()[:, 0]) - r.reconstruction)
print(f"  a step of {step:.1g} along one of the {local.dimension} free directions")
print(f"    changes the observed pixels by {change[seen].max():.1g}, the others by up to {change[~seen].max():.1g}")

# %%
# How fast each pixel changes along the free directions: nothing at all where it was observed, much where the digit may
# go on in many ways. All of this is about codes near the one that was found; :doc:`prove` is about all codes.

slopes = [(net(r.z + step * d) - r.reconstruction) / step for d in local.directions().T]
pictures = {
    "clean": y,
    "observed": np.where(seen, y, np.nan),
    "one code": r.reconstruction,
    "change along\nfree directions": np.linalg.norm(slopes, axis=0),
}
figure, axes = plt.subplots(1, 4, figsize=(8.5, 2.5), layout="constrained")
for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
    axis.imshow(picture.reshape(28, 28), cmap="magma_r" if "change" in title else "gray_r", vmin=0)
    axis.set(title=title, xticks=[], yticks=[], facecolor="lightsteelblue")
plt.show()
