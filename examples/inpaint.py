"""Inpaint a digit: rows of pixels are hidden by a mask, and the code found from the others fills them in.

Two masks hide different parts of the same noisy digit. The first leaves enough to determine the code, the second does
not, and the results say so: ``success`` is about the observed pixels only, ``identifiable`` about the code.

Run it with ``python examples/inpaint.py``.
"""

import numpy as np

import unrelu

# The true code and the noise come from separate random streams; ``invert`` draws its starts from streams of its own.
truth, noise = (np.random.default_rng([2, stream]) for stream in (1, 2))

net = unrelu.zoo.load("mnist-relu")
clean = net(truth.normal(size=net.latent_dim))
noisy = clean + noise.normal(0, 0.05, net.output_shape)
row = np.arange(784) // 28  # the row of each of the 28 x 28 pixels


def rms(difference):
    """Root of the mean square."""
    return np.sqrt(np.mean(difference**2))


masks = {"rows 11 to 16 are hidden": (row < 11) | (row > 16), "all but rows 0 to 7 are hidden": row <= 7}
for name, seen in masks.items():
    y = np.where(seen, noisy, np.nan)  # what is hidden may be anything, also NaN
    r = unrelu.invert(net, y, operator=seen, noise="gaussian:0.05")
    print(f"{name}, {np.sum(~seen)} of 784 pixels")
    print(f"  {r.status}, success {r.success}, p-value {r.p_value:.2f}")
    print(f"  identifiable {r.identifiable}: the observed pixels depend on {r.rank} of 20 latent directions")
    print(f"  error of the observed pixels: {rms((r.reconstruction - clean)[seen]):.3f} a pixel")
    print(f"  error of the hidden pixels: {rms((r.reconstruction - clean)[~seen]):.3f} a pixel")
    print(f"  error of the hidden pixels if they are left black: {rms(clean[~seen]):.3f} a pixel")
