"""Decoders of plain variational autoencoders on MNIST digits, on which a search is easily wrong.

20-60-784, a ReLU after every layer, no biases, trained with a Gaussian likelihood and nothing else by
``unrelu_studies.zoo.train_plain_vaes``, as the paper's authors train theirs. A sample has fewer visible pixels than one
of the zoo's ``mnist-relu``, and an inversion more local minima. z ~ N(0, I).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files

import numpy as np

from unrelu.errors import ModelError
from unrelu.loaders import from_arrays
from unrelu.models.network import Network

# Three seeds at a variance of .05 a pixel, and one at .2.
NAMES = ("plain-vae-0", "plain-vae-1", "plain-vae-2", "plain-vae-0-variance-0.2")
WIDTHS = (20, 60, 784)


@cache
def load(name: str) -> Network:
    """A decoder by its name, (20,) -> (784,).

    Raises:
        ModelError: there is no such decoder.
    """
    if name not in NAMES:
        raise ModelError(f"there is no plain VAE {name!r}; load one of {', '.join(NAMES)}")
    resource = files("unrelu_studies.benchmarks") / "weights" / f"{name}.npz"
    with as_file(resource) as path, np.load(path, allow_pickle=False) as weights:
        return from_arrays([weights["W1"], weights["W2"]], activation="relu")
