"""Is the code determined by the observation? One that is, and one that is not.

The whole output of the generator determines this code. A strip of the output does not: it is fitted exactly as
well, but ``freedom`` says along how many latent directions the code can move without a change of what was observed.

Run it with ``python examples/check_uniqueness.py``.
"""

import numpy as np

import unrelu

net = unrelu.zoo.load("mnist-relu")
z = np.random.default_rng([5, 1]).normal(size=net.latent_dim)
y = net(z)  # without noise

r = unrelu.invert(net, y)
print(f"all 784 pixels: {r.status}, success {r.success}, identifiable {r.identifiable}, freedom {r.freedom}")
print(f"  largest error of the code: {np.abs(r.z - z).max():.0e}")

seen = np.arange(784) < 7 * 28  # the upper 7 of 28 rows
r = unrelu.invert(net, y, operator=seen)
print(f"the upper 7 rows: {r.status}, success {r.success}, identifiable {r.identifiable}, freedom {r.freedom}")
print(f"  largest error of the code: {np.abs(r.z - z).max():.1g}")

# Another code with the same observation: half as far along a free direction as the nearest kink is away.
local = unrelu.identifiability(net, r.z, seen)
other = r.z + 0.5 * local.margin * local.directions()[:, 0]
change = np.abs(net(other) - net(r.z))
print(f"  a step of {0.5 * local.margin:.1g} along one of {local.dimension} free directions")
print(f"    changes what was observed by {change[seen].max():.0e} and the rest by {change[~seen].max():.0e}")

# All this is about the neighbourhood of a code. ``unrelu.certify`` makes statements on all codes: examples/prove.py.
