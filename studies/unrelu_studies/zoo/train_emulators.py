"""Train the emulators of the studies on their formulas and write their weights.

Usage::

    python -m unrelu_studies.zoo.train_emulators [NAME ...]

Each is a fit to draws of its formula that are uniform in the box, by Adam with a rate that rises and falls, on one
thread, from random streams of its own. It takes seconds to minutes an emulator.
"""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrelu.runtime.streams import torch_stream
from unrelu_studies.kit.emulators import EMULATORS, Emulator

WEIGHTS = Path(__file__).resolve().parents[1] / "kit" / "weights"
BATCH, RATE = 512, 3e-3


def train(name: str, emulator: Emulator) -> tuple[nn.Sequential, float]:
    """The network of scaled parameters, -1 to 1, and its error on fresh draws as a fraction of the outputs' deviation.

    Args:
        name: of the emulator, and of its random streams.
        emulator: the formula, and the layers.
    """
    start, draws = torch_stream("emulator: start", name), torch_stream("emulator: draws", name)
    lower, upper = torch.tensor(emulator.lower), torch.tensor(emulator.upper)
    sizes = (len(emulator.names), *emulator.hidden, emulator.formula(lower[None]).shape[1])
    network = nn.Sequential()
    kind, _, slope = emulator.activation.partition(":")
    smooth = {"tanh": nn.Tanh, "swish": nn.SiLU}
    for inputs, outputs in pairwise(sizes):
        layer = nn.Linear(inputs, outputs)
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=start)
        network.extend([layer, smooth[kind]() if kind in smooth else nn.LeakyReLU(float(slope or 0))])
    network = nn.Sequential(*list(network)[:-1])

    def sample(count: int) -> tuple[Tensor, Tensor]:
        t = 2 * torch.rand(count, sizes[0], generator=draws) - 1
        return t, emulator.formula((lower + upper) / 2 + (upper - lower) / 2 * t)

    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, emulator.steps)
    for _ in range(emulator.steps):
        t, x = sample(BATCH)
        optimizer.zero_grad()
        torch.autograd.backward((network(t) - x).square().mean())
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        t, x = sample(10_000)
        error = (network(t) - x).square().mean().sqrt() / x.std()
    return network, float(error)


def save(name: str, network: nn.Sequential) -> None:
    """Write the layers as float32 arrays W1, b1, W2, ..., W of shape (outputs, inputs)."""
    layers = [part for part in network if isinstance(part, nn.Linear)]
    arrays: dict[str, Any] = {}
    for i, layer in enumerate(layers, 1):
        arrays |= {f"W{i}": layer.weight.detach().numpy(), f"b{i}": layer.bias.detach().numpy()}
    np.savez_compressed(WEIGHTS / f"{name}.npz", **arrays)


def main() -> None:
    """Train those that are named, or all."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or EMULATORS:
        begin = time.perf_counter()
        network, error = train(name, EMULATORS[name])
        save(name, network)
        print(f"{name}: error {error:.4f} of the outputs' deviation, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
