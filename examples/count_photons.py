"""
Count photons
=============

A detector counts a few photons in every pixel. Counts have Poisson noise: the brighter a pixel, the larger its noise.
``noise="poisson"`` minimises the deviance, which is twice the log-likelihood ratio, and the p-value is that of the
deviance. For comparison the same counts are fitted by least squares, as if all pixels had the same noise.
"""

import matplotlib.pyplot as plt
import numpy as np

import unrelu

# %%
# The brightest pixels expect about 3 photons, over a background of 0.2. That is part of the measurement: a function of
# the generator's output, which may be any differentiable one of PyTorch.


def expected(x):
    """Expected counts."""
    return 3 * x + 0.2


net = unrelu.zoo.load("mnist-relu")
z = np.random.default_rng([14, 1]).normal(size=20)
clean = net(z)
y = np.random.default_rng([14, 2]).poisson(expected(clean))

# %%
# The prior makes z the most probable code, as counts so few leave much open.

r = unrelu.invert(net, y, operator=expected, noise="poisson", prior=1.0)
spread = expected(clean).mean() ** 0.5  # the standard deviation of a count of mean size
squares = unrelu.invert(net, y, operator=expected, noise=f"gaussian:{spread}", prior=spread**2)
print(f"counts: {r.status}, success {r.success}, p-value {r.p_value:.2f}, confidence {r.confidence:.2f}")
for name, found in (("as counts", r), ("by least squares", squares)):
    print(f"error {name}: {np.sqrt(np.mean((found.reconstruction - clean) ** 2)):.3f} a pixel")

pictures = {
    "expected": expected(clean),
    "counted": y,
    "fitted as counts": expected(r.reconstruction),
    "by least squares": expected(squares.reconstruction),
}
figure, axes = plt.subplots(1, 4, figsize=(8, 2.5), layout="constrained")
for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
    image = axis.imshow(picture.reshape(28, 28), cmap="gray_r", vmin=0, vmax=5)
    axis.set(title=title, xticks=[], yticks=[])
figure.colorbar(image, ax=axes, label="photons", shrink=0.8)
plt.show()
