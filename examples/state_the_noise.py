"""
State the noise
===============

A p-value is only as good as the noise that was stated. One batch of observations is judged three times: with the noise
as it is, with half of it, and with twice as much. Where the statement is right, p-values are spread evenly over [0, 1],
and one in a hundred is below 0.01 by chance. Of many observations, their distribution tells which way it is wrong.
"""

import matplotlib.pyplot as plt
import numpy as np

import unrelu

rng = np.random.default_rng([18, 1])
net = unrelu.zoo.load("mnist-relu")
y = net(rng.normal(size=(150, net.latent_dim)))
y += rng.normal(0, 0.1, y.shape)

figure, axes = plt.subplots(1, 3, figsize=(8, 2.6), layout="constrained")
for axis, stated in zip(axes, (0.09, 0.1, 0.11), strict=True):
    r = unrelu.invert(net, y, "lm", noise=unrelu.Gaussian(stated))
    print(f"stated {stated}: {np.mean(r.success):.0%} explained, median p-value {np.median(r.p_value):.2g}")
    axis.hist(r.p_value, bins=20, range=(0, 1))
    axis.set(title=f"noise stated as {stated}", xlabel="p-value")
axes[0].set_ylabel("observations")
plt.show()
