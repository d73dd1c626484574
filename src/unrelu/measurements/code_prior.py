r"""The distribution of codes, where it is known: z ~ N(mean, diag(std^2)).

With stated noise, the most probable code (maximum a posteriori) minimises

.. math:: -2 \log p(z | y) = \frac{f(z)}{\varphi} + \Bigl| \frac{z - \mathrm{mean}}{\mathrm{std}} \Bigr|_2^2 + c,

where f is the objective without a prior (:math:`|r|_2^2`, chi-square, or the deviance) and :math:`\varphi` the
dispersion parameter of the noise: S^2 for Gaussian errors of one size S, 1 for whitened errors and for counts. Methods
search t with z = mean + std t, in which the prior is N(0, I) (:class:`~unrelu.measurements.latent_bounds.Coordinates`).
Their objective is :math:`f + \varphi |t|_2^2`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError
from unrelu.measurements.noise import Noise
from unrelu.models.affine import Shape
from unrelu.models.generator import numbers
from unrelu.runtime.array_types import Array
from unrelu.runtime.words import shown


@dataclass(frozen=True, eq=False)
class Normal:
    r"""Independent normal codes, :math:`z_j \sim N(\mathrm{mean}_j, \mathrm{std}_j^2)`, as ``prior`` of ``invert``.

    With stated noise, ``unrelu.invert(net, y, noise="gaussian:0.1", prior=unrelu.Normal())`` asks for the most probable
    code (maximum a posteriori). The weight of the prior follows from the noise.

    Args:
        mean: a number, or an array of a code's shape.
        std: the standard deviation, above 0: a number, or an array of a code's shape.

    Raises:
        InputError: mean or std is not finite, std is not above 0, or either is not made of real numbers. The functions
            that take a prior also raise it if an array has not the shape of a code, or if the noise has no density.

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
        for name in ("mean", "std"):
            object.__setattr__(self, name, _finite(getattr(self, name), name))
        # 1 / std of a smaller one overflows.
        small = np.argwhere(~(np.asarray(self.std) >= np.finfo(float).tiny))
        if len(small):
            where = tuple(map(int, small[0]))
            raise InputError(
                f"prior=Normal: std{list(where) if where else ''} is {np.asarray(self.std)[where]:g}, and must be "
                "above 0; for a coordinate that is known, pass narrow bounds="
            )

    def __str__(self) -> str:
        return f"Normal({_text(self.mean)}, {_text(self.std)})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Normal) and np.array_equal(self.mean, other.mean) and np.array_equal(self.std, other.std)
        )

    def __hash__(self) -> int:
        return hash(tuple(np.asarray(each).tobytes() for each in (self.mean, self.std)))

    @property
    def standard(self) -> bool:
        """Whether it is N(0, I)."""
        return not np.any(self.mean) and bool(np.all(np.asarray(self.std) == 1))

    def of_shape(self, shape: Shape) -> Normal:
        """The same distribution of flat codes, with arrays (k,); ``shape`` is that of a code.

        Raises:
            InputError: mean or std is an array of another shape.
        """
        k = math.prod(shape)
        vectors = []
        for name, value in (("mean", self.mean), ("std", self.std)):
            if np.shape(value) not in ((), (k,), shape):
                raise InputError(
                    f"prior=Normal: {name} has shape {np.shape(value)}, a code has shape {shape}; pass a number or an "
                    "array of that shape"
                )
            vectors.append(np.broadcast_to(np.reshape(value, -1), (k,)))
        return Normal(*vectors)

    def standardised(self, z: Array) -> Array:
        """(z - mean) / std for flat codes (..., k)."""
        return np.asarray((z - self.mean) / self.std)

    def refuse(self, noise: Noise, norm: str) -> None:
        """Refuse noise and objectives for which the most probable code is not defined.

        Raises:
            InputError: the noise has no density, or the objective is not its deviance.
        """
        if noise.without_density:
            raise InputError(
                f"prior={shown(str(self))} asks for the most probable code, and noise={noise} {noise.without_density}; "
                "state 'gaussian:S' or counts, or pass a number, the weight of |z|^2"
            )
        if norm != "l2":
            stated = "loss=" if norm == "loss" else f"norm={norm!r}"
            raise InputError(
                f"prior={shown(str(self))} asks for the most probable code, and {stated} is not the likelihood of "
                f"noise={noise}; leave it out, or pass a number, the weight of |z|^2"
            )

    def plain(self) -> dict[str, Any]:
        """Mean and std for JSON, numbers or lists."""
        return {name: np.asarray(getattr(self, name)).tolist() for name in ("mean", "std")}

    @staticmethod
    def of_plain(plain: Any) -> Any:
        """The prior from what JSON has: a distribution from the value of :meth:`plain`; a number stays one."""
        return Normal(**plain) if isinstance(plain, dict) else plain


def _finite(value: npt.ArrayLike, name: str) -> float | Array:
    """A number, or a read-only array of finite numbers."""
    array = numbers(value, f"prior=Normal: {name}")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = tuple(map(int, bad[0]))
        raise InputError(
            f"prior=Normal: {name}{list(where) if where else ''} is {array[where]:g}, and must be finite; for a "
            "coordinate of which nothing is known, pass a large std"
        )
    if not array.ndim:
        return float(array)
    array.setflags(write=False)
    return array


def _text(value: float | Array) -> str:
    different = np.unique(value)
    return f"array{np.shape(value)}" if len(different) > 1 else f"{different[0]:g}"
