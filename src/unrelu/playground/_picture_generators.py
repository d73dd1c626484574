"""Generators of pictures: the layout of outputs, the values of black and white, and pictures to begin with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from unrelu import zoo
from unrelu._invert import invert
from unrelu.display.pixels import Shape, drawn_shape
from unrelu.errors import InputError
from unrelu.measurements.picture_scale import Scaling, scale_of
from unrelu.models.generator import Generator
from unrelu.runtime.array_types import Array
from unrelu.runtime.streams import stream

# The largest side in pixels: a picture is sent as numbers after every stroke.
_LARGEST_SIDE = 256
# Seconds that preparing a generator may take, beside compilation.
_PREPARING = 5.0


@dataclass(frozen=True, eq=False)
class PictureGenerator:
    """A generator whose outputs are pictures.

    Attributes:
        name: its name on the page.
        network: G.
        shape: (channels, height, width) of its outputs, with 1 or 3 channels.
        low, high: the values of black and white.
        digits: real pictures that it was not trained on, (B, channels * height * width), or None.
    """

    name: str
    network: Generator
    shape: Shape
    low: float
    high: float
    digits: Array | None = None

    @classmethod
    def of(
        cls, name: str, network: Generator, scale: str | None = None, digits: Array | None = None
    ) -> PictureGenerator:
        """Lay out a generator's outputs as pictures.

        Args:
            name: its name on the page.
            network: G, with outputs (H, W), (1, H, W), (3, H, W), or flat of a square number of entries.
            scale: "LOW,HIGH", the values of black and white; None takes those of the generator
                (:func:`~unrelu.measurements.picture_scale.scale_of`).
            digits: real pictures, (B, ...).

        Raises:
            InputError: the outputs are not pictures or too large, or the scale is invalid or cannot be detected.
        """
        shape = drawn_shape(network.output_shape)
        if shape is None:
            raise InputError(
                f"{name} puts out {network.output_shape}, which is no picture: the playground takes (H, W), (1, H, W), "
                "(3, H, W) and flat squares such as (784,); use unrelu.invert for others"
            )
        if max(shape[1:]) > _LARGEST_SIDE:
            raise InputError(
                f"{name} draws {shape[1]} x {shape[2]} pixels; the playground takes up to {_LARGEST_SIDE} x "
                f"{_LARGEST_SIDE}; use `unrelu invert` for larger pictures"
            )
        low, high = Scaling.parse(scale).ends or scale_of(network).ends or (0.0, 1.0)
        flat = None if digits is None else np.reshape(digits, (len(digits), -1))
        return cls(name, network, shape, low, high, flat)

    @property
    def size(self) -> int:
        """The number of entries of a picture."""
        return math.prod(self.shape)

    def described(self) -> dict[str, Any]:
        """The description that the page receives."""
        return {
            "name": self.name, "latent": self.network.latent_dim, "channels": self.shape[0], "height": self.shape[1],
            "width": self.shape[2], "low": self.low, "high": self.high, "digits": self.digits is not None,
        }  # fmt: skip

    def picture(self, kind: str, index: int) -> Array:
        """A picture to begin with, (n,): a "sample", G(z) of a random code, or a "digit", a real picture.

        The same index gives the same picture.

        Raises:
            InputError: the kind is unknown, or there are no real pictures.
        """
        if kind == "sample":
            z = stream("playground, sample", self.name, index).standard_normal(self.network.latent_dim)
            return self.network(z).reshape(-1)
        if kind == "digit" and self.digits is not None:
            return np.array(self.digits[stream("playground, digit", index).integers(len(self.digits))])
        raise InputError(
            f"{self.name} has no picture of the kind {kind!r:.40}; ask for 'sample' or, of digits, 'digit'"
        )

    def prepare(self, stopped: Callable[[], bool]) -> None:
        """Invert a grey picture, so that kernels are compiled and samples drawn before a search is timed.

        Grey is on the scale of the outputs, but no code draws it exactly, so the search tries all kinds of starts.
        """
        grey = np.full(self.network.output_shape, (self.low + self.high) / 2)
        span = self.high - self.low
        for noise in (f"gaussian:{0.2 * span}", None, f"uniform:{0.1 * span}"):  # the page opens with the first
            invert(self.network, grey, noise=noise, scale="none", time_limit=_PREPARING, callback=lambda _: stopped())


def bundled() -> list[PictureGenerator]:
    """The generators of the zoo."""
    return [PictureGenerator.of(name, zoo.load(name), digits=zoo.observations(name)) for name in zoo.names()]
