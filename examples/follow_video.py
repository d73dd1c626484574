"""
Follow a slow video
===================

The codes of successive frames are near each other. With ``sequence=True`` each frame starts from the code of the one
before. One descent is then enough where its end explains the frame under the stated noise. Where it does not, as for a
frame that the generator cannot draw, the frame is searched from many starts.
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

r = unrelu.invert(net, frames, noise="gaussian:0.1", sequence=True)
searched = np.flatnonzero(np.isfinite(r.confidence))
print(f"{r.success.sum()} of {len(r)} frames are explained; searched from many starts: {searched.tolist()}")
print(f"frame 8: {r[8].status}")
error = np.sqrt(np.mean((r.reconstruction - clean) ** 2, axis=1))[r.success]
print(f"error of the reconstructions that explain their frames: at most {error.max():.3f} a pixel, of the frames 0.100")

shown = [0, 2, 4, 6, 8, 10, 12, 15]
figure, axes = plt.subplots(2, len(shown), figsize=(8, 2.4), layout="constrained")
for above, below, i in zip(*axes, shown, strict=True):
    above.imshow(frames[i].reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
    below.imshow(r.reconstruction[i].reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
    above.set_title(f"frame {i}")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
plt.show()
