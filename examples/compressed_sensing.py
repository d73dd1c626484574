"""
Compressed sensing
==================

Recover the 784 pixels of a digit from a few random weighted sums of them. Every measurement is a sum of all pixels with
Gaussian weights, and a little noise. Ten measurements cannot determine a code of 20 coordinates, although they are
explained; the result says so. Forty and 160 can.
"""

import matplotlib.pyplot as plt
import numpy as np

import unrelu

truth = np.random.default_rng([3, 1])
weights = np.random.default_rng([3, 2])
noise = np.random.default_rng([3, 3])

net = unrelu.zoo.load("mnist-relu")
clean = net(truth.normal(size=net.latent_dim))
matrix = weights.normal(size=(160, 784)) / np.sqrt(784)
y = matrix @ clean + noise.normal(0, 0.01, 160)

# %%
# Where the measurements depend on as many latent directions as there are measurements, a code can fit their noise too,
# and the p-value has nothing to test. ``success`` is True then; ``identifiable`` and the status warn.

print(f"error of an empty picture: {np.sqrt(np.mean(clean**2)):.3f} a pixel")
pictures = {"clean": clean}
for m in (10, 40, 160):
    r = unrelu.invert(net, y[:m], operator=matrix[:m], noise="gaussian:0.01")
    print(f"{m} measurements: {r.status}, success {r.success}, p-value {r.p_value:.2f}, identifiable {r.identifiable}")
    print(f"  they depend on {r.rank} of {net.latent_dim} latent directions at the code")
    print(f"  error of the reconstruction: {np.sqrt(np.mean((r.reconstruction - clean) ** 2)):.3f} a pixel")
    pictures[f"{m} measurements\n{r.status}"] = r.reconstruction

figure, axes = plt.subplots(1, 4, figsize=(8, 2.7), layout="constrained")
for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
    axis.imshow(picture.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
plt.show()
