"""Generators of pictures: how outputs are laid out, which values are black and white, pictures to begin with."""

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

# Pixels of a side at most: a picture is sent as numbers, for every stroke.
_LARGEST_SIDE = 256
# Seconds that preparing a generator may take, beside compilation.
_PREPARING = 5.0


@dataclass(frozen=True, eq=False)
class PictureGenerator:
    """A generator whose outputs are pictures.

    Attributes:
        name: what it is called on the page.
        network: G.
        shape: (channels, height, width), with 1 or 3 channels, of its outputs.
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
            name: what to call it.
            network: G, of outputs (H, W), (1, H, W), (3, H, W), or flat and square.
            scale: "LOW,HIGH", the values of black and white. None: the scale of pictures that outputs are on.
            digits: real pictures, (B, ...).

        Raises:
            InputError: the outputs are no pictures, too large ones, or on no scale of pictures, or the scale is none.
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
        """Numbers in a picture."""
        return math.prod(self.shape)

    def described(self) -> dict[str, Any]:
        """What the page knows of it."""
        return {
            "name": self.name, "latent": self.network.latent_dim, "channels": self.shape[0], "height": self.shape[1],
            "width": self.shape[2], "low": self.low, "high": self.high, "digits": self.digits is not None,
        }  # fmt: skip

    def picture(self, kind: str, index: int) -> Array:
        """A picture to begin with, (n,): "sample", G(z) of a random code, or "digit", a real one.

        It is the same for the same index.

        Raises:
            InputError: there is no such kind, or no real pictures.
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
        """Invert something, so that kernels are compiled and samples drawn before a search is timed.

        Grey is in the range of the outputs, but not drawn exactly, so that all kinds of starts are tried.
        """
        grey = np.full(self.network.output_shape, (self.low + self.high) / 2)
        for noise in (None, f"uniform:{0.1 * (self.high - self.low)}"):
            invert(self.network, grey, noise=noise, scale="none", time_limit=_PREPARING, callback=lambda _: stopped())


def bundled() -> list[PictureGenerator]:
    """The generators of the zoo."""
    return [PictureGenerator.of(name, zoo.load(name), digits=zoo.observations(name)) for name in zoo.names()]
