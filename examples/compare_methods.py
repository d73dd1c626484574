"""
Compare methods
===============

Twelve noisy digits, of which the right half is hidden, inverted by six methods. What counts is how many are explained:
noise of the stated size leaves a residual as large with a probability of at least 1%. The residual is the same kind of
number for all of them, because it is recomputed from the code.
"""

import matplotlib.pyplot as plt
import numpy as np

import unrelu

rng = np.random.default_rng([17, 1])
net = unrelu.zoo.load("mnist-relu")
clean = net(rng.normal(size=(12, net.latent_dim)))
seen = np.arange(784) % 28 < 14
y = np.where(seen, clean + rng.normal(0, 0.1, clean.shape), np.nan)

# %%
# Options are those of :doc:`/methods`; here gradient methods are given fewer steps than their defaults.

methods = {
    "gradient_descent": {"max_iterations": 300},
    "adam": {"restarts": 3, "max_iterations": 200},
    "least_squares": {},
    "linf": {},
    "lm": {},
    "auto": {},
}
results = {
    name: unrelu.invert(net, y, name, operator=seen, noise="gaussian:0.1", **options)
    for name, options in methods.items()
}
for name, r in results.items():
    ratio = np.median(r.residual() / (0.1 * np.sqrt(seen.sum())))
    error = np.median(np.sqrt(np.mean((r.reconstruction - clean) ** 2, axis=1)))
    print(f"{name:16} explains {r.success.sum():2d} of 12, residual / noise {ratio:.2f}, error {error:.3f} a pixel")

# %%
# One of them: what is seen, what each method makes of it, and the truth. A green frame is an explained observation.

worst = int(np.argmax(results["lm"].residual()))
figure, axes = plt.subplots(2, 4, figsize=(8, 4.6), layout="constrained")
pictures = {"observed": y[worst], **{n: r.reconstruction[worst] for n, r in results.items()}, "clean": clean[worst]}
for axis, (name, picture) in zip(axes.flat, pictures.items(), strict=True):
    axis.imshow(picture.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
    axis.set(title=name, xticks=[], yticks=[], facecolor="lightsteelblue")
    if name in results:
        color = "tab:green" if results[name].success[worst] else "tab:red"
        axis.spines[:].set(color=color, linewidth=3)
plt.show()
