"""Invert a whole data set into a folder, stop on the way, go on, and look at what came out.

The data set is a file of ten noisy digits that the generator drew, a real digit that it cannot draw, and an
observation that is damaged. ``unrelu.run`` writes a row for each of them; one that fails does not stop the others.

Run it with ``python examples/data_set.py``.
"""

import tempfile
from pathlib import Path

import numpy as np

import unrelu

# The true codes and the noise come from separate random streams; ``run`` draws its starts from streams of its own.
truth, noise = (np.random.default_rng([7, stream]) for stream in (1, 2))

net = unrelu.zoo.load("mnist-relu")
codes = truth.normal(size=(10, net.latent_dim))
images, _ = unrelu.zoo.digits()
y = np.vstack([net(codes), images[0].reshape(1, 784), np.full((1, 784), np.nan)])
y += noise.normal(0, 0.1, y.shape)

with tempfile.TemporaryDirectory() as folder:
    data, out = Path(folder) / "observations.npy", Path(folder) / "out"
    np.save(data, y)

    # With workers=1 everything happens in this process; more workers need a guard, if __name__ == "__main__".
    # ``watch`` is called after every chunk of 4 and stops the run when it returns True.
    options = {"noise": "gaussian:0.1", "chunk": 4, "workers": 1}
    run = unrelu.run(net, data, out, **options, watch=lambda moment: moment.done >= 4)
    print(f"stopped: {run.done} of {run.size} observations, finished {run.finished}")

    # The same call goes on where it was stopped.
    unrelu.run(net, data, out, **options)
    run = unrelu.open_run(out)
    print(f"later: {run.done} of {run.size} observations, finished {run.finished}, {run.success} successes")
    print(f"  {run.counts}")
    for index, (status, p_value) in enumerate(zip(run.read("status"), run.read("p_value"), strict=True)):
        print(f"  {index:2d} {status} p-value {p_value:.2g}")
    for index, message in run.errors.items():
        print(f"  observation {index}: {message}")
    print(f"  files: {', '.join(sorted(path.name for path in out.iterdir()))}")
