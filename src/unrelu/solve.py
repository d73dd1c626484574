"""The front door: an observation in, a code with its status out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.certify import freedom
from unrelu.errors import OptionError
from unrelu.generator import Generator
from unrelu.methods import Method, make
from unrelu.problem import Problem, Progress
from unrelu.result import Inversion
from unrelu.threads import suitable_threads

__all__ = ["invert"]


def invert(
    network: Generator,
    y: npt.ArrayLike,
    method: str | Method = "auto",
    *,
    noise: str | None = None,
    norm: str | None = None,
    z0: npt.ArrayLike | None = None,
    seed: int = 0,
    time_limit: float | None = None,
    callback: Callable[[Progress], Any] | None = None,
    **options: Any,
) -> Inversion:
    r"""Find latent codes z with G(z) close to y = G(z*) + e.

    Args:
        network: G, from :func:`unrelu.load`, :func:`unrelu.from_torch` or :func:`unrelu.from_arrays`.
        y: one observation of the network's output shape (or flat, (n,)), or a batch (B, ...).
        method: a name of the registry ("auto", "exact", "linf", "l1", "relaxed", "least_squares", "lm",
            "gradient_descent"), or a callable ``method(problem) -> Inversion``.
        noise: what is known about e: None, "uniform:A" (:math:`|e_j| \le A`), "gaussian:S" (standard deviation S) or
            "outliers:P" (a share P of arbitrary errors); in units of y.
        norm: what ``fun`` reports and "auto" compares codes by: "l2" (:math:`|r|_2^2`), "l1" (:math:`|r|_1`) or "linf"
            (:math:`|r|_\infty`), r = y - G(z). By default "auto" takes that of the noise (linf for uniform, l1 for
            outliers, l2 otherwise), the others report what they minimise.
        z0: codes to start from, (k,) or (B, k), for the methods that start somewhere.
        seed: the same call with the same seed on the same machine gives the same bits. Random starts are drawn for the
            batch as a whole, so an observation alone may get other ones than within a batch.
        time_limit: in seconds; observations not reached have NaN codes and the status TIME_LIMIT.
        callback: called with a :class:`~unrelu.problem.Progress`; the run stops when it returns True.
        **options: options of the method; an unknown one is an error.

    Returns:
        An :class:`~unrelu.result.Inversion`, shaped like y: scalars for one observation, arrays (B,) for a batch.

    Raises:
        InputError: y, z0, noise or norm cannot be used.
        OptionError: an unknown method or option, or one of the wrong type.
        UnsupportedModelError: the method cannot invert this network.
        SolverError: an LP solver refused its input.
    """
    for name in ("operator", "prior"):
        value = options.pop(name, None)
        if value is not None and not (np.ndim(value) == 0 and value == 0):
            raise OptionError(
                f"{name}= is not supported yet: pass the whole output as y, without a mask, matrix or prior"
            )
    run = make(method, options)
    problem = Problem.build(
        network, y, noise=noise, norm=norm, z0=z0, seed=seed, time_limit=time_limit, callback=callback
    )
    with suitable_threads(network):
        result = run(problem)
    if not isinstance(result, Inversion):
        raise OptionError(f"the method returned a {type(result).__name__}; end it with Inversion.of(problem, z, ...)")
    if norm is not None:
        result = result.measured_in(norm)
    return _with_freedom(result).shaped()


def _with_freedom(result: Inversion) -> Inversion:
    """Say of each exact fit whether other codes fit too."""
    fits = np.isfinite(result.z).all(axis=1) & result.problem.fits_exactly(result.z)
    if not fits.any():
        return result
    free = np.full(len(fits), -1, dtype=np.int64)
    free[fits] = freedom(result.problem.network, result.z[fits])
    return result.with_freedom(free)
