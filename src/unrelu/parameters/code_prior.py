r"""A prior distribution of codes, z ~ N(mean, diag(std^2)), for problems that state one.

With stated noise, the most probable code (maximum a posteriori) minimises

.. math:: -2 \log p(z | y) = \frac{f(z)}{\varphi} + \Bigl| \frac{z - \mathrm{mean}}{\mathrm{std}} \Bigr|_2^2 + c,

where f is the objective without a prior (:math:`|r|_2^2`, chi-square, or the deviance) and :math:`\varphi` the
dispersion parameter of the noise: S^2 for Gaussian errors of one size S, 1 for whitened errors and for counts. Methods
search over t with z = mean + std t. The prior of t is N(0, I)
(:class:`~unrelu.measurements.working_units.Coordinates`), and the objective is :math:`f + \varphi |t|_2^2`. A
coordinate with an infinite std has no term: its prior is flat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError
from unrelu.parameters.names import Names, plain_numbers
from unrelu.runtime.argument_checks import numbers
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.words import shown


@dataclass(frozen=True, eq=False)
class Normal:
    r"""Independent normal codes, :math:`z_j \sim N(\mathrm{mean}_j, \mathrm{std}_j^2)`, as ``prior`` of ``invert``.

    With stated noise, ``unrelu.invert(net, y, noise="gaussian:0.1", prior=unrelu.Normal())`` asks for the most probable
    code (maximum a posteriori). The weight of the prior follows from the noise.

    If coordinates have names, mean and std can be dictionaries with the same names, ``unrelu.Normal({"h": 0.67}, {"h":
    0.01})``. The prior of the other coordinates is then flat. Nuisance parameters keep their prior from
    :func:`unrelu.extend`. With ``unrelu.Normal(std={})``, only nuisance parameters have a prior.

    Args:
        mean: a number, or an array of a code's shape.
        std: the standard deviation, above 0: a number, or an array of a code's shape. It is infinite for coordinates
            with a flat prior; :func:`unrelu.posterior` needs two finite ``bounds`` for such coordinates.

    Raises:
        InputError: mean is not finite, std is not above 0, or either is not made of real numbers. Functions that take
            a prior also raise it if an array does not have the shape of a code, a name is unknown, every std is
            infinite, or the noise has no density.

    Source: Bayes' rule; for a linear generator, Tikhonov regularisation (ridge regression).

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [1.0]]], activation="identity")  # G(z) = (2 z, z)
    >>> r = unrelu.invert(net, [1.0, 0.5], noise="gaussian:0.5", prior=unrelu.Normal(1.0, 0.5))
    >>> r.z.round(4)  # (5 / .25 * .5 + 1 / .25) / (5 / .25 + 1 / .25)
    array([0.5833])
    """

    mean: Any = 0.0
    std: Any = 1.0

    def __post_init__(self) -> None:
        mean, std = self.mean, self.std
        if self.by_name and not isinstance(mean, Mapping):
            mean = dict.fromkeys(std, mean)
        if not self.by_name and not isinstance(mean, Mapping):
            held: tuple[Any, Any] = _real(mean, "mean"), _real(std, "std")
        elif not self.by_name or set(mean) != set(std):
            named = f"std {', '.join(map(str, std))}" if self.by_name else f"std is {shown(std)}"
            raise InputError(
                f"prior=Normal: mean names {', '.join(map(str, mean))}, and {named}; name the same coordinates in both"
            )
        else:
            held = ({str(name): _real(mean[name], "mean") for name in std},
                    {str(name): _real(value, "std") for name, value in std.items()})  # fmt: skip
            if any(np.ndim(value) for each in held for value in each.values()):
                raise InputError(f"prior=Normal: mean={shown(mean)}, std={shown(std)}; pass a number for each name")
        object.__setattr__(self, "mean", held[0])
        object.__setattr__(self, "std", held[1])

    def __str__(self) -> str:
        return f"Normal({_text(self.mean)}, {_text(self.std)})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Normal) and np.array_equal(self.mean, other.mean) and np.array_equal(self.std, other.std)
        )

    def __hash__(self) -> int:
        values = (
            sorted(v.items()) if isinstance(v, Mapping) else np.asarray(v).tolist() for v in (self.mean, self.std)
        )
        return hash(str(tuple(values)))

    @property
    def standard(self) -> bool:
        """Whether each coordinate has the prior N(0, 1) or a flat one."""
        return not np.any(self.mean) and bool(np.all((np.asarray(self.std) == 1) | ~self.proper))

    @property
    def proper(self) -> Flags:
        """Which coordinates have a finite standard deviation; the prior of the others is flat."""
        return np.asarray(np.isfinite(self.std))

    @property
    def in_units(self) -> Normal:
        """The distribution of (z - mean) / std: N(0, 1), or flat where the prior of z is flat."""
        return Normal() if np.all(self.proper) else Normal(0.0, np.where(self.proper, 1.0, np.inf))

    @property
    def by_name(self) -> bool:
        """Whether mean and std are dictionaries by coordinate name."""
        return isinstance(self.std, Mapping)

    def of_names(self, named: Names) -> Normal:
        """Resolve the names of a generator's coordinates: return the distribution of flat codes, with arrays (k,).

        Raises:
            InputError: mean or std is an array of another shape, a name is unknown, or every std is infinite.
        """
        mean, std = self.mean, self.std
        if self.by_name:
            mean, std = np.zeros(named.latent_dim), np.where(named.nuisance, 1.0, np.inf)
            for name in self.std:
                j = named.place(name, "prior=Normal")
                if named.nuisance[j]:
                    raise InputError(f"prior=Normal: the nuisance parameter {name!r} has the prior of unrelu.extend")
                mean[j], std[j] = self.mean[name], self.std[name]
        if np.isinf(std).all():
            raise InputError(
                f"prior={self} has an infinite std everywhere, so that nothing is known; leave it out, or state bounds="
            )
        return Normal(named.flat(mean, "prior=Normal: mean"), named.flat(std, "prior=Normal: std"))

    def subset(self, coordinates: Flags) -> Normal:
        """Return the distribution of the coordinates where ``coordinates``, (k,), is True."""
        return Normal(*(np.broadcast_to(each, coordinates.shape)[coordinates] for each in (self.mean, self.std)))

    def standardised(self, z: Array) -> Array:
        """Compute (z - mean) / std for flat codes (..., k); 0 where the prior is flat."""
        with np.errstate(invalid="ignore"):
            return np.where(self.proper, (z - self.mean) / self.std, 0.0)

    def plain(self) -> dict[str, Any]:
        """Return mean and std for JSON, as numbers or lists; infinity is text. Names need :meth:`of_names` first."""
        return {"mean": plain_numbers(self.mean), "std": plain_numbers(self.std)}


def _real(value: npt.ArrayLike, name: str) -> float | Array:
    """Read finite means, or standard deviations above 0: return a number or a read-only array."""
    array = numbers(value, f"prior=Normal: {name}")
    # For a smaller std, 1 / std overflows.
    bad = np.argwhere(~np.isfinite(array) if name == "mean" else ~(array >= np.finfo(float).tiny))
    if len(bad):
        where = tuple(map(int, bad[0]))
        raise InputError(
            f"prior=Normal: {name}{list(where) if where else ''} is {array[where]:g}, and must be "
            f"{'finite' if name == 'mean' else 'above 0'}; for a coordinate of which nothing is known, pass an "
            "infinite std, for one that is known narrow bounds="
        )
    if not array.ndim:
        return float(array)
    array.setflags(write=False)
    return array


def _text(value: float | Array | Mapping[str, float]) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {each:g}' for name, each in value.items())}}}"
    different = np.unique(value)
    return f"array{np.shape(value)}" if len(different) > 1 else f"{different[0]:g}"
