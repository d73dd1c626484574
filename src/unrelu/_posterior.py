"""Posterior draws of codes: what else the observation could be."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from unrelu._invert import inverted
from unrelu.diagnostics.code_diagnostics import BREAKDOWNS, diagnosed
from unrelu.diagnostics.fitted_levels import at_fitted_levels
from unrelu.errors import InputError, OptionError
from unrelu.measurements.named_parts import joined
from unrelu.measurements.noise import Noise, parse_noise
from unrelu.measurements.picture_scale import Scaling
from unrelu.measurements.unknown_level import FittedGaussian
from unrelu.methods import make
from unrelu.models.generator import Generator, as_generator
from unrelu.parameters.code_prior import Normal
from unrelu.problem import Problem, problem_of
from unrelu.result import Inversion, Status
from unrelu.runtime.argument_checks import known_arguments, whole_number
from unrelu.runtime.array_types import Array
from unrelu.runtime.interrupts import stoppable
from unrelu.runtime.run_control import Progress, now
from unrelu.runtime.streams import stream
from unrelu.runtime.words import shown
from unrelu.sampling.draws import Posterior
from unrelu.sampling.prior_transform import PriorTransform
from unrelu.sampling.sampled_chains import SampledChains
from unrelu.sampling.sampler import sample
from unrelu.sampling.unknown_levels import key_of, with_marginal_likelihood


@known_arguments
def posterior(
    network: Generator,
    y: npt.ArrayLike,
    *,
    noise: Noise | str | None = None,
    operator: Any = None,
    bounds: Any = None,
    fixed: Any = None,
    prior: Normal | None = None,
    draws: int = 1000,
    chains: int = 8,
    seed: int = 0,
    device: torch.device | str | None = None,
    time_limit: float | None = None,
    callback: Callable[[Progress], Any] | None = None,
    progress: bool | str = False,
    scale: str | tuple[float, float] | Scaling | None = None,
) -> Posterior:
    r"""Draw codes z from their posterior distribution given y = A G(z) + e.

    .. math:: p(z | y) \propto p(y | z) \, p(z), \qquad \log p(y | z) = -\tfrac12 D(y, A \, G(z)) + c

    D is chi-square for Gaussian noise and the deviance for counts. :func:`unrelu.invert` gives one code, and says how
    good it is; the draws say what else the code and the output could be. The chains find several modes, and they say so
    where they have not mixed.

    Args:
        network, y, operator, bounds, fixed, device, progress, scale: as for :func:`unrelu.invert`. Observations of a
            batch are sampled one after another, and draws stay within the bounds.
        noise: the model of e: "gaussian:S", "poisson" or "negative-binomial:R"; or :class:`unrelu.Gaussian` of a
            number, an array or a covariance, or with an unknown level (:attr:`levels <unrelu.Posterior.levels>`), or
            your own :class:`~unrelu.measurements.noise.Likelihood`. It must be stated.
        prior: the distribution of codes, :class:`unrelu.Normal`; truncated where there are bounds. By default, codes
            are uniform between two finite bounds, and N(0, 1) otherwise.
        draws: the number of draws of each chain. Where 400 draws or more of all chains have not mixed, they are
            discarded, and new ones are made with 2, 4 and at last 8 transitions of the sampler for each.
        chains: the number of chains, at least 2. The first half begin at optima that the search found, the others where
            descents from draws of the prior end.
        seed: the same call with the same seed on the same machine gives the same draws. Those of an observation do not
            depend on the rest of its batch, up to rounding where observations have masks of their own.
        time_limit: seconds for the whole batch. Each observation has an equal share of what is left. An observation
            that is stopped keeps its draws so far, and one of each chain if it is stopped during the warm-up.
        callback: as for :func:`unrelu.invert`, called between transitions. Ctrl-C stops the run likewise; a second one
            raises KeyboardInterrupt.

    Returns:
        A :class:`~unrelu.sampling.draws.Posterior`. Its status is MIXED if the chains agree: R-hat is at most 1.01,
        and bulk and tail effective sample sizes are at least 400, for all coordinates and the log-likelihood. At
        most 2% of the posterior may be overlooked: at optima of further descents without draws nearby, or in modes that
        another search would probably miss.

    Raises:
        InputError: no noise is stated, or it has no density.
        OptionError: draws or chains are too few, or no whole numbers.
        UnsupportedModelError: the generator cannot be differentiated.

    All other errors are those of :func:`unrelu.invert`.

    Source: see :mod:`unrelu.sampling.sampler`.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [1.0]]], activation="identity")  # G(z) = (2 z, z)
    >>> p = unrelu.posterior(net, [1.0, 0.5], noise="gaussian:0.5", draws=500)
    >>> p.status.name, p.mean.round(1), p.std.round(1)  # mean 10 / 21, variance 1 / 21
    ('MIXED', array([0.5]), array([0.2]))
    """
    y, noise, operator = joined(as_generator(network).names, y, noise, operator)
    unbounded = network.bounds(bounds, fixed).free.none
    stated = checked(noise, prior, draws, chains)
    with (
        stoppable("posterior: stopping with the draws so far; Ctrl-C again raises KeyboardInterrupt") as interrupted,
        problem_of(
            network, y, "posterior", device, progress, _also_stopped(callback, interrupted.is_set), operator=operator,
            noise=stated, bounds=bounds, fixed=fixed, seed=seed, time_limit=time_limit, scale=scale,
            prior=Normal() if prior is None and unbounded else prior or 0.0,
        ) as problem,
    ):  # fmt: skip
        transform = PriorTransform.of(problem.bounds, problem.normal)
        parts = []
        for i in range(problem.size):
            begin = now()
            part = _sampled(problem, i, transform, draws, chains)
            parts.append(replace(part, seconds=now() - begin))
        judged = zip(parts, _p_values(problem, [part.best for part in parts]).tolist(), strict=True)
        return Posterior(problem, [replace(part, p_value=p) for part, p in judged])


def _also_stopped(callback: Any, interrupted: Callable[[], bool]) -> Any:
    """The callback, which also stops after Ctrl-C; what cannot be called is refused later."""
    if callback is not None and not callable(callback):
        return callback
    return lambda progress: interrupted() or (callback is not None and callback(progress))


def checked(noise: Noise | str | None, prior: object, draws: object, chains: object = 2) -> Noise:
    """The noise, if there is a posterior under it, and all options are allowed."""
    if prior is not None and not isinstance(prior, Normal):
        raise OptionError(
            f"prior={shown(prior)} must be a distribution of codes, unrelu.Normal(mean, std) (--prior MEAN,STD), or "
            "left out"
        )
    whole_number("draws", draws, 4)
    whole_number("chains", chains, 2)
    stated = parse_noise(noise)
    if stated.without_density:
        raise InputError(
            f"noise={stated} {stated.without_density}; how far the truth can be depends on it: state 'gaussian:S', "
            "unrelu.Gaussian(array) with a standard deviation for each entry, or 'poisson' for counts"
        )
    return stated


def _sampled(problem: Problem, i: int, transform: PriorTransform, draws: int, chains: int) -> SampledChains:
    """Sample observation i of a batch; without draws if the time was over, or the arithmetic broke down."""
    control = problem.control
    steps = itertools.count(1)  # of the search and of the chains

    def report(progress: Progress) -> Progress:
        return replace(progress, method="posterior", nit=next(steps), done=i, total=problem.size)

    part = control.part(report)
    part = replace(part, time_limit=part.time_limit / (problem.size - i))
    own = problem.part(np.array([i]), control=part)
    if control.expired() or control.halted:
        ended = Status.STOPPED if control.halted else Status.TIME_LIMIT
        return SampledChains.without_draws(chains, problem.network.latent_dim, ended)
    key, constant = key_of(own), 0.0
    try:
        if own.noise.level_unknown:
            fitted = inverted(own, make("auto", {"learn": False}), "auto", None, {}).batch
            if np.isnan(fitted.z).any():  # the time was over
                return SampledChains.without_draws(chains, problem.network.latent_dim, Status.TIME_LIMIT)
            noise = cast(FittedGaussian, fitted.problem.stated.noise)
            own, constant = with_marginal_likelihood(own, noise, fitted.z)
        found = sample(own, transform, draws, chains, stream("posterior", problem.seed, key))
        return replace(
            found, log_likelihood=found.log_likelihood + constant, log_evidence=found.log_evidence + constant
        )
    except BREAKDOWNS as error:
        if control.raised(error):
            raise
        return SampledChains.without_draws(chains, problem.network.latent_dim, Status.ERROR)


def _p_values(problem: Problem, best: Sequence[Array]) -> Array:
    """The p-values that :func:`unrelu.invert` gives the first of the best codes of each observation, (B,)."""
    z = np.full((problem.size, problem.network.latent_dim), np.nan)
    for i, codes in enumerate(best):
        z[i] = codes[0] if len(codes) else np.nan
    if problem.noise.level_unknown:
        problem = problem.with_noise(at_fitted_levels(problem, z))
    own = problem.equilibrated()
    return np.asarray(diagnosed(Inversion.of(own, own.units.coordinates(z), method="posterior")).batch.p_value)
