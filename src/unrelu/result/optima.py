"""The distinct local optima of one observation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unrelu.display.text_tables import text_table
from unrelu.errors import InputError
from unrelu.parameters.names import Names
from unrelu.runtime.argument_checks import numbers
from unrelu.runtime.array_types import Array, Flags, Integers
from unrelu.runtime.words import probability, shown

# The largest numbers of optima and of their coordinates that are printed.
_PRINTED, _COORDINATES = 10, 6


@dataclass(frozen=True, eq=False, repr=False)
class Optima:
    """M local optima of one observation, best first; ``len`` is M, and ``print`` shows a table.

    An index selects one optimum, whose attributes lack the first axis. A slice, a mask or an array of indices selects
    several.

    Attributes:
        z: codes, ``(M, *latent_shape)``, in the user's units.
        fun: objectives, (M,), as :attr:`unrelu.Inversion.fun`.
        reached: how many restarts ended there, before or after perturbations, (M,); 0 if only other starts led there.
        p_value: goodness of fit under the stated noise, (M,), as :attr:`unrelu.Inversion.p_value`; NaN without.
        explains: whether each explains y, (M,): a p-value of at least 0.01, or, without stated noise, an exact fit.
        names: the names of the coordinates.
    """

    z: Array
    fun: Array
    reached: Integers
    p_value: Array
    explains: Flags
    names: Names

    def __len__(self) -> int:
        return np.size(self.fun)

    def __getitem__(self, index: Any) -> Optima:
        names = ("z", "fun", "reached", "p_value", "explains")
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    def apart(self, distance: Any) -> Optima:
        r"""Select the best optimum, then each further one that is far enough from all selected: distinct designs.

        Two codes are apart if :math:`|z_j - z'_j| \ge d_j` in any coordinate j.

        Args:
            distance: d in the user's units: a number, one for each coordinate, or values for some by name or index.

        Raises:
            InputError: a distance is negative or no number, or has another shape; or a name is unknown.

        >>> import unrelu
        >>> net = unrelu.from_arrays([[[1.0], [-1.0]], [[1.0, 1.0]]])  # G(z) = |z|
        >>> o = unrelu.invert(net, [2.0], restarts=10).optima
        >>> sorted(o.z.ravel()), len(o.apart(4.0)), len(o.apart(4.1))
        ([-2.0, 2.0], 2, 1)
        """
        given, names = distance, self.names
        if isinstance(distance, Mapping):
            some = {names.place(name, "distance"): value for name, value in distance.items()}
            given = [some.get(j, np.inf) for j in range(names.latent_dim)]
        least = numbers(given, "distance").ravel()
        if len(least) not in (1, names.latent_dim) or not (least >= 0).all():
            raise InputError(f"distance={shown(distance)} must be at least 0: a number, or one for each coordinate")
        flat, kept = names.parameters_of(self.z.reshape(-1, self.names.latent_dim)), list[int]()
        if not np.ndim(self.fun):
            return self
        for i, z in enumerate(flat):
            if all((np.abs(flat[j] - z) >= least).any() for j in kept):
                kept.append(i)
        return self[np.array(kept, dtype=np.int64)]

    def __repr__(self) -> str:
        return f"<Optima: {np.size(self.fun)}, {np.sum(self.explains)} of them explain y>"

    def __str__(self) -> str:
        """Format the first optima as a table."""
        some, size = self[:_PRINTED] if np.ndim(self.fun) else self[None], np.size(self.fun)
        codes = self.names.parameters_of(some.z.reshape(-1, self.names.latent_dim))[:, :_COORDINATES]
        names = ["", "fun", "p-value", "explains y", "reached", *self.names.parameter_names[:_COORDINATES]]
        rows = [
            [str(i), f"{fun:.6g}", probability(p), "yes" if fits else "no", str(n), *(f"{value:.5g}" for value in code)]
            for i, (fun, p, fits, n, code) in enumerate(
                zip(some.fun, some.p_value, some.explains, some.reached, codes, strict=True)
            )
        ]
        left = [f"  and {size - len(rows)} more"] if size > len(rows) else []
        title = f"{size} distinct local optim{'um' if size == 1 else 'a, best first'}"
        return "\n".join([title, *text_table(names, rows), *left])
