"""The trained generators that studies run on: the zoo's, plain VAEs, or one from a file.

Plain VAEs are decoders of variational autoencoders on MNIST digits, on which a search is easily wrong: 20-60-784, a
ReLU after every layer, no biases, trained with a Gaussian likelihood and nothing else by
``unrelu_studies.zoo.train_plain_vaes``, as the paper's authors train theirs. A sample has fewer visible pixels than one
of the zoo's ``mnist-relu``, and an inversion more local minima. z ~ N(0, I).

The paper's authors published weights of a 20-60-784 decoder without biases and of a LeakyReLU 20-200-500-784 one in
https://github.com/cecilialeiqi/InvertGAN_LP, without a licence, so that they cannot be part of this package. Who has
the files can run the figures on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from unrelu import zoo
from unrelu.errors import InputError, ModelError
from unrelu.layerwise.layer_by_layer import check_invertible
from unrelu.loaders import from_arrays, load
from unrelu.models.network import Network
from unrelu.opaque.opaque_network import unchained

# 28 x 28, as the digits are.
PIXELS = 784
# Three seeds at a variance of .05 a pixel, and one at .2.
PLAIN_VAES = ("plain-vae-0", "plain-vae-1", "plain-vae-2", "plain-vae-0-variance-0.2")
PLAIN_VAE_SIZES = (20, 60, PIXELS)


@cache
def plain_vae(name: str) -> Network:
    """A decoder by its name, (20,) -> (784,).

    Raises:
        ModelError: there is no such decoder.
    """
    if name not in PLAIN_VAES:
        raise ModelError(f"there is no plain VAE {name!r}; load one of {', '.join(PLAIN_VAES)}")
    resource = files("unrelu_studies.kit") / "weights" / f"{name}.npz"
    with as_file(resource) as path, np.load(path, allow_pickle=False) as weights:
        return from_arrays([weights["W1"], weights["W2"]], activation="relu")


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
    sizes: tuple[int, ...] = PLAIN_VAE_SIZES
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
    if generator.origin == "zoo":
        return zoo.load(generator.model)
    if generator.origin == "plain VAE":
        return plain_vae(generator.model)
    layers, activation = ([name.strip() for name in text.split(",")] if text else None
                          for text in (generator.layers, generator.activation))  # fmt: skip
    # One name is that of every layer.
    network = load(generator.model, layers, activation[0] if activation and len(activation) == 1 else activation).plain
    if not isinstance(network, Network):
        raise ModelError(f"{generator.model}: {unchained(network)}; studies take chains of layers")
    return network


ZOO = TrainedGenerator("mnist-relu", "the zoo's `mnist-relu`, 20-60-784, trained on MNIST digits", "zoo", "mnist-relu")
PLAIN_VAE = TrainedGenerator(
    "plain VAE",
    "the decoder of a plain VAE, 20-60-784 without biases, trained as the paper's authors train theirs",
    "plain VAE",
    PLAIN_VAES[0],
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
    network = TrainedGenerator(model, "", "file", model, layers, activation).load()
    if network.output_dim != PIXELS:
        raise InputError(
            f"{model} gives outputs of shape {network.output_shape}; the figures are about digits of 28 x 28 pixels, "
            f"so name a decoder with {PIXELS} outputs, or its layers in the file: --layers fc3,fc4"
        )
    check_invertible(network, "linf")
    path = Path(model).resolve()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sizes = (network.latent_dim, *(layer.n_out for layer in network.layers))
    record = {"name": path.name, "sha256": digest, "layers": layers, "activation": activation, "sizes": sizes}
    return from_record(record, str(path))


def from_record(record: dict[str, Any], model: str = "") -> TrainedGenerator:
    """The generator that numbers tell of; without the path of its file it has a name, but no network."""
    sizes = tuple(int(size) for size in record["sizes"])
    name = str(record["name"])
    shape = "-".join(map(str, sizes))
    return TrainedGenerator(
        name, f"`{name}`, {shape}, SHA-256 {record['sha256'][:12]}...", "file", model, record["layers"],
        record["activation"], sizes, str(record["sha256"]),
    )  # fmt: skip
