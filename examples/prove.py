"""
Prove it: a certificate
=======================

Prove that no code fits better, and enclose all codes that explain the observation in a box. ``unrelu.certify`` bounds
the smallest error of all codes by branch and bound. Where the bounds differ by a millionth, no code fits better by more
than that; where the lower one is above the stated noise, no code explains the observation. (The first proof of an
installation takes some seconds more, to compile.)
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import unrelu

truth = np.random.default_rng([6, 1])
noise = np.random.default_rng([6, 2])

net = unrelu.zoo.load("mnist-relu")
z = truth.normal(size=net.latent_dim)
y = np.maximum(net(z) + noise.uniform(-0.01, 0.01, net.output_shape), 0)  # Pixels are never below zero.

r = unrelu.invert(net, y, noise="uniform:0.01")
c = unrelu.certify(net, y, r)
print(f"search: {r.status}, success {r.success}, largest error of a pixel {r.residual('linf'):.6f}")
print(f"proof: {c.status}, {c.message}")
print(f"  the smallest error of all codes is between {c.lower:.8f} and {c.upper:.8f}")
print(f"  the bounds differ by {c.gap:.0e} of the upper one, and the gap counts as closed at 1e-06")

# %%
# The noise was stated to be at most 0.01, so there is an interval for each coordinate that holds all codes with errors
# up to 0.01, and so the true one. That is uniqueness up to the widths of the box: beyond it, no code explains y.

inside = (c.box[:, 0] <= z) & (z <= c.box[:, 1])
print(f"  the box holds {inside.sum()} of {len(z)} true coordinates, widths up to {np.ptp(c.box, axis=1).max():.2f}")

figure, axis = plt.subplots(figsize=(8, 2.8), layout="constrained")
axis.vlines(np.arange(20), *c.box.T, linewidth=6, color="lightsteelblue", label="all codes that explain y")
axis.plot(z, "k_", markersize=10, label="the true code")
axis.plot(r.z, ".", color="tab:red", label="the code found")
axis.set(xlabel="latent coordinate", xticks=np.arange(20))
axis.legend()

# %%
# A certificate can be kept, and checked by someone else.

with tempfile.TemporaryDirectory() as folder:
    c.save(Path(folder) / "proof.npz")
    kept = unrelu.Certificate.load(Path(folder) / "proof.npz")
print(f"  the stored proof is verified: {kept.verify(net, y)}, for a brighter picture: {kept.verify(net, y + 0.1)}")

# %%
# A picture that is moved by one pixel is out of the range of the generator: no code explains it. That is proved, too.

moved = np.roll(y.reshape(28, 28), 1, axis=1).ravel()
c = unrelu.certify(net, moved, noise="uniform:0.01")
print(f"moved by one pixel: {c.status}, {c.message}")
print(f"  the smallest error is at least {c.lower:.3f}, the noise at most {c.eps:.3f}")
plt.show()
