"""
Deblur with deepinv
===================

A physics of `deepinv <https://deepinv.github.io>`_ says how pictures are measured; unrelu's ``GeneratorReconstructor``
is one of deepinv's models that gives pictures back. It reads the noise from the physics, and keeps the verdict on every
picture in ``inversion``. This example needs ``pip install deepinv``.
"""

import deepinv
import matplotlib.pyplot as plt
import numpy as np
import torch

import unrelu
from unrelu.adapters import GeneratorReconstructor

net = unrelu.zoo.load("mnist-relu")
codes = np.random.default_rng([12, 1]).normal(size=(4, net.latent_dim))
clean = torch.from_numpy(net(codes)).float().reshape(4, 1, 28, 28)

# %%
# A Gaussian blur of two pixels, and noise of 0.05.

distance = torch.arange(-6.0, 7.0)
bell = torch.exp(-(distance**2 + distance[:, None] ** 2) / (2 * 2.0**2))
physics = deepinv.physics.Blur(
    filter=(bell / bell.sum())[None, None],
    padding="circular",
    noise_model=deepinv.physics.GaussianNoise(0.05, rng=torch.Generator().manual_seed(12)),
)
y = physics(clean)
model = GeneratorReconstructor(net, image_shape=(1, 28, 28))
found = model(y, physics)
print(f"noise, as read from the physics: {model.inversion.problem.noise}")
for status, p_value in zip(model.inversion.status, model.inversion.p_value, strict=True):
    print(f"{status}, p-value {p_value:.2f}")
psnr = deepinv.loss.metric.PSNR()
print(
    f"PSNR of the measurements {psnr(y, clean).mean():.1f} dB, of the reconstructions {psnr(found, clean).mean():.1f}"
)

figure, axes = plt.subplots(3, 4, figsize=(6.5, 5), layout="constrained")
for line, name, batch in zip(axes, ("clean", "measured", "reconstructed"), (clean, y, found), strict=True):
    for axis, picture in zip(line, batch, strict=True):
        axis.imshow(picture[0].numpy(), cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(name)
plt.show()
