r"""
Tutorial: six steps
===================

This page inverts a generator in six steps: what a generator is, what an observation is, how to find the code behind it,
how to read the verdict, what happens when a part is hidden, and how to treat many observations at once. It takes a few
minutes to read; the script runs in seconds.
"""

# %%
# 1. A generator
# --------------
# A generator G maps a latent code z, here 20 numbers, to an output, here a picture of 28 x 28 pixels. unrelu ships four
# that were trained on handwritten digits; :doc:`/decoders` says how to load your own. Codes are taken to be normally
# distributed, so a random code gives a random digit.

import matplotlib.pyplot as plt
import numpy as np

import unrelu


def show(pictures, titles=()):
    """A row of pictures, all on the scale from -1 (white) to 1 (black)."""
    side = min(2.2, 8 / len(pictures))
    _, axes = plt.subplots(1, len(pictures), figsize=(side * len(pictures), side + 0.6), layout="constrained")
    for i, (axis, picture) in enumerate(zip(axes, pictures, strict=True)):
        axis.imshow(np.reshape(picture, (28, 28)), cmap="gray_r", vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[], facecolor="lightsteelblue")
        axis.set_title(titles[i] if titles else "", fontsize=9)


net = unrelu.zoo.load("mnist-dcgan")
codes = np.random.default_rng([31, 1]).normal(size=(8, 20))
print(net)
show(net(codes))

# %%
# 2. An observation
# -----------------
# Somebody draws a code, and we observe a part of its picture: rows 10 to 17 are hidden, and all others have Gaussian
# noise of standard deviation 0.3. From here on we know y, the mask, G, and the size of the noise.

z = codes[2]
clean = net(z)
row = np.arange(784).reshape(1, 28, 28) // 28
seen = (row < 10) | (row > 17)
y = np.where(seen, clean + np.random.default_rng([31, 3]).normal(0, 0.3, clean.shape), np.nan)
show([clean, y], ["G(z), which we don't know", "y, which we observe"])

# %%
# 3. Invert
# ---------
# ``unrelu.invert`` looks for the code whose output fits y best. The picture of that code has no noise, because no code
# draws noise, and it goes on where y is hidden. What is left of y should look like noise and nothing else.

r = unrelu.invert(net, y, operator=seen, noise="gaussian:0.3")
figure = r.plot()

# %%
# 4. Read the verdict
# -------------------
# The p-value is the probability that noise of the stated size leaves a residual as unlikely as this one. Where it
# is tiny, the code does not explain the observation.

print(r)

# %%
# Gradient descent gives codes as well, and some of them look just as plausible. Here it runs from 12 random starts, as
# a batch of 12 copies of y. The p-values tell which of these codes explain what was seen. Here are the best and the
# worst of them.

copies = np.tile(y, (12, 1, 1, 1))
descents = unrelu.invert(net, copies, "gradient_descent", operator=seen, noise="gaussian:0.3", max_iterations=400)
print(f"of 12 descents {descents.success.sum()} end at a code that explains y")
best, worst = (descents[int(i)] for i in np.argsort(descents.p_value)[[-1, 0]])
results = {"auto": r, "best descent": best, "worst": worst}
show(
    [clean, *(found.reconstruction for found in results.values())],
    ["the truth", *(f"{name}: p = {found.p_value:.1g}" for name, found in results.items())],
)

# %%
# ``confidence`` answers a second question: could another code fit better? It follows from where independent searches
# end, and from how far their agreement can be trusted on this generator. ``identifiable`` answers a third: could
# another code near this one fit as well? :doc:`/verdict` has the details.
#
# 5. See less
# -----------
# Now only the upper ten rows are seen. The code that is found explains them, and so do others, found from other starts;
# they draw other lower halves. ``success`` is about what was seen: what was not is a guess, and the guesses
# differ.

top = row < 10
copies = np.tile(np.where(top, y, np.nan), (6, 1, 1, 1))
several = unrelu.invert(net, copies, "lm", operator=top, noise="gaussian:0.3")
print(f"explained: {several.success.sum()} of 6")
show([copies[0], *several.reconstruction], ["seen", *(f"p = {p:.2f}" for p in several.p_value)])

# %%
# 6. Many observations
# --------------------
# A batch is inverted at once, and every result is an array. Here are six pictures that the generator drew, and two real
# digits, which it did not. Nothing explains those two, whatever a search does: they are out of the range of this small
# generator, and the verdict says so.

batch = np.concatenate([net(codes[:6]), unrelu.zoo.observations("mnist-dcgan")[:2]])
batch += np.random.default_rng([31, 4]).normal(0, 0.3, batch.shape)
many = unrelu.invert(net, batch, noise="gaussian:0.3")
show(batch)

# %%
# Below each reconstruction of the batch is what the verdict says of it.

show(many.reconstruction, [f"success {s}\np = {p:.1g}" for s, p in zip(many.success, many.p_value, strict=True)])
plt.show()

# %%
# From here: the :doc:`index` has an example for most tasks, :doc:`/methods` says which method to take and how to
# change its options, and :doc:`/datasets` how to invert a million observations.
