"""
Robust to wrong pixels
======================

One pixel in ten is replaced by black or white, all others are right. Least squares spreads such errors over the whole
picture. The sum of absolute errors does not: stated as ``noise="outliers:0.1"``, at most one entry in ten is expected
to be wrong, by any amount, and the objective is that sum (l1).
"""

import matplotlib.pyplot as plt
import numpy as np

import unrelu

rng = np.random.default_rng([13, 5])
net = unrelu.zoo.load("mnist-relu")
z = rng.normal(size=net.latent_dim)
clean = net(z)
wrong = rng.random(784) < 0.08
y = np.where(wrong, rng.integers(0, 2, 784), clean)

robust = unrelu.invert(net, y, noise="outliers:0.1")
squares = unrelu.invert(net, y)
for name, r in (("sum of errors", robust), ("least squares", squares)):
    error = np.sqrt(np.mean((r.reconstruction - clean) ** 2))
    print(f"{name}: {r.status}, success {r.success}, p-value {r.p_value:.2f}")
    print(f"  error of the reconstruction {error:.1g} a pixel, largest error of the code {np.abs(r.z - z).max():.1g}")

# %%
# The residual shows which pixels were wrong.

named = np.abs(y - robust.reconstruction) > 1e-6
changed = np.abs(y - clean) > 1e-6
print(f"{changed.sum()} pixels were changed, {named.sum()} are named, {np.sum(named & changed)} of them rightly")

pictures = {
    "clean": clean,
    "observed": y,
    "least squares": squares.reconstruction,
    "sum of errors": robust.reconstruction,
    "named as wrong": named,
}
figure, axes = plt.subplots(1, 5, figsize=(9, 2.2), layout="constrained")
for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
    axis.imshow(picture.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
plt.show()
