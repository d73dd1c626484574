"""Super-resolution: recover a digit of 28 x 28 pixels from the means of blocks of 4 x 4 pixels.

The 7 x 7 means are measured with a little noise. The reconstruction is compared with the means themselves, each of them
painted over its block.

Run it with ``python examples/super_resolution.py``.
"""

import numpy as np

import unrelu

# The true code and the noise come from separate random streams; ``invert`` draws its starts from streams of its own.
truth, noise = (np.random.default_rng([4, stream]) for stream in (1, 2))

net = unrelu.zoo.load("mnist-relu")
z = truth.normal(size=net.latent_dim)
clean = net(z)

# The means along one axis, (7, 28), and of the flattened picture, (49, 784). Where PyLops is installed,
# ``unrelu.measurements.downsample((28, 28), 4)`` is the same map without a matrix.
means = np.kron(np.eye(7), np.full((1, 4), 1 / 4))
operator = np.kron(means, means)
y = operator @ clean + noise.normal(0, 0.01, 49)

r = unrelu.invert(net, y, operator=operator, noise="gaussian:0.01")
blocks = np.kron(y.reshape(7, 7), np.ones((4, 4))).ravel()

print(f"{r.status}, success {r.success}, p-value {r.p_value:.2f}, confidence {r.confidence:.2f}")
print(f"  noise of 0.01 leaves a residual at least this large in {r.p_value:.0%} of cases")
print(f"identifiable {r.identifiable}: the 49 means depend on {r.rank} of {net.latent_dim} latent directions")
for name, picture in {"the painted blocks": blocks, "the reconstruction": r.reconstruction}.items():
    print(f"error of {name}: {np.sqrt(np.mean((picture - clean) ** 2)):.3f} a pixel")
print(f"error of the code: {np.linalg.norm(r.z - z) / np.linalg.norm(z):.0%} of the length of the true code")
