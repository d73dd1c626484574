"""The untrained decoders of the bundled digit generators.

They map a batch of codes (B, :data:`LATENT_DIM`) to images (B, 784), or (B, 1, 28, 28) for the convolutional one.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

LATENT_DIM = 20
# The side of an image in pixels.
IMAGE_SIDE = 28
_PIXELS = IMAGE_SIDE * IMAGE_SIDE


def _relu() -> nn.Sequential:
    """A network without biases, which is positively homogeneous."""
    return nn.Sequential(
        nn.Linear(LATENT_DIM, 60, bias=False), nn.ReLU(), nn.Linear(60, _PIXELS, bias=False), nn.ReLU()
    )


def _leaky() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(LATENT_DIM, 200),
        nn.LeakyReLU(0.1),
        nn.Linear(200, 500),
        nn.LeakyReLU(0.1),
        nn.Linear(500, _PIXELS),
        nn.LeakyReLU(0.1),
    )


def _sigmoid() -> nn.Sequential:
    return nn.Sequential(nn.Linear(LATENT_DIM, 400), nn.ReLU(), nn.Linear(400, _PIXELS), nn.Sigmoid())


def _dcgan() -> nn.Sequential:
    """A convolutional network with pixels in (-1, 1) and a background of -1."""
    return nn.Sequential(
        nn.Linear(LATENT_DIM, 64 * 7 * 7),
        nn.Unflatten(1, (64, 7, 7)),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, kernel_size=4, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 1, kernel_size=4, stride=2, padding=1),
        nn.Tanh(),
    )


ARCHITECTURES: dict[str, Callable[[], nn.Sequential]] = {
    "mnist-relu": _relu,
    "mnist-leaky": _leaky,
    "mnist-sigmoid": _sigmoid,
    "mnist-dcgan": _dcgan,
}
