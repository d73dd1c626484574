"""What is minimised: norms of the residual, and how ``norm=``, ``loss=`` and ``prior=`` are read."""

from __future__ import annotations

import math

import numpy as np

from unrelu.errors import InputError
from unrelu.measurements.losses import Huber, OwnLoss
from unrelu.measurements.noise import Noise
from unrelu.models.code_prior import Normal
from unrelu.models.names import Names
from unrelu.runtime.argument_numbers import real_number
from unrelu.runtime.array_types import Array
from unrelu.runtime.words import nearest, shown

# The power of the unit of y in each objective.
DEGREES = {"l2": 2, "l1": 1, "linf": 1, Huber.name: Huber.degree, OwnLoss.name: OwnLoss.degree}

_NORMS = ("l2", "l1", "linf", "huber", "huber:D")


def norms(r: Array, norm: str) -> Array:
    """The norm of each residual r (B, m), (B,), in "l2", "l1" or "linf"; squares do not overflow or underflow."""
    if norm == "linf":
        return np.asarray(np.abs(r).max(axis=1))
    if norm == "l1":
        with np.errstate(over="ignore"):  # a diverged code may be astronomically large
            return np.asarray(np.abs(r).sum(axis=1))
    scale = np.abs(r).max(axis=1)
    scale[~((scale > 0) & (scale < np.inf))] = 1.0
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(scale * np.linalg.norm(r / scale[:, None], axis=1))


def argument_of(norm: str) -> str:
    """The argument that states an objective, as messages show it."""
    return "loss=" if norm == OwnLoss.name else f"norm={norm!r}"


def read_norm(norm: str | None, loss: object, noise: Noise) -> tuple[str, Huber | None]:
    """The norm, by default that of the noise, and the Huber loss if it is that.

    Raises:
        InputError: the norm is unknown, a loss is stated beside it or beside noise that differs by entry, or
            the noise has a deviance.
    """
    if loss is not None and norm is not None:
        raise InputError(f"norm={norm!r}: loss= is minimised in its place; leave one of them out")
    if loss is not None and noise.entrywise:
        raise InputError(
            f"loss= compares y and the reconstruction as they are, and noise={noise} weighs their entries: state one "
            "number, or use norm='huber'"
        )
    kind = str(norm).partition(":")[0]
    if norm is not None and kind not in _NORMS[:4]:
        raise InputError(f"norm={norm!r} is unknown; use 'l2', 'l1', 'linf' or 'huber:D'{nearest(norm, _NORMS)}")
    huber = None
    if kind == Huber.name:
        whitened = noise.entrywise  # its standard deviation is then 1
        norm, huber = Huber.name, Huber.parse(str(norm), 1.0 if whitened else math.sqrt(noise.mean_square))
    found = OwnLoss.name if loss is not None else norm or noise.norm
    if noise.likelihood is not None and found != "l2":
        argument = "loss=" if loss is not None else "norm="
        raise InputError(f"norm={found!r}: noise={noise} compares observations by their deviance; leave {argument} out")
    return found, huber


def read_prior(prior: float | Normal, names: Names, noise: Noise, norm: str) -> tuple[float, Normal | None]:
    """The weight of |z|^2, and the distribution of codes if it is stated in its place.

    Raises:
        InputError: the weight is below 0 or infinite, or the objective has no term of the prior.
        OptionError: the prior is neither a number nor a distribution.
    """
    if isinstance(prior, Normal):
        normal = prior.of_names(names)
        refuse_prior(normal, noise, norm)
        return 0.0, normal
    weight = real_number("prior", prior, "a number, the weight of |z|^2, or unrelu.Normal(mean, std)")
    if not 0 <= weight < math.inf:
        raise InputError(f"prior={weight:g} must be finite and at least 0")
    if weight and norm in ("l1", "linf"):
        raise InputError(f"prior={weight:g} is a term of the l2 objective; the norm here is {norm!r}, pass norm='l2'")
    return weight, None


def refuse_prior(normal: Normal, noise: Noise, norm: str) -> None:
    """Refuse noise and objectives for which the most probable code is not defined.

    Raises:
        InputError: the noise has no density, or the objective is not its likelihood.
    """
    asks = f"prior={shown(str(normal))} asks for the most probable code"
    if noise.without_density:
        raise InputError(
            f"{asks}, and noise={noise} {noise.without_density}; state 'gaussian:S' or counts, or pass a number, the "
            "weight of |z|^2"
        )
    if norm != "l2":
        raise InputError(
            f"{asks}, and {argument_of(norm)} is not the likelihood of noise={noise}; leave it out, or pass a number, "
            "the weight of |z|^2"
        )
