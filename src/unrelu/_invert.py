"""The front door: an observation in, a code with its status out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from unrelu.diagnostics.goodness_of_fit import chance, goodness_of_fit
from unrelu.diagnostics.identifiability import jacobians, local_rank
from unrelu.display.progress_bar import reporting
from unrelu.errors import OptionError, SolverError
from unrelu.layerwise import LayerMethod
from unrelu.layerwise.layer_by_layer import Layerwise
from unrelu.measurements.noise import Noise
from unrelu.methods import Method, make, refuse, registered_name
from unrelu.models.generator import Generator
from unrelu.models.network import Network, small
from unrelu.problem import Problem, Progress
from unrelu.result import Inversion
from unrelu.runtime.array_types import Array
from unrelu.runtime.host import computing

# How arithmetic ends that an observation was too much for: an LP solver's and linear algebra's own words, overflow.
_BREAKDOWNS = (SolverError, np.linalg.LinAlgError, torch.linalg.LinAlgError, ArithmeticError)  # type: ignore[attr-defined]


def invert(
    network: Generator,
    y: npt.ArrayLike,
    method: str | LayerMethod | Method = "auto",
    *,
    operator: Any = None,
    noise: Noise | str | None = None,
    bounds: Any = None,
    norm: str | None = None,
    prior: float = 0.0,
    z0: npt.ArrayLike | None = None,
    seed: int = 0,
    time_limit: float | None = None,
    callback: Callable[[Progress], Any] | None = None,
    progress: bool | str = False,
    scale: str | tuple[float, float] | None = None,
    **options: Any,
) -> Inversion:
    r"""Find latent codes z with A G(z) close to y = A G(z*) + e.

    Args:
        network: G, from :func:`unrelu.load`, :func:`unrelu.from_torch` or :func:`unrelu.from_arrays`.
        y: one observation, or a batch (B, ...): of the network's output shape (or flat, (n,)), or of what ``operator``
            gives. An array of the output's own shape is one observation, also where that shape is (1, n).
        method: a name of the registry ("auto", "exact", "linf", "l1", "relaxed", "least_squares", "lm",
            "gradient_descent", "adam", "plugin", "ilo", "projected") with its options as keywords; an object of
            :mod:`unrelu.methods` that has them, such as ``LevenbergMarquardt(start="linf")``; or a callable of your
            own, ``method(problem) -> Inversion``.
        operator: A: None (the whole output is observed); a 0/1 mask of the output's shape, or one for each
            observation, where y keeps that shape and entries under a 0 are ignored; or, with y of shape (m,) or (B, m),
            a matrix (m, n) on the flattened output (dense or SciPy sparse), a SciPy or PyLops ``LinearOperator``, a
            pair of functions (x -> A x, r -> A^T r) on flat vectors, or a deepinv ``LinearPhysics``. An array that may
            be masks or a matrix is an error: pass :class:`unrelu.Mask` or :class:`unrelu.Matrix` of it. For a
            measurement that is not linear, a differentiable function of PyTorch or a module, from outputs
            (B, \*output_shape) to (B, \*m), each row on its own.
        noise: what is known about e, in units of y after ``scale``: None, "uniform:A" (:math:`|e_j| \le A`),
            "gaussian:S" (standard deviation S), "outliers:P" (a share P of arbitrary errors), of counts "poisson" or
            "negative-binomial:R"; or an object, :class:`unrelu.Uniform` or :class:`unrelu.Gaussian` of a number, an
            array or a covariance, :class:`unrelu.Outliers`, :class:`unrelu.Poisson`, :class:`unrelu.NegativeBinomial`.
            It decides what a success is: with it, a p-value of at least 0.01; without, an exact fit or a confidence of
            at least 0.99 of a code that explains y better than chance would.
        bounds: (lower, upper), numbers or arrays of a code's shape, or ``scipy.optimize.Bounds``; infinite where there
            is none. Codes never leave them, and random starts are uniform between two that are finite.
            ``active_bounds`` says which of them a code is at.
        norm: what ``fun`` reports and "auto" compares codes by: "l2" (:math:`|r|_2^2`), "l1" (:math:`|r|_1`) or "linf"
            (:math:`|r|_\infty`), r = y - A G(z), whitened where the noise is an array or has a covariance. By default
            "auto" takes that of the noise (linf for uniform, l1 for outliers, l2 otherwise), the others report what
            they minimise. Noise with a deviance, such as counts, has no other objective.
        prior: weight of :math:`|z|_2^2` in the l2 objective; S^2 for Gaussian noise S makes z the most probable code
            under z ~ N(0, I), and 1 where S is an array, where a covariance is given, and of counts, whose objectives
            are chi-square and deviance. For the methods that minimise l2 from a start.
        z0: codes to start from, (k,) or (B, k), for the methods that start somewhere.
        seed: the same call with the same seed on the same machine gives the same bits. Random starts are drawn for the
            batch as a whole, so an observation alone may get other ones than within a batch.
        time_limit: seconds for the whole batch; observations not reached have NaN codes and the status TIME_LIMIT.
        callback: called with a :class:`~unrelu.problem.Progress`; the run stops when it returns True.
        progress: whether a bar is drawn on standard error, in a terminal or a notebook; "always" also where that is
            neither. It changes no result.
        scale: "LOW,HIGH", or (low, high): map y's own range, 0..255 of bytes and 0..1 of floats, to this one first, or
            "none": y is right as it is; see :class:`~unrelu.measurements.picture_scale.Scaling`. Residuals and
            ``noise`` are then in these units. None leaves y as it is, too, but observations that are clearly on another
            scale of pictures than the generator, such as 0..255 for one of [0, 1], are an error
            (:func:`~unrelu.measurements.picture_scale.check_scale` has the rule).
        **options: options of the method; an unknown one is an error.

    Returns:
        An :class:`~unrelu.result.Inversion`, shaped like y: scalars for one observation, arrays (B,) for a batch. Its
        verdict has three parts: whether the code explains y (``p_value``, ``status``), whether another could fit better
        (``confidence``), and whether another near it fits as well (``identifiable``, ``freedom``).

        For "auto" without stated noise, the verdict depends on the batch: the noise level is estimated from 20
        observations or more. Those whose residual is far above it are searched again, and if it stays so they are
        OUTLIER and no success. ``pool=False`` judges each alone.

    Raises:
        InputError: y, operator, z0, bounds, noise, norm, prior or scale cannot be used, or y is on another scale than
            the generator.
        OptionError: an unknown method or option, or one of the wrong type.
        UnsupportedModelError: the method cannot invert this network, or not under this operator.
        HostError: this process was forked from one that has used the GPU, and PyTorch cannot go on there.

    An observation on which the arithmetic breaks down (an LP solver that refuses its program, a factorisation that does
    not exist, overflow) has NaN for its code, the status ERROR and the reason as its message; the others have theirs.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])  # G(z) = relu((2 z, -z, z))
    >>> r = unrelu.invert(net, [1.0, 0.0, 0.5])
    >>> r.z, r.status.name, r.message
    (array([0.5]), 'EXACT_FIT', 'fits the observation exactly, to numerical precision')
    """
    run = make(method, options)
    name = registered_name(method)
    with reporting(progress, name or "inversion", callback) as reported, computing(one_thread=small(network)):
        problem = Problem.build(
            network, y, operator=operator, noise=noise, bounds=bounds, norm=norm, prior=prior, z0=z0, seed=seed,
            time_limit=time_limit, callback=reported, scale=scale,
        )  # fmt: skip
        ready = problem.equilibrated()
        refuse(run, ready)
        result = _solved(run, ready, norm, name)
        return replace(result.in_units_of(problem), options=_asked(run, options)).shaped()


def _asked(run: Method, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a method, with the defaults of those that were left out; a function has none that are known."""
    own: Any = run.layer_method if isinstance(run, Layerwise) else run
    if not is_dataclass(own):
        return options
    return {field.name: getattr(own, field.name) for field in fields(own) if field.init} | options


