"""Invert a decoder of your own: from a PyTorch module, and from a file of its weights.

``unrelu.from_torch`` reads the layers of a module. A state dict holds weights but neither the order in which layers are
applied nor their activations, so ``unrelu.load`` is told: which layers of the file, and one activation for each.

Run it with ``python examples/your_own_decoder.py``.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

import unrelu

# The weights come from PyTorch's random stream, the true code from one of its own. This decoder is not trained.
torch.manual_seed(8)
encoder = torch.nn.Linear(120, 8)
decoder = torch.nn.Sequential(torch.nn.Linear(8, 40), torch.nn.ReLU(), torch.nn.Linear(40, 120), torch.nn.Sigmoid())
z = np.random.default_rng([8, 1]).normal(size=8)

net = unrelu.from_torch(decoder.eval())
print(net)
print(unrelu.inspect(net).verdict)

# The observation is what PyTorch computes, in single precision, so an exact fit is one to single precision.
with torch.no_grad():
    y = decoder(torch.tensor(z, dtype=torch.float32)).numpy()
r = unrelu.invert(net, y)
print(f"{r.status}, success {r.success}, identifiable {r.identifiable}")
print(f"  largest error of the output {r.residual('linf'):.0e}, of the code {np.abs(r.z - z).max():.0e}")

# The file has the weights of the encoder too, as those of autoencoders do.
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "autoencoder.pth"
    torch.save(torch.nn.ModuleDict({"encoder": encoder, "decoder": decoder}).state_dict(), path)
    loaded = unrelu.load(path, layers=["decoder.0", "decoder.2"], activation=["relu", "sigmoid"])
print(f"the decoder from the file has the same outputs: {np.array_equal(loaded(z), net(z))}")
again = unrelu.invert(loaded, y)
print(f"{again.status}, the same code: {np.array_equal(again.z, r.z)}")
