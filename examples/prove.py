"""Prove that no code fits better, and enclose all codes that explain the observation in a box.

``unrelu.certify`` bounds the smallest error over all codes by branch and bound. Where the gap closes, the code is
optimal; where no code explains the observation, that is proved too. A certificate is checked without a solver.

Run it with ``python examples/prove.py``.
"""

import tempfile
from pathlib import Path

import numpy as np

import unrelu

# The true code and the noise come from separate random streams; ``invert`` draws its starts from streams of its own.
truth, noise = (np.random.default_rng([6, stream]) for stream in (1, 2))

net = unrelu.zoo.load("mnist-relu")
z = truth.normal(size=net.latent_dim)
y = np.maximum(net(z) + noise.uniform(-0.01, 0.01, net.output_shape), 0)  # cut at black, which keeps errors below 0.01

r = unrelu.invert(net, y, noise="uniform:0.01")
c = unrelu.certify(net, y, r)
print(f"the search: {r.status}, success {r.success}, largest error {r.residual('linf'):.6f}")
print(f"the proof: {c.status}, {c.message}")
print(f"  the smallest error of all codes is between {c.lower:.6f} and {c.upper:.6f}, gap {c.gap:.0e}")

# The noise is stated as at most 0.01, so the certificate has an interval for each coordinate of such codes.
inside = (c.box[:, 0] <= z) & (z <= c.box[:, 1])
print(f"  the box holds {inside.sum()} of {net.latent_dim} coordinates of the true code")
print(f"  widest interval of the box: {(c.box[:, 1] - c.box[:, 0]).max():.2f}")

with tempfile.TemporaryDirectory() as folder:
    c.save(Path(folder) / "proof.json")
    kept = unrelu.Certificate.load(Path(folder) / "proof.json")
print(f"  the stored certificate verifies: {kept.verify(net, y)}; for another observation: {kept.verify(net, y + 0.1)}")

negative = unrelu.certify(net, 1 - y, noise="uniform:0.01")
print(f"the negative picture: {negative.status}, {negative.message}")
print(f"  every code has an error of at least {negative.lower:.3f}")
