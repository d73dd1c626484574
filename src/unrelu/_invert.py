"""The main function: from observations to codes and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import torch

from unrelu.diagnostics.code_diagnostics import alone_after_breakdown, diagnosed
from unrelu.diagnostics.distinct_optima import distinct_optima
from unrelu.diagnostics.fitted_levels import at_fitted_levels, at_highest_levels
from unrelu.errors import OptionError
from unrelu.layerwise import LayerMethod
from unrelu.layerwise.layer_by_layer import Layerwise
from unrelu.measurements.noise import Noise
from unrelu.measurements.picture_scale import Scaling
from unrelu.methods import Method, Options, make, refuse, registered_name
from unrelu.models.generator import Generator
from unrelu.parameters.code_prior import Normal
from unrelu.problem import Problem, problem_of
from unrelu.result import Inversion, Status
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.run_control import Progress
from unrelu.search.auto import first_starts
from unrelu.thresholds import LOCAL_OPTIMUM

# The methods by which unknown levels of noise are fitted; the largest numbers of searches, and of fits of the levels
# beside each; and the largest relative change of a level that stays.
_LIKELIHOOD = ("auto", "lm")
_SEARCHES, _REFINEMENTS, _STAYS = 3, 20, 1e-3


def invert(
    network: Generator,
    y: npt.ArrayLike,
    method: str | LayerMethod | Method = "auto",
    *,
    operator: Any = None,
    noise: Noise | str | None = None,
    bounds: Any = None,
    fixed: Any = None,
    norm: str | None = None,
    prior: float | Normal = 0.0,
    z0: npt.ArrayLike | Mapping[Any, float] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    time_limit: float | None = None,
    callback: Callable[[Progress], Any] | None = None,
    progress: bool | str = False,
    scale: str | tuple[float, float] | Scaling | None = None,
    **options: Unpack[Options],
) -> Inversion:
    r"""Find latent codes z with A G(z) close to y = A G(z*) + e.

    Args:
        network: G, from :func:`unrelu.load`, :func:`unrelu.from_torch` or :func:`unrelu.from_arrays`.
        y: one observation or a batch (B, ...), in the network's output shape (or flat, (n,)), or in the shape of what
            ``operator`` measures. An array of the output's own shape is one observation, even if that shape is (1, n).
            If the output has named parts, y, noise and operator may be dictionaries by part
            (:mod:`unrelu.measurements.named_parts`).
        method: a name of the registry ("auto", "exact", "linf", "l1", "relaxed", "least_squares", "lm",
            "gradient_descent", "adam") with its options as keywords; an object of :mod:`unrelu.methods` with its
            options, such as ``LevenbergMarquardt(start="linf")``; or your own callable,
            ``method(problem) -> Inversion``.
        operator: A. None means that the whole output is observed. A 0/1 mask of the output's shape, or one for each
            observation, hides entries; y keeps that shape, and entries under a 0 are ignored. For y of shape (m,) or
            (B, m): a matrix (m, n) on the flattened output (dense or SciPy sparse), a SciPy or PyLops
            ``LinearOperator``, a pair of functions (x -> A x, r -> A^T r) on flat vectors, or a deepinv
            ``LinearPhysics``. An array that may be masks or a matrix is an error: pass :class:`unrelu.Mask` or
            :class:`unrelu.Matrix` of it. For a nonlinear measurement, a differentiable function of PyTorch or a module,
            which maps each output of (B, \*output_shape) independently to (B, \*m).
        noise: the model of e, in units of y after ``scale``: None (unknown), "uniform:A" (:math:`|e_j| \le A`),
            "gaussian:S" (standard deviation S), "outliers:P" (a fraction P of arbitrary errors), "rounding:A" (errors
            of at most A, fitted by least squares), and for counts "poisson" or "negative-binomial:R"; or an object:
            :class:`unrelu.Uniform` or :class:`unrelu.Gaussian` of a number, an array or a covariance,
            :class:`unrelu.Outliers`, :class:`unrelu.Poisson`, :class:`unrelu.NegativeBinomial`. An unknown level,
            ``unrelu.Gaussian(S, extra=(0, 1))``, is fitted together with the code, by "auto" and "lm" (:attr:`levels
            <unrelu.Inversion.levels>`). A success with stated noise is a p-value of at least 0.01. Without, it is an
            exact fit, or a confidence of at least 0.99 for a code that explains y better than chance would. Integers of
            8 or 16 bits with ``scale`` tell their noise: they are rounded, and cut off at the ends of the scale.
        bounds: (lower, upper), numbers or arrays of a code's shape, or ``scipy.optimize.Bounds``; infinite for no
            bound. Codes stay within them, and random starts are uniform between two finite bounds. ``active_bounds``
            says which bounds a code is at. Where coordinates have names, also a dictionary ``{"h": (0.5, 0.9)}``;
            nuisance parameters (:func:`unrelu.extend`) are then in their own units, and keep their priors. None takes
            the generator's :attr:`~unrelu.Generator.domain`, if it has one, and (-inf, inf) takes none.
        fixed: coordinates that are held at a value, by name or by their place in the flattened code:
            ``{"h": 0.67, 3: 0.0}``. Equal bounds mean the same. The other coordinates are searched; ``rank`` and the
            degrees of freedom are theirs. With a prior, ``fun`` includes that of the fixed ones.
        norm: the norm of ``fun``, by which "auto" compares codes: "l2" (:math:`|r|_2^2`), "l1" (:math:`|r|_1`), "linf"
            (:math:`|r|_\infty`) or "huber:D" (squares up to D, linear beyond), r = y - A G(z). By default, "auto" uses
            the norm of the noise (linf for uniform, l1 for outliers, l2 otherwise), and all other methods report what
            they minimise. The Huber loss (:mod:`~unrelu.measurements.objectives`) is for methods by gradients; "huber"
            has D = 1.345 standard deviations of the stated noise. Residuals are whitened if the noise is an array or
            has a covariance. Noise with a deviance, such as counts, has no other norm.
        prior: weight of :math:`|z|_2^2` in the l2 objective, for methods that minimise l2 from a start. Or
            :class:`unrelu.Normal`, the distribution of codes, which asks for the most probable code under the stated
            noise: the objective is :math:`|r|_2^2 + S^2 |(z - mean) / std|_2^2` for Gaussian noise S. The weight is 1
            in place of S^2 where the objective is chi-square (sizes differ, or errors are correlated) or the deviance.
            Random starts are then drawn from this distribution, where there are no bounds.
        z0: codes to start from, ``latent_shape`` or ``(B, *latent_shape)`` (or flat), for methods that take a start;
            one code also as a dictionary with every name.
        seed: the same call with the same seed on the same machine gives the same bits. Random starts are drawn for the
            whole batch, so an observation alone may have other starts than within a batch.
        device: where to compute, e.g. "cuda"; None is where the network is. Results are NumPy arrays. Bits differ from
            those of the CPU, and on a GPU they may differ between calls.
        time_limit: seconds for the whole batch. The clock stands still while kernels are compiled, once for each
            installation. Observations not finished by then have their best code so far, and the status TIME_LIMIT, or
            NOISE_LEVEL if stated noise explains that code. If there is none, it is the code that a search would start
            from, which may take some time of its own.
        callback: called with a :class:`~unrelu.Progress`; the run stops when it returns True.
        progress: whether to draw a bar on standard error if that is a terminal or a notebook; "always" draws it
            anywhere. It does not change results.
        scale: "LOW,HIGH" or (low, high) first maps the range of y (0..255 for bytes, 0..1 for floats) to this one;
            residuals and ``noise`` are then in these units. "none" states that y is right as it is. With None, too, y
            is left as it is, but observations that are clearly on another scale of pictures than the generator, such as
            0..255 instead of [0, 1], are an error (:mod:`~unrelu.measurements.picture_scale`).
        **options: options of the method; an unknown one is an error. "auto" takes ``rounds`` (the most rounds of
            restarts; more raise the confidence), ``restarts`` (at least so many), ``learn`` (False: the confidence is
            not learned on this generator), ``confidence`` (the search ends at it, .99), ``pool``, ``radius``,
            ``max_iterations`` and ``max_programs``, see :class:`unrelu.methods.Search`.

    Returns:
        An :class:`~unrelu.result.Inversion`, shaped like y: scalars for one observation, arrays (B,) for a batch. Its
        verdict has three parts: whether the code explains y (``p_value``, ``status``), whether another code could fit
        better (``confidence``), and whether another code nearby fits as well (``identifiable``, ``freedom``).

        For "auto" without stated noise, the verdict depends on the batch: the noise level is estimated from 20 or more
        observations. Those with a residual far above it are searched again, and are a MISFIT if that does not help.
        ``pool=False`` judges each observation alone.

        If the arithmetic breaks down for an observation (the LP solver fails, a matrix cannot be factored, or numbers
        overflow), its code is NaN, its status is ERROR, and its message is the reason.

    Raises:
        InputError: y, operator, z0, bounds, fixed, noise, norm, prior or scale cannot be used, or y is on another scale
            than the generator.
        OptionError: a method or option is unknown, or has the wrong type; or a device is not available.
        UnsupportedModelError: the method cannot invert this network, or not under this operator.
        HostError: this process was forked from one that has used the GPU, and PyTorch cannot go on there; or the memory
            of the device is full.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])  # G(z) = relu((2 z, -z, z))
    >>> r = unrelu.invert(net, [1.0, 0.0, 0.5])
    >>> r.z, r.status.name, r.message
    (array([0.5]), 'EXACT_FIT', 'fits the observation exactly, to numerical precision')
    """
    run, name = make(method, options), registered_name(method)
    with problem_of(
        network, y, name or "inversion", device, progress, callback, operator=operator, noise=noise, bounds=bounds,
        fixed=fixed, norm=norm, prior=prior, z0=z0, seed=seed, time_limit=time_limit, scale=scale,
    ) as problem:  # fmt: skip
        return inverted(problem, run, name, norm, options)


def inverted(
    problem: Problem, run: Method, name: str | None, norm: str | None, options: Mapping[str, Any]
) -> Inversion:
    """Run a method on a problem as users state it, with arguments of :func:`invert`, and judge its codes.

    ``name`` is that of the registry; None for a callable of the user's.
    """
    if problem.noise.level_unknown:
        return _at_fitted_levels(problem, run, name, norm, options)
    ready = replace(problem.equilibrated(), single=False)
    refuse(run, ready)
    result = _solved(run, ready, name)
    own: Any = run.layer_method if isinstance(run, Layerwise) else run
    if is_dataclass(own):  # its options, defaults included
        options = {field.name: getattr(own, field.name) for field in fields(own) if field.init} | dict(options)
    judged = result.batch.in_units_of(problem, None if problem.stated_loss else norm)
    return Inversion(judged, dict(options), distinct_optima)


def _at_fitted_levels(
    problem: Problem, run: Method, name: str | None, norm: str | None, options: Mapping[str, Any]
) -> Inversion:
    """Fit the unknown level of the noise together with the codes, by maximum likelihood.

    A search at the highest levels finds codes to begin with. The levels and the nearest optimum are then refined in
    turn, and a search at the fitted levels follows. If it finds a better optimum, the levels are fitted again.

    Raises:
        OptionError: the method does not minimise the likelihood.
    """
    if name not in _LIKELIHOOD:
        raise OptionError(
            f"method={name!r} with noise={problem.noise}: an unknown level is fitted by {' and '.join(_LIKELIHOOD)}"
        )
    first: Method = make("auto", {"learn": False}) if name == "auto" else run
    found = inverted(problem.with_noise(at_highest_levels(problem)), first, name, None, {})
    for _ in range(_SEARCHES):
        nearest = _with_refined_levels(problem, found.batch.z)
        known = replace(problem, z0=nearest.problem.z0).with_noise(nearest.problem.stated.noise)
        found = inverted(known, run, name, norm, options)
        better = known.objective(found.batch.z) < (1 - LOCAL_OPTIMUM) * known.objective(nearest.batch.z)
        if not better.any():
            break
    return found


def _with_refined_levels(problem: Problem, z: Array) -> Inversion:
    """Fit the levels at codes z, (B, k), and descend at these levels, in turn until the levels stay."""
    levels = np.full((problem.size, 1), np.inf)
    for _ in range(_REFINEMENTS):
        noise = at_fitted_levels(problem, z)
        start = np.where(np.isfinite(z), z, problem.start())
        found = inverted(replace(problem, z0=start).with_noise(noise), make("lm", {}), "lm", None, {})
        z = found.batch.z
        if (np.abs(noise.values - levels) <= _STAYS * noise.values).all():
            break
        levels = noise.values
    return found


def _solved(run: Method, problem: Problem, name: str | None) -> Inversion:
    """Run the method and diagnose its result; a breakdown of a registered method is of its observations only."""

    def work(rows: Index) -> Inversion:
        part = problem if len(rows) == problem.size else problem.part(rows)
        result = run(part)
        if not isinstance(result, Inversion) or result.problem is not part:
            what = "the result of another problem" if isinstance(result, Inversion) else f"a {type(result).__name__}"
            raise OptionError(f"the method returned {what}; end it with Inversion.of(problem, z, ...)")
        if name is not None:
            result = _with_starts(result)
        return diagnosed(result)

    return work(np.arange(problem.size)) if name is None else alone_after_breakdown(work, problem, name)


def _with_starts(result: Inversion) -> Inversion:
    """The result, in which observations that the time limit left without a code have the first start of a search."""
    problem, old = result.problem, result.batch
    left = np.flatnonzero((old.status == Status.TIME_LIMIT) & np.isnan(old.z).any(axis=1))
    if not len(left):
        return result
    z = old.z.copy()
    z[left] = first_starts(problem.part(left))
    judged = Inversion.of(
        problem, z, method=old.method, status=old.ended, nit=old.nit, norm=old.norm, seconds=old.seconds,
        confidence=old.confidence, pool=old.pool,
    )  # fmt: skip
    return Inversion(replace(judged.batch, restarts=old.restarts))
