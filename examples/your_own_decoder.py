"""
Your own decoder
================

From a PyTorch module, and from a file of weights. ``unrelu.from_torch`` reads the layers of a module. A state dict
holds weights only, so ``unrelu.load`` has to be told the activation of each layer, and which layers of the file are the
decoder. :doc:`/decoders` has all the other ways.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import unrelu

# %%
# An untrained decoder stands for yours. Its weights come from PyTorch's random stream, the true code from one of NumPy,
# and ``invert`` draws its starts from streams of its own.

torch.manual_seed(8)
encoder = torch.nn.Linear(120, 8)
decoder = torch.nn.Sequential(torch.nn.Linear(8, 40), torch.nn.ReLU(), torch.nn.Linear(40, 120), torch.nn.Sigmoid())
z = np.random.default_rng([8, 1]).normal(size=8)

net = unrelu.from_torch(decoder.eval())
print(net)
print(f"inspect: {unrelu.inspect(net).verdict}")

# %%
# The observation is what PyTorch computes in single precision, so an exact fit is one to single precision.

with torch.no_grad():
    y = decoder(torch.tensor(z, dtype=torch.float32)).numpy()
r = unrelu.invert(net, y)
print(f"from_torch: {r.status}, success {r.success}, identifiable {r.identifiable}")
print(f"  largest error of the output {r.residual('linf'):.0e}, of the code {np.abs(r.z - z).max():.0e}")

figure, axes = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained", width_ratios=[2, 1])
axes[0].plot(y, "o", mfc="none", label="observed")
axes[0].plot(r.reconstruction, label="G(z) of the code found")
axes[0].set(xlabel="output")
axes[0].legend()
axes[1].plot(z, r.z, "o")
axes[1].axline((0, 0), slope=1, color="silver", zorder=0)
axes[1].set(xlabel="true code", ylabel="code found")

# %%
# The file holds the whole autoencoder.

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "autoencoder.pth"
    torch.save(torch.nn.ModuleDict({"encoder": encoder, "decoder": decoder}).state_dict(), path)
    loaded = unrelu.load(path, layers=["decoder.0", "decoder.2"], activation=["relu", "sigmoid"])
again = unrelu.invert(loaded, y)
print(f"load: {again.status}, success {again.success}, identifiable {again.identifiable}")
differences = [np.abs(a - b).max() for a, b in ((loaded(z), net(z)), (again.z, r.z))]
print(f"  largest difference from before: of the output {differences[0]:.0e}, of the code {differences[1]:.0e}")
plt.show()
