"""
Follow a slow video
===================

The codes of successive frames are near each other. Each frame starts from the code of the one before, ``z0=``. One
descent, ``rounds=0``, is then enough where its end explains the frame under the stated noise. Where it does not, as for
a frame that the generator cannot draw, the frame is searched from many starts.
"""

import matplotlib.pyplot as plt
import numpy as np

import unrelu

truth = np.random.default_rng([11, 1])
noise = np.random.default_rng([11, 2])

net = unrelu.zoo.load("mnist-relu")
first, second = truth.normal(size=(2, net.latent_dim))
share = np.linspace(0, 1, 16)[:, None]
clean = net((1 - share) * first + share * second)
frames = clean + noise.normal(0, 0.1, clean.shape)
frames[8].reshape(28, 28)[10:13] = 1  # something passes by

# %%
# The confidence of a frame that a single descent explains is NaN: nothing was compared with its code. Its p-value,
# which decides about success, is that of any code.

results = [unrelu.invert(net, frames[0], noise="gaussian:0.1")]
for frame in frames[1:]:
    start = results[-1].z
    found = unrelu.invert(net, frame, noise="gaussian:0.1", z0=start, rounds=0)
    results.append(found if found.success else unrelu.invert(net, frame, noise="gaussian:0.1", z0=start))

success = np.array([r.success for r in results])
searched = [i for i, r in enumerate(results) if np.isfinite(r.confidence)]
print(f"{success.sum()} of {len(frames)} frames are explained; searched from many starts: {searched}")
print(f"frame 8: {results[8].status}")
drawn = np.array([r.reconstruction for r in results])
error = np.sqrt(np.mean((drawn - clean) ** 2, axis=1))[success]
print(f"error of the reconstructions that explain their frames: at most {error.max():.3f} a pixel, of the frames 0.100")

shown = [0, 2, 4, 6, 8, 10, 12, 15]
figure, axes = plt.subplots(2, len(shown), figsize=(8, 2.4), layout="constrained")
for above, below, i in zip(*axes, shown, strict=True):
    above.imshow(frames[i].reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
    below.imshow(drawn[i].reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
    above.set_title(f"frame {i}")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
plt.show()
