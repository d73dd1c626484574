"""Compressed sensing: recover 784 pixels from a few random weighted sums of them.

Each measurement is a Gaussian sum of all pixels plus a little noise. With fewer measurements than the 20 latent
coordinates the code is not determined, however well the measurements are explained; with more it is.

Run it with ``python examples/compressed_sensing.py``.
"""

import numpy as np

import unrelu

# The true code, the measurements and the noise come from separate random streams, the starts from those of ``invert``.
truth, measurements, noise = (np.random.default_rng([3, stream]) for stream in (1, 2, 3))

net = unrelu.zoo.load("mnist-relu")
clean = net(truth.normal(size=net.latent_dim))
everything = measurements.normal(size=(160, 784)) / np.sqrt(784)
errors = noise.normal(0, 0.01, 160)

print(f"error of a black picture: {np.sqrt(np.mean(clean**2)):.3f} a pixel")
for m in (10, 40, 160):
    matrix = everything[:m]
    y = matrix @ clean + errors[:m]
    r = unrelu.invert(net, y, operator=matrix, noise="gaussian:0.01")
    print(f"{m} measurements: {r.status}, success {r.success}, p-value {r.p_value:.2f}, identifiable {r.identifiable}")
    print(f"  they depend on {r.rank} of {net.latent_dim} latent directions near the code")
    print(f"  error of the reconstruction: {np.sqrt(np.mean((r.reconstruction - clean) ** 2)):.3f} a pixel")
