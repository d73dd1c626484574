"""Decoder architectures of the bundled digit generators.

Every builder returns an untrained network that maps a latent batch of shape
``(n, LATENT_DIM)`` to images: ``(n, 784)`` for the fully connected networks and
``(n, 1, 28, 28)`` for the convolutional one.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

LATENT_DIM = 20
"""Latent dimension shared by all bundled generators."""

IMAGE_SIDE = 28
"""Side length, in pixels, of the generated images."""

_PIXELS = IMAGE_SIDE * IMAGE_SIDE
_LEAKY_SLOPE = 0.1


def build_mnist_relu() -> nn.Sequential:
    """Build the bias-free network with a ReLU after every layer.

    Returns:
        A positively homogeneous network with one hidden layer of 60 units and
        outputs in ``[0, inf)``, trained for pixels in ``[0, 1]``.
    """
    return nn.Sequential(
        nn.Linear(LATENT_DIM, 60, bias=False), nn.ReLU(), nn.Linear(60, _PIXELS, bias=False), nn.ReLU()
    )


def build_mnist_leaky() -> nn.Sequential:
    """Build the network with a leaky ReLU after every layer.

    Returns:
        An invertible-activation network with hidden layers of 200 and 500
        units, trained for pixels in about ``[0, 1]``.
    """
    return nn.Sequential(
        nn.Linear(LATENT_DIM, 200),
        nn.LeakyReLU(_LEAKY_SLOPE),
        nn.Linear(200, 500),
        nn.LeakyReLU(_LEAKY_SLOPE),
        nn.Linear(500, _PIXELS),
        nn.LeakyReLU(_LEAKY_SLOPE),
    )


def build_mnist_sigmoid() -> nn.Sequential:
    """Build the network with one hidden ReLU layer and sigmoid pixels.

    Returns:
        A network with 400 hidden units and pixels in ``(0, 1)``.
    """
    return nn.Sequential(nn.Linear(LATENT_DIM, 400), nn.ReLU(), nn.Linear(400, _PIXELS), nn.Sigmoid())


def build_mnist_dcgan() -> nn.Sequential:
    """Build the transposed-convolution network with batch normalisation.

    Returns:
        A DCGAN-style network with pixels in ``(-1, 1)``; the background is -1.
    """
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
    "mnist-relu": build_mnist_relu,
    "mnist-leaky": build_mnist_leaky,
    "mnist-sigmoid": build_mnist_sigmoid,
    "mnist-dcgan": build_mnist_dcgan,
}
"""Builders of the untrained networks, by model name."""
