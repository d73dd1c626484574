"""
A map of what a mask leaves open
================================

The lower half of a noisy digit is hidden. Many digits have this upper half, and one reconstruction shows one of them.
Draws from the posterior show the others, and their standard deviation is a map: how sure each hidden pixel is. The map
is compared with the errors that were made, on this digit and on five others.
"""

import matplotlib.pyplot as plt
import numpy as np

import unrelu

codes = np.random.default_rng([36, 4])
noise = np.random.default_rng([36, 5])

net = unrelu.zoo.load("mnist-relu")
clean = net(codes.normal(size=(6, net.latent_dim)))
seen = np.arange(784) < 14 * 28
y = np.where(seen, clean + noise.normal(0, 0.1, clean.shape), np.nan)

# %%
# A batch of posteriors prints how many of them have mixed.

p = unrelu.posterior(net, y, operator=seen, noise="gaussian:0.1", draws=400)
print(p)

# %%
# What the map is worth: how many hidden pixels are inside their 90% intervals, and the errors of two pictures. The mean
# of the draws is blurred, and on average nearer to the truth than the best fit.

best = unrelu.invert(net, y, operator=seen, noise="gaussian:0.1").reconstruction
pictures = np.array([one.reconstructions(400) for one in p])
mean, spread = pictures.mean(axis=1), pictures.std(axis=1)
lower, upper = p.interval(0.9, of="reconstruction")
inside = (lower <= clean) & (clean <= upper)
grey = ~seen & (spread > 0.01)  # others are black in nearly all draws
print(f"90% intervals hold {inside[grey].mean():.0%} of the {grey.sum()} hidden pixels that the draws do not agree on")
for name, picture in (("the best fit", best), ("the mean of the draws", mean)):
    print(f"error of {name}: {np.sqrt(np.mean((picture - clean)[:, ~seen] ** 2)):.3f} a hidden pixel")
print(f"error to be expected, from the draws alone: {np.sqrt(np.mean(spread[:, ~seen] ** 2)):.3f}")

titles = ["true", "observed", "best fit", "mean", "a draw", "another", "standard\ndeviation", "error of\nthe mean"]
figure, axes = plt.subplots(3, 8, figsize=(10, 4.2), layout="constrained")
for i, line in enumerate(axes):
    shown = [clean[i], y[i], best[i], mean[i], pictures[i, 100], pictures[i, 300], spread[i], abs(mean - clean)[i]]
    for axis, title, picture in zip(line, titles, shown, strict=True):
        last = "deviation" in title or "error" in title
        axis.imshow(picture.reshape(28, 28), cmap="magma_r" if last else "gray_r", vmin=0, vmax=0.5 if last else 1)
        axis.set(title=title if i == 0 else "", xticks=[], yticks=[], facecolor="lightsteelblue")
plt.show()
