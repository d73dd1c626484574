"""
What the data leave open
========================

An ambiguous observation has many explanations, and one code hides that. This example looks for explanations of the same
noisy half of a digit from a hundred random starts, keeps those with a p-value of at least 1%, and draws how much they
differ: what all of them agree on is known, the rest is open. (They are no draws from a posterior: how often a code
comes up says nothing about how probable it is.) Each is identifiable, which is a statement about codes near it: no
other one nearby fits as well. Those that fit as well are far away.
"""

import matplotlib.pyplot as plt
import numpy as np

import unrelu

rng = np.random.default_rng([6, 8])
net = unrelu.zoo.load("mnist-relu")
clean = net(rng.normal(size=net.latent_dim))
seen = np.arange(784) < 8 * 28
y = np.where(seen, clean + rng.normal(0, 0.1, 784), np.nan)

# %%
# A batch of a hundred copies of the observation is searched from as many starts.

copies = np.tile(y, (100, 1))
r = unrelu.invert(net, copies, "lm", operator=seen, noise="gaussian:0.1", z0=1.5 * rng.normal(size=(100, 20)))
found = r.reconstruction[r.success]
print(f"{len(found)} of 100 starts end at an explanation, of which {r.identifiable[r.success].sum()} are identifiable")
spread = found.std(axis=0)
for part, pixels in (("observed", seen), ("hidden", ~seen)):
    print(f"  the {part} pixels of explanations differ by {np.sqrt(np.mean(spread[pixels] ** 2)):.2f}")

pictures = [clean, y, *found[:3], found.mean(axis=0), spread]
titles = ["clean", "observed", "explanation", "another", "a third", "their mean", "their spread"]
figure, axes = plt.subplots(1, 7, figsize=(9.5, 1.9), layout="constrained")
for axis, title, picture in zip(axes, titles, pictures, strict=True):
    axis.imshow(picture.reshape(28, 28), cmap="magma_r" if "spread" in title else "gray_r", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[], facecolor="lightsteelblue")
plt.show()