def judged_again(result: Inversion) -> Inversion:
    """The verdict on the codes of a batch, computed from the codes and from how the method says that it ended."""
    stated, problem = result.problem, result.problem.equilibrated()
    latent = problem.units.latent
    z = result.z if latent is None else latent.coordinates(result.z)
    again = Inversion.of(
        problem, z, method=result.method, status=result.ended, nit=result.nit, norm=result.norm,
        seconds=result.seconds, confidence=result.confidence, pool=result.pool,
    )  # fmt: skip
    return _diagnosed(again).in_units_of(stated)


def _solved(run: Method, problem: Problem, norm: str | None, name: str | None) -> Inversion:
    """What the method finds, diagnosed; where arithmetic breaks down in it, of each observation alone.

    A method of the caller's own, which has no ``name``, raises what it raises.
    """
    try:
        result = _checked(run(problem), problem)
        return _diagnosed(result if norm is None else result.measured_in(norm))
    except _BREAKDOWNS as error:
        if name is None or problem.control.raised(error):
            raise
        if problem.size == 1:
            return Inversion.failed(problem, name, str(error))
    parts = []
    for i in range(problem.size):
        start = None if problem.z0 is None else problem.z0[[i]]
        parts.append(_solved(run, problem.part(np.array([i]), z0=start), norm, name))
    return Inversion.joined(parts, problem)


