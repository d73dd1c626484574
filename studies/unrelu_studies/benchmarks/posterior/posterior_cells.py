"""Generators, measurements and noise whose posteriors are sampled, and observations simulated from them.

The sampler was tuned on other observations of the hard corner, of `mnist-relu` and of the plain VAE, and its costs were
looked at on all cells while it was written: these generators are not unseen. Truths, noise, measurements and samplers
have streams of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import unrelu
from unrelu import Gaussian, Poisson, from_arrays, zoo
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array, Flags
from unrelu_studies.kit.emulators import EMULATORS, emulator, observed
from unrelu_studies.kit.families.trained_families import family_network
from unrelu_studies.kit.random_instances import gaussian_measurements, random
from unrelu_studies.kit.trained_generators import plain_vae

# The decoder that most cells are about: a plain VAE, 20-60-784, ReLU after both layers.
DECODER = "plain-vae-1"
# The sampler of the package among others.
OURS = "unrelu.posterior"
# Trained families of 8 x 8 pixels.
_LEAKY, _SIGMOID = "leaky .2, dropout, 10-50-50", "sigmoid out, dropout, 12-64-128"
_RELU = "ReLU out, weight decay, 10-40-80"
# Counts of a bright pixel, and of the background.
_INK, _BACKGROUND = 20.0, 1.0


class Simulated(NamedTuple):
    """Codes from the prior and observations of them.

    Attributes:
        truth: (B, k).
        y: (B, ...), as :func:`unrelu.posterior` takes it.
    """

    truth: Array
    y: Array


@dataclass(frozen=True, eq=False)
class PosteriorCell:
    """y ~ p(y | A G(z)), z ~ N(0, I), or uniform between bounds.

    Attributes:
        network: G.
        noise: Gaussian with a number or one an entry of what is measured, or Poisson.
        operator: A: None, a mask of the output's shape, or a matrix.
        bounds: of codes, or None.
    """

    network: Generator
    noise: Any
    operator: npt.NDArray[Any] | None = None
    bounds: tuple[Array, Array] | None = None

    @property
    def stated(self) -> dict[str, Any]:
        """What :func:`unrelu.posterior` is told besides the network and y."""
        return {"noise": self.noise, "operator": self.operator, "bounds": self.bounds}

    def sampled(self, y: Array, **options: Any) -> Any:
        """What :func:`unrelu.posterior` draws for observations (B, ...)."""
        return unrelu.posterior(self.network, y, **self.stated, **options)

    def measured(self, x: Array) -> Array:
        """A x of outputs (B, ...), or the entries of y that are seen, (B, m)."""
        x = x.reshape(len(x), -1)
        if self.operator is None:
            return x
        return x[:, self.operator.ravel()] if self.operator.dtype == bool else x @ self.operator.T

    def seen(self, y: Array) -> Array:
        """The entries of y that are measured, (B, m), of (B, ...)."""
        flat = y.reshape(len(y), -1)
        return flat[:, self.operator.ravel()] if self.operator is not None and self.operator.dtype == bool else flat

    def log_likelihood(self, z: Array, y: Array) -> Array:
        """log p(y | z) up to a constant of y, of codes (N, k) and entries (m,) that were seen, (N,)."""
        mean = self.measured(self.network.outputs(z))
        if isinstance(self.noise, Gaussian):
            return np.asarray(-0.5 * np.square((y - mean) / self.noise.level).sum(axis=1))
        return np.asarray((y * np.log(mean) - mean).sum(axis=1))

    def simulated(self, count: int, seed: int, name: str, first: int = 0) -> Simulated:
        """``count`` codes and observations from number ``first`` on, each from streams of its own."""
        truth = np.array([self.drawn(random("posterior truth", seed, name, first + i), 1)[0] for i in range(count)])
        return self.observed(truth, seed, name, first)

    def drawn(self, rng: np.random.Generator, count: int) -> Array:
        """Codes from the prior, (count, k)."""
        size = (count, self.network.latent_dim)
        if self.bounds is None:
            return rng.standard_normal(size)
        lower, upper = self.bounds
        return np.asarray(lower + (upper - lower) * rng.random(size))

    def observed(self, truth: Array, seed: int, name: str, first: int = 0) -> Simulated:
        """Observations of codes (B, k), which have the numbers from ``first`` on."""
        count, y = len(truth), []
        for i, row in enumerate(self.measured(self.network.outputs(truth))):
            rng = random("posterior noise", seed, name, first + i)
            if isinstance(self.noise, Gaussian):
                y.append(row + self.noise.level * rng.standard_normal(len(row)))
            else:
                y.append(rng.poisson(row).astype(float))
        if self.operator is None or self.operator.dtype == bool:
            whole = np.zeros((count, self.network.output_dim))
            whole[:, slice(None) if self.operator is None else self.operator.ravel()] = y
            return Simulated(truth, whole.reshape(count, *self.network.output_shape))
        return Simulated(truth, np.array(y))


def _pixels(network: Network, share: float, name: str) -> Flags:
    """A mask of randomly chosen pixels."""
    n = network.output_dim
    mask = np.zeros(n, dtype=bool)
    mask[random("posterior mask", name).permutation(n)[: round(share * n)]] = True
    return mask.reshape(network.output_shape)


def _decoder(load: Callable[[], Network], share: float, name: str, sigma: float = 0.1) -> PosteriorCell:
    network = load()
    return PosteriorCell(network, Gaussian(sigma), None if share == 1 else _pixels(network, share, name))


def measured_decoder(count: int, sigma: float, name: str = DECODER) -> PosteriorCell:
    """The decoder, or a bundled one, by so many Gaussian measurements."""
    network = plain_vae(DECODER) if name == DECODER else zoo.load(name)
    matrix = gaussian_measurements(count, network.output_dim, random("posterior measurements", count))
    return PosteriorCell(network, Gaussian(sigma), matrix)


def masked_decoder(share: float, sigma: float) -> PosteriorCell:
    """The decoder by a share of its pixels."""
    return _decoder(partial(plain_vae, DECODER), share, DECODER, sigma)


def _bounded_emulator() -> PosteriorCell:
    """The first of the stiff emulators, whose 28 outputs have deviations of their own."""
    name = "stiff-a"
    lower, upper = np.array(EMULATORS[name].lower), np.array(EMULATORS[name].upper)
    truth = lower + (upper - lower) * random("posterior emulator", name).random((200, len(lower)))
    _, sigma = observed(emulator(name), truth, True, 0, name)
    return PosteriorCell(emulator(name), Gaussian(sigma), bounds=(lower, upper))


def _counts() -> PosteriorCell:
    """Photons on a digit of 8 x 8 pixels: its bright pixels expect some, and the background one."""
    layers = family_network(_RELU).layers
    weights, biases = [np.asarray(layer.matrix()) for layer in layers], [layer.bias() for layer in layers]
    return PosteriorCell(from_arrays(weights, biases, "relu", output_scale=(_BACKGROUND, _INK)), Poisson())


CELLS: dict[str, Callable[[], PosteriorCell]] = {
    "plain VAE, half of the pixels": partial(masked_decoder, 0.5, 0.1),
    "plain VAE, 25 Gaussian measurements": partial(measured_decoder, 25, 0.1),
    "LeakyReLU, a tenth of the pixels": partial(_decoder, partial(family_network, _LEAKY), 0.1, _LEAKY),
    "sigmoid, a tenth of the pixels": partial(_decoder, partial(family_network, _SIGMOID), 0.1, _SIGMOID),
    "emulator in bounds": _bounded_emulator,
    "Poisson counts": _counts,
    "DCGAN": partial(_decoder, partial(zoo.load, "mnist-dcgan"), 1.0, "mnist-dcgan"),
}


@cache
def cell(name: str) -> PosteriorCell:
    """A cell by its name, once in a process."""
    return CELLS[name]()
