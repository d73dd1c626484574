"""Inpaint a digit: a mask hides rows of pixels, and the code found from the others fills them in.

Two masks hide different parts of the same noisy digit. The observed pixels determine the code under the first mask, and
do not under the second. ``success`` is about the observed pixels, ``identifiable`` about the code.

Run it with ``python examples/inpaint.py``.
"""

import numpy as np

import unrelu

# The true code and the noise come from separate random streams; ``invert`` draws its starts from streams of its own.
truth = np.random.default_rng([2, 1])
noise = np.random.default_rng([2, 2])

net = unrelu.zoo.load("mnist-relu")
clean = net(truth.normal(size=net.latent_dim))
noisy = clean + noise.normal(0, 0.05, net.output_shape)

row = np.arange(784) // 28  # the row of each of the 28 x 28 pixels
masks = {"rows 11 to 16 are hidden": (row < 11) | (row > 16), "rows 4 to 27 are hidden": row < 4}

for name, seen in masks.items():
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
        print(f"  error of the {part} pixels: {error:.3f} a pixel ({black:.3f} if they were painted black)")
