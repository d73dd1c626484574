"""The trained generators that Figures 1(c), 1(d), 3 and 4 run on: the zoo's, a plain VAE, or one from a file.

The paper's authors published weights of a 20-60-784 decoder without biases and of a LeakyReLU 20-200-500-784 one in
https://github.com/cecilialeiqi/InvertGAN_LP, without a licence, so that they cannot be part of this package. Who has the
files can run the figures on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from unrelu import zoo
from unrelu.benchmarks import plain_vae
from unrelu.errors import InputError
from unrelu.methods.layerwise import check_invertible
from unrelu.network import Network
from unrelu.terminal import network_of

__all__ = ["BOTH", "PIXELS", "PLAIN_VAE", "ZOO", "TrainedGenerator", "from_file", "from_record", "named"]

# 28 x 28, as the digits are.
PIXELS = 784


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator by where it comes from, so that every process can load it by itself.

    Attributes:
        name: in tables, titles and pictures.
        about: what it is, the begin of a sentence.
        origin: "zoo", "plain VAE" or "file".
        model: its name there, or the path of the file.
        layers, activation: as on the command line, for a file.
        sizes: k, n_1, ..., n_d.
        sha256: of the file.
    """

    name: str
    about: str
    origin: str
    model: str
    layers: str | None = None
    activation: str | None = None
    sizes: tuple[int, ...] = (20, 60, PIXELS)
    sha256: str = ""

    def load(self) -> Network:
        """The network; once in a process."""
        return _loaded(self)

    @property
    def shape(self) -> str:
        """The sizes in the notation of the paper."""
        return "-".join(map(str, self.sizes))

    @property
    def record(self) -> dict[str, Any]:
        """What numbers say of a generator from a file: its name, never the path, and what tells it from others."""
        if self.origin != "file":
            return {}
        names = ("name", "sha256", "layers", "activation")
        return {**{name: getattr(self, name) for name in names}, "sizes": list(self.sizes)}


@cache
def _loaded(generator: TrainedGenerator) -> Network:
    if generator.origin == "plain VAE":
        return plain_vae.load(generator.model)
    return network_of(generator.model, generator.layers, generator.activation, None, quiet=True)


ZOO = TrainedGenerator("mnist-relu", "the zoo's `mnist-relu`, 20-60-784, trained on MNIST digits", "zoo", "mnist-relu")
PLAIN_VAE = TrainedGenerator(
    "plain VAE",
    "the decoder of a plain VAE, 20-60-784 without biases, a ReLU after every layer, trained with a Gaussian likelihood "
    "alone, as the authors' published weights are",
    "plain VAE",
    plain_vae.NAMES[0],
)
BOTH = (ZOO, PLAIN_VAE)


def named(generators: Sequence[TrainedGenerator]) -> str:
    """What a figure is run on, as a sentence."""
    text = "; and on ".join(generator.about for generator in generators)
    return f"Run on {text}."


def from_file(model: str, layers: str | None, activation: str | None) -> TrainedGenerator:
    """A user's generator, loaded once to see that the figures can run on it.

    Raises:
        InputError: its outputs are not pictures of 28 x 28 pixels.
        ModelError: the file cannot be read, as :func:`unrelu.load` says.
        UnsupportedModelError: layer-wise methods cannot invert it.
    """
    network = network_of(model, layers, activation, None)
    if network.output_dim != PIXELS:
        raise InputError(
            f"{model} gives outputs of shape {network.output_shape}; the figures are about digits of 28 x 28 pixels, so "
            f"name a decoder with {PIXELS} outputs, or its layers in the file: --layers fc3,fc4"
        )
    check_invertible(network, "linf")
    path = Path(model)
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    sizes = (network.latent_dim, *(layer.n_out for layer in network.layers))
    return from_record(
        {"name": path.name, "sha256": digest, "layers": layers, "activation": activation, "sizes": sizes},
        str(path.resolve()) if path.exists() else model,
    )


def from_record(record: dict[str, Any], model: str = "") -> TrainedGenerator:
    """The generator that numbers tell of; without the path of its file it has a name, but no network."""
    sizes = tuple(int(size) for size in record["sizes"])
    name = str(record["name"])
    shape = "-".join(map(str, sizes))
    digest = f", SHA-256 {record['sha256'][:12]}..." if record["sha256"] else ""
    return TrainedGenerator(
        name, f"`{name}`, {shape}{digest}, with the weights of its file", "file", model, record["layers"],
        record["activation"], sizes, str(record["sha256"]),
    )  # fmt: skip
