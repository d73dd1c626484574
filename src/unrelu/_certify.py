"""The front door to proofs: an observation and its code in, a certificate out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from unrelu._invert import invert
from unrelu.certification.certificate import Certificate, Certificates
from unrelu.certification.certified_chain import certifiable
from unrelu.certification.certifying import prove
from unrelu.certification.node_program import Limits
from unrelu.errors import InputError
from unrelu.measurements.noise import Noise, UnknownNoise
from unrelu.measurements.unknown_level import refuse_unknown_level
from unrelu.models.generator import Generator
from unrelu.problem import Problem, problem_of
from unrelu.result import Inversion
from unrelu.runtime.argument_checks import known_arguments, whole_number
from unrelu.runtime.array_types import Array
from unrelu.runtime.run_control import Progress, now
from unrelu.runtime.words import count


@known_arguments
def certify(
    network: Generator,
    y: npt.ArrayLike | Mapping[str, Any],
    result: Inversion | npt.ArrayLike | None = None,
    *,
    operator: Any = None,
    noise: Noise | str | None = None,
    bounds: Any = None,
    fixed: Any = None,
    norm: str | None = None,
    box: bool = True,
    time_limit: float | None = None,
    max_nodes: int = 50_000,
    seed: int = 0,
    callback: Callable[[Progress], Any] | None = None,
    scale: str | tuple[float, float] | None = None,
) -> Certificate | Certificates:
    r"""Bound the smallest error over all codes, and prove it.

    .. math:: lower \le \min_z F(z) \le upper, \qquad F(z) = |y - A G(z)|_\infty \text{ or } |y - A G(z)|_1

    By branch and bound on the signs of the pre-activations, with linear relaxations. The bounds are valid whenever it
    stops; :meth:`~unrelu.Certificate.verify` checks them again, without a solver.

    Args:
        network: G, a chain of layers with ReLU, LeakyReLU or identity activations whose matrices can be written out.
        y, scale: as for :func:`unrelu.invert`; bounds and ``noise`` are in the units of the scaled y.
        result: what ``invert`` returned for y, or codes (k,) or (B, k); None inverts y first, by "auto".
        operator: A, as for :func:`unrelu.invert`; None takes that of ``result`` if it has one.
        bounds: of the codes that are compared, as for :func:`unrelu.invert`, two finite ends for every coordinate; None
            takes those of ``result`` if it has some, and (-inf, inf) takes none.
        fixed: as for :func:`unrelu.invert`; the other coordinates then need bounds.
        noise: "uniform:A" asks for a box of all codes with errors up to A; None takes that of ``result``. Infinite
            entries of an array hide those of the output; :meth:`~unrelu.Certificate.verify` is told by a mask.
        norm: "linf" or "l1". By default l1 for outliers, linf otherwise.
        box: whether to compute the box of all codes that explain y, which comes first and may take 30% of the time;
            there is none if that is short.
        time_limit: seconds for each observation; the inversion, where there is no result, comes on top.
        max_nodes: relaxations for each observation, at most. A node that is still open takes about 4 KB for a
            20-60-784 network.
        seed: seed of the inversion, where there is no result.
        callback: as for :func:`unrelu.invert`, called at every node, which ``nit`` counts, and by the inversion; where
            it stops, the bounds so far are returned.

    Returns:
        A :class:`~unrelu.Certificate`, or :class:`~unrelu.Certificates` for a batch.

    Raises:
        InputError: result, noise, bounds or norm cannot be used, or ``result`` is outside of the bounds.
        UnsupportedModelError: an activation is not piecewise linear and convex, or a layer is too large.

    All other errors are those of :func:`unrelu.invert`.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> c = unrelu.certify(net, [1.0, 0.0, 0.4], noise="uniform:0.1")
    >>> print(f"{c.lower:.4f} <= min F <= {c.upper:.4f}, all codes within the noise: {c.box.round(4)}")
    0.0667 <= min F <= 0.0667, all codes within the noise: [[0.45 0.5 ]]
    """
    if isinstance(result, Inversion):
        stated = result.problem.stated
        # If y is given by part, its operator is made of the parts again.
        operator = stated.operator if operator is None and not isinstance(y, Mapping) else operator
        noise = stated.noise if noise is None else noise
        bounds = stated.bounds.ends if bounds is None else bounds
    if norm is not None and norm not in ("linf", "l1"):
        raise InputError(f"norm={norm!r}: certificates bound the largest error, 'linf', or the sum of errors, 'l1'")
    most = whole_number("max_nodes", max_nodes, 1)
    with problem_of(
        network, cast(Any, y), "certify", None, False, callback, operator=operator, noise=noise or UnknownNoise(),
        bounds=bounds, fixed=fixed, seed=seed, time_limit=time_limit, scale=scale,
    ) as problem:  # fmt: skip
        problem.bounds.check_finite()
        of_result = result.problem.observed if isinstance(result, Inversion) else problem.observed
        if len(of_result) == problem.size and (of_result != problem.observed).any():
            raise InputError("operator= is not that of the result: with y by part, pass it by part again")
        refuse_unknown_level(problem.noise, "certify")
        certifiable(problem.network, problem.operator)
        if problem.noise.likelihood is not None or problem.operator.unweighted is not problem.operator:
            raise InputError(
                f"noise={problem.stated.noise}: certificates are of errors of one size; state 'uniform:A' with the "
                "largest of them, or none, and hide entries that say nothing by a mask, or leave them out of y and of "
                "the rows of operator="
            )
        problem.equilibrated()  # refuses data and noise that overflow beside the generator
        norm = norm or ("l1" if problem.noise.norm == "l1" else "linf")
        codes = _codes(problem, result, norm)
        found = Certificates(_one(problem, i, codes[i], norm, box, most) for i in range(problem.size))
    return found[0] if problem.single else found


def _codes(problem: Problem, result: Inversion | npt.ArrayLike | None, norm: str) -> Array:
    """Find the codes to begin with, (B, k); where there is none, take zeros or the middle of the bounds."""
    shape = (problem.size, problem.network.latent_dim)
    if result is None:
        given = problem.y.reshape(problem.size, *problem.operator.shape)
        reporting = problem.control.part(lambda progress: progress).callback
        result = invert(
            problem.network, given, operator=problem.operator, noise=problem.noise, norm=norm, seed=problem.seed,
            callback=reporting, scale="none", bounds=problem.bounds.ends,
        )  # fmt: skip
    z = result.z if isinstance(result, Inversion) else result
    codes = np.atleast_2d(problem.network.flat_codes(z, "result"))
    if len(codes) != problem.size:
        pick = ": of a batch's result the code of this observation, result.z[i]" if problem.size == 1 else ""
        raise InputError(
            f"result has {count(len(codes), 'code')}, y {count(problem.size, 'observation')}: pass "
            f"{(problem.size, *problem.network.latent_shape)}{pick}"
        )
    known = np.isfinite(codes).all(axis=1, keepdims=True)
    codes = np.where(known, codes, problem.bounds.quantile(np.full(shape, 0.5)))
    problem.bounds.check(codes, "result")
    return codes


def _one(problem: Problem, index: int, z: Array, norm: str, box: bool, max_nodes: int) -> Certificate:
    """Certify one observation within the limits of the problem."""
    control, visited = problem.control, 0

    def stop(nodes: int) -> bool:
        nonlocal visited
        visited = max(visited, nodes)
        return control.stopped(lambda: Progress("certify", visited, index, problem.size, np.tile(z, (problem.size, 1))))

    end = now() + (0.0 if control.halted else control.time_limit)
    return prove(
        problem.network, problem.operator.take(np.array([index])), problem.y[index], z, norm=norm,
        eps=problem.noise.bound, box=box, limits=Limits(end, max_nodes, stop),
        bounds=None if problem.bounds.none else problem.bounds,
    )  # fmt: skip
