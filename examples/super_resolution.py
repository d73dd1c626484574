"""
Super-resolution from block means
=================================

Recover a digit of 28 x 28 pixels from the means of its blocks of 4 x 4 pixels. The 7 x 7 means are measured with a
little noise. The reconstruction is compared with the means themselves, each painted over its block.
"""

import matplotlib.pyplot as plt
import numpy as np

import unrelu

truth = np.random.default_rng([4, 1])
noise = np.random.default_rng([4, 2])

net = unrelu.zoo.load("mnist-relu")
clean = net(truth.normal(size=net.latent_dim))

# %%
# The means along one axis are a matrix (7, 28), those of the flattened picture a matrix (49, 784).

means = np.kron(np.eye(7), np.full((1, 4), 1 / 4))
operator = np.kron(means, means)
y = operator @ clean + noise.normal(0, 0.01, 49)

r = unrelu.invert(net, y, operator=operator, noise="gaussian:0.01")
blocks = np.kron(y.reshape(7, 7), np.ones((4, 4))).ravel()

print(f"{r.status}, success {r.success}, p-value {r.p_value:.2f}, confidence {r.confidence:.2f}")
print(f"identifiable {r.identifiable}: the means depend on {r.rank} of {net.latent_dim} latent directions at the code")
pictures = {"the painted blocks": blocks, "the reconstruction": r.reconstruction, "the clean picture": clean}
for name, picture in pictures.items():
    print(f"error of {name}: {np.sqrt(np.mean((picture - clean) ** 2)):.3f} a pixel")

figure, axes = plt.subplots(1, 3, figsize=(7, 2.8), layout="constrained")
for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
    axis.imshow(picture.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
plt.show()
