"""
Inpaint what a mask hides
=========================

The code that is found from the visible pixels fills in the hidden ones. Two masks hide different parts of the same
noisy digit. The observed pixels determine the code under the first mask, and do not under the second. ``success`` is
about the observed pixels, ``identifiable`` about the code.
"""

import matplotlib.pyplot as plt
import numpy as np

import unrelu

truth = np.random.default_rng([19, 4])
noise = np.random.default_rng([2, 12])

net = unrelu.zoo.load("mnist-relu")
clean = net(truth.normal(size=net.latent_dim))
noisy = clean + noise.normal(0, 0.05, net.output_shape)

row = np.arange(784) // 28  # the row of each of the 28 x 28 pixels
masks = {"rows 11 to 16 are hidden": (row < 11) | (row > 16), "rows 7 to 27 are hidden": row < 7}

figure, axes = plt.subplots(2, 3, figsize=(6.5, 4.6), layout="constrained")
for (name, seen), line in zip(masks.items(), axes, strict=True):
    y = np.where(seen, noisy, np.nan)  # What is hidden may be anything, also NaN.
    r = unrelu.invert(net, y, operator=seen, noise="gaussian:0.05")
    print(f"{name}, {np.sum(~seen)} of 784 pixels")
    print(f"  {r.status}, success {r.success}, p-value {r.p_value:.2f}")
    print(
        f"  identifiable {r.identifiable}: the observed pixels depend on {r.rank} of 20 latent directions at the code"
    )
    for part, pixels in (("observed", seen), ("hidden", ~seen)):
        error = np.sqrt(np.mean((r.reconstruction - clean)[pixels] ** 2))
        black = np.sqrt(np.mean(clean[pixels] ** 2))
        print(f"  error of the {part} pixels: {error:.3f} a pixel ({black:.3f} if they were left empty)")
    titles = ("clean", "observed", f"reconstruction\nidentifiable: {r.identifiable}")
    for axis, title, picture in zip(line, titles, (clean, y, r.reconstruction), strict=True):
        axis.imshow(picture.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
        axis.set(title=title, xticks=[], yticks=[], facecolor="lightsteelblue")
plt.show()
