"""
Phase retrieval
===============

Detectors of light see magnitudes and no phases. The measurement is :math:`|A\\,G(z)|` with a complex matrix A, and so
not linear. ``operator`` takes any differentiable function of PyTorch; the search and the verdict stay as they are. For
comparison the measurements are taken back as if all phases were zero.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import unrelu

rng = np.random.default_rng([15, 6])
net = unrelu.zoo.load("mnist-relu")
z = rng.normal(size=net.latent_dim)
clean = net(z)
matrix = torch.from_numpy(rng.normal(size=(100, 784)) + 1j * rng.normal(size=(100, 784))) / 1568**0.5


def magnitudes(x):
    """|A x| of outputs (B, 784), (B, 100)."""
    return (x.to(matrix.dtype) @ matrix.T.to(x.device)).abs().to(x.dtype)


y = magnitudes(torch.from_numpy(clean)[None])[0].numpy() + rng.normal(0, 0.01, 100)
r = unrelu.invert(net, y, operator=magnitudes, noise="gaussian:0.01")
print(f"{r.status}, success {r.success}, p-value {r.p_value:.2f}, confidence {r.confidence:.3f}")
print(f"  error of the reconstruction: {np.sqrt(np.mean((r.reconstruction - clean) ** 2)):.3f} a pixel")

without = np.linalg.pinv(matrix.numpy()) @ y
pictures = {"clean": clean, "phases taken as zero": without.real, "inverted": r.reconstruction}
figure, axes = plt.subplots(1, 4, figsize=(9, 2.5), layout="constrained", width_ratios=[1, 1, 1, 1.4])
for axis, (title, picture) in zip(axes, pictures.items(), strict=False):
    axis.imshow(picture.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
axes[3].plot(y, magnitudes(torch.from_numpy(r.reconstruction)[None])[0], ".")
axes[3].set(xlabel="measured", ylabel="of the reconstruction", title="magnitudes")
plt.show()