def _checked(result: object, problem: Problem) -> Inversion:
    """What a method returned, if it is the result of this problem."""
    if not isinstance(result, Inversion):
        raise OptionError(f"the method returned a {type(result).__name__}; end it with Inversion.of(problem, z, ...)")
    if result.problem is not problem or np.ndim(result.z) != 2:
        raise OptionError(
            "the method returned the result of another problem; end it with Inversion.of(problem, z, ...)"
        )
    return result


def _diagnosed(result: Inversion) -> Inversion:
    """Say of each code whether others near it have the same output, of each exact fit how free it is, and judge it."""
    problem = result.problem
    k = problem.network.latent_dim
    residual = problem.residual_of(result.reconstruction)
    fits = np.isfinite(result.z).all(axis=1) & problem.is_exact(residual)
    rank, free, sigma = local_rank(problem.network, result.z, problem.operator, problem.bounds)
    identifiable = free == 0
    # Where the rank is below k, only kinks make a code unique, and sigma_min is 0.
    doubtful = np.flatnonzero(fits & identifiable & (rank == k))
    identifiable[doubtful] = _determined(result, sigma, doubtful)
    used, shape = goodness_of_fit(problem, result.z, residual, rank)
    by_chance = None
    if not problem.noise.stated:
        by_chance = chance(residual, problem.y, problem.operator.seen(problem.size), used)
    free = np.where(fits, free, -1)
    return result.with_diagnostics(rank, free, identifiable, used, shape, by_chance, lambda: _directions(result))


def _directions(result: Inversion) -> Iterator[tuple[npt.NDArray[np.intp], Array]]:
    """The Jacobians of A G at the codes, (b, k, m), of some after another; 0 along coordinates at a bound."""
    problem = result.problem
    free = problem.bounds.active(result.z) == 0
    for rows, tangents in jacobians(problem.network, result.z, problem.operator):
        yield rows, tangents.numpy() * free[rows, :, None]


def _determined(result: Inversion, sigma: Array, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    r"""Whether exact fits determine their codes: |r|_2 / sigma_min is a small fraction of max(|z|_2, 1).

    If y is exact, that is the most that z can be off. Singular values of 1e-10 of the largest still count for the rank,
    but a residual that counts as an exact fit, up to 1e-8 max|y|, can hide any motion along a direction in which A G
    changes so little. What was reached decides, not what is allowed: fits polished to rounding determine codes down to
    sigma_min = 1e-9 sigma_max, while a search that stopped at 1e-10 of the data may have missed a part of the code.
    Asked for is 100 times the tolerance of an exact fit: 1e-6 in double precision, 1e-3 in single.

    A residual below the rounding errors of y and of A G(z), which may be none at all, determines no more than they do.
    """
    if not len(rows):
        return np.ones(0, dtype=bool)
    problem = result.problem
    x = result.reconstruction.reshape(problem.size, -1)[rows]
    residual = np.linalg.norm(problem.y[rows] - problem.operator.take(rows).values(x), axis=1)
    residual = np.maximum(residual, _rounding(problem, result.z[rows], x, rows))
    length = np.maximum(np.linalg.norm(result.z[rows], axis=1), 1.0)
    return np.asarray(residual <= 100 * problem.tolerance[rows] * length * sigma[rows])


def _rounding(problem: Problem, z: Array, x: Array, rows: npt.NDArray[np.intp]) -> Array:
    """About the rounding errors of y and of A G(z) at codes (b, k) with outputs x (b, n), as their norms, (b,).

    Those of G, which can be much larger than y's where terms cancel, are what the other precision changes, in the
    proportion of the precisions. Without layers nothing is known of them.
    """
    network, double = problem.network, float(np.finfo(np.float64).eps)
    of_data = double * np.linalg.norm(problem.y[rows], axis=1)
    if not isinstance(network, Network):
        return np.asarray(of_data)
    single = network.dtype == torch.float32
    ratio = 1.0 if single else double / torch.finfo(torch.float32).eps
    again = network.to(torch.float64 if single else torch.float32, "cpu")(z).reshape(len(z), -1)
    of_outputs = np.linalg.norm(problem.operator.take(rows).values(again - x), axis=1)
    return np.asarray(np.maximum(of_data, np.where(np.isfinite(of_outputs), ratio * of_outputs, np.inf)))
