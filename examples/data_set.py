"""
A whole data set, with a report
===============================

Invert a data set into a folder: stop on the way, go on, and look at what came out. The data set is a file of nine noisy
digits that the generator drew, a noisy real digit that it did not draw, and an observation that is damaged.
``unrelu.run`` writes a row for each; an observation that fails does not stop the others.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import unrelu
from unrelu.report import write_report

truth = np.random.default_rng([7, 1])
noise = np.random.default_rng([7, 2])

net = unrelu.zoo.load("mnist-relu")
images, _ = unrelu.zoo.digits()
clean = np.vstack([net(truth.normal(size=(9, net.latent_dim))), images[0].reshape(1, 784), np.full((1, 784), np.nan)])
y = clean + noise.normal(0, 0.1, clean.shape)

folder = tempfile.TemporaryDirectory()
data, out = Path(folder.name) / "observations.npy", Path(folder.name) / "out"
np.save(data, y)

# %%
# ``callback`` is called after every chunk, here of four observations, and stops the run when it returns True. With
# workers=1 all is done in this process; a script that uses more needs the guard ``if __name__ == "__main__":``.

begun = {"noise": "gaussian:0.1", "chunk": 4, "workers": 1}
stop = unrelu.run(net, data, out, **begun, callback=lambda progress: progress.done >= 4)
print(f"stopped: {stop.done} of {stop.size} observations, finished {stop.finished}")

# %%
# The same call goes on where the last one ended.

unrelu.run(net, data, out, **begun)
run = unrelu.open_run(out)
print(f"opened: {run.done} of {run.size} observations, finished {run.finished}, {run.success} successes")
print(f"  {', '.join(f'{count} {status}' for status, count in run.counts.items())}")

# %%
# Of right answers, one in a hundred has a p-value below 0.01 and is a MISFIT too.

for row in run.rows():
    print(f"{row['index']:2d} success {row['success']}, {row['message']}")
reconstructions = run.read("reconstructions")
print(f"codes {run.read('codes').shape}, reconstructions {reconstructions.shape}")
page = write_report(out)
print(f"a report of {page.stat().st_size // 1000} kB, for a browser: {page.name}")

figure, axes = plt.subplots(2, 11, figsize=(11, 2.4), layout="constrained")
for column, observed, drawn, status in zip(axes.T, y, reconstructions, run.read("status"), strict=True):
    for axis, picture in zip(column, (observed, drawn), strict=True):
        axis.imshow(picture.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[], facecolor="lightsteelblue")
    column[1].set_xlabel(status, fontsize=6)
plt.show()
folder.cleanup()
