"""
Denoise a digit
===============

Find a code that explains the noisy picture, and take the picture of that code. ``unrelu.invert`` finds a code by least
squares, then the most probable code, and says of each whether the stated noise explains what the code leaves of the
observation.
"""

import matplotlib.pyplot as plt
import numpy as np

import unrelu

# The true code and the noise come from separate random streams; ``invert`` draws its starts from streams of its own.
truth = np.random.default_rng([1, 1])
noise = np.random.default_rng([1, 2])

net = unrelu.zoo.load("mnist-relu")
z = truth.normal(size=net.latent_dim)
clean = net(z)
y = clean + noise.normal(0, 0.1, net.output_shape)
print(f"error of the noisy picture: {np.sqrt(np.mean((y - clean) ** 2)):.3f} a pixel")

# %%
# ``prior`` is the weight of the squared length of the code in the objective. With the variance of the noise the best
# code is the most probable one.

pictures = {"clean": clean, "observed": y}
for prior in (0.0, 0.1**2):
    r = unrelu.invert(net, y, noise="gaussian:0.1", prior=prior)
    print(f"prior={prior:g}: {r.status}, success {r.success}, p-value {r.p_value:.2f}, confidence {r.confidence:.2f}")
    print(f"  error of the reconstruction: {np.sqrt(np.mean((r.reconstruction - clean) ** 2)):.3f} a pixel")
    print(f"  error of the code: {np.linalg.norm(r.z - z) / np.linalg.norm(z):.0%} of the length of the true code")
    pictures["least squares" if prior == 0 else "most probable code"] = r.reconstruction

figure, axes = plt.subplots(1, 4, figsize=(8, 2.5), layout="constrained")
for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
    axis.imshow(picture.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])

# %%
# The verdict is about the noise as it was stated. Here it is stated as half of what it is.

r = unrelu.invert(net, y, noise="gaussian:0.05")
print(f"noise stated as 0.05: {r.status}, success {r.success}, p-value {r.p_value:.2g}")
print(r.message)
plt.show()
