"""Small generators that we trained on real MNIST digits, and 100 digits they have never seen.

All have 20 latent coordinates with z ~ N(0, I). Each has a model card beside its weights.

>>> from unrelu import zoo
>>> print(zoo.load("mnist-relu").latent_dim)
20
"""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from typing import cast

import numpy as np
import torch

from unrelu.errors import ModelError
from unrelu.loaders import from_torch
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array, Integers
from unrelu.runtime.host import computing
from unrelu.runtime.words import nearest
from unrelu.zoo.architectures import ARCHITECTURES, LATENT_DIM

__all__ = ["card", "digits", "load", "names", "observations"]

# Pixel values of background and ink where they are not 0 and 1.
_PIXELS = {"mnist-dcgan": (-1.0, 1.0)}


def names() -> tuple[str, ...]:
    """The names that :func:`load` takes."""
    return tuple(ARCHITECTURES)


@cache
@computing()
def load(name: str) -> Network:
    """Load a trained generator by its name.

    Raises:
        ModelError: there is no such generator.
    """
    _check(name)
    with torch.device("meta"):  # no initial weights are drawn
        module = ARCHITECTURES[name]()
    state = {key: torch.zeros_like(value, device="cpu") for key, value in module.state_dict().items()}
    with as_file(files(__name__) / "weights" / f"{name}.npz") as path, np.load(path, allow_pickle=False) as weights:
        state.update({key: torch.from_numpy(weights[key]) for key in weights.files})
    module.load_state_dict(state, assign=True)  # keeps the stored dtype, whatever the default dtype is
    return cast(Network, from_torch(module.eval(), latent_shape=(LATENT_DIM,)))


def card(name: str) -> str:
    """The model card of a generator, Markdown: data, training, measured quality, limits.

    Raises:
        ModelError: there is no such generator.
    """
    _check(name)
    return (files(__name__) / "weights" / f"{name}.md").read_text(encoding="utf-8")


def digits() -> tuple[Array, Integers]:
    """100 real MNIST digits held out of training: images (100, 28, 28) with values in [0, 1], and labels (100,).

    Source: MNIST, by Yann LeCun, Corinna Cortes and Christopher J. C. Burges.
    """
    with as_file(files(__name__) / "digits.npz") as path, np.load(path, allow_pickle=False) as data:
        return data["images"] / 255.0, data["labels"].astype(np.int64)


def observations(name: str) -> Array:
    """The held-out digits, ``(100, *output_shape)``, in the generator's range of pixel values.

    Raises:
        ModelError: there is no such generator.
    """
    _check(name)
    background, ink = _PIXELS.get(name, (0.0, 1.0))
    images, _ = digits()
    return (background + (ink - background) * images).reshape(-1, *load(name).output_shape)


def _check(name: str) -> None:
    if name not in ARCHITECTURES:
        raise ModelError(
            f"the zoo has no generator {name!r}; it has {', '.join(ARCHITECTURES)}{nearest(name, ARCHITECTURES)}"
        )
