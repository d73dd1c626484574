"""Posteriors in words: first whether the chains have mixed, then what their draws say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from unrelu.display.text_tables import WORST, Printed, printed_batch
from unrelu.measurements.unknown_level import FittedLevel
from unrelu.parameters.code_prior import Normal
from unrelu.parameters.names import Names
from unrelu.problem import Problem
from unrelu.result import Status
from unrelu.result.status import meaning_of_posterior
from unrelu.result.verdict_text import array_text, level_text
from unrelu.runtime.array_types import Array
from unrelu.runtime.words import count, duration, listed, number, p_value_text, rounded, share
from unrelu.sampling.convergence import DRAWS, ESS, RHAT
from unrelu.sampling.sampled_chains import OVERLOOKED, SampledChains, covariance_of, mean_of
from unrelu.thresholds import SIGNIFICANCE

# The largest number of modes whose weights are printed, and of coordinates whose normal priors are printed.
_MODES, _PRIORS = 5, 10
_MEANINGS = {status.name: meaning_of_posterior(status) for status in Status}


def message_of(chains: SampledChains, network: Names) -> str:
    """Explain the status, with the numbers behind it and what to do; ``network`` names the coordinates of G's codes."""
    text, draws = meaning_of_posterior(chains.status), chains.z.shape[1]
    if chains.status is Status.ERROR and draws < DRAWS:
        return text
    if draws < DRAWS:
        return f"{text} ({count(draws, 'draw')} of each chain, too few to compare them)"
    (rhat, at), (ess, ess_at), (tail, tail_at) = (chains.worst(name) for name in ("rhat", "ess", "tail_ess"))
    if chains.status is Status.MIXED:
        sizes = f"at least {_size(ess)} effective draws and {_size(tail)} in the tails"
        return f"{text} (R-hat at most {_rhat(rhat)}, {sizes})"

    def name_of(place: int) -> str:
        return "the log-likelihood" if place >= chains.z.shape[2] else network.name_of(place)

    why = [] if rhat <= RHAT else [f"R-hat is {_rhat(rhat)} at {name_of(at)}"]
    if not math.isnan(rhat) and why:
        why[0] += f", above {RHAT}"
    why += [f"{_size(ess)} effective draws at {name_of(ess_at)}, fewer than {ESS}"] if ess < ESS else []
    why += [f"{_size(tail)} in the tails at {name_of(tail_at)}, fewer than {ESS}"] if tail < ESS else []
    if chains.overlooked > OVERLOOKED:
        why.append(
            f"about {chains.overlooked:.0%} of the posterior lies in modes without draws, or in modes that so few "
            "descents reached that another search would miss them"
        )
    elif chains.agree:
        why.append("the chains agree, and there was no time to look for optima that they have overlooked")
    advice = ""
    if chains.status is Status.NOT_MIXED and not chains.agree and rhat <= RHAT and min(ess, tail) > 0:
        enough = math.ceil(1.2 * draws * ESS / min(ess, tail))
        advice = f"; the chains agree, and draws={number(enough)} may be enough"
    return f"{text} ({'; '.join(why)}){advice}"


def _rhat(value: float) -> str:
    """Format R-hat with three decimals, with more if three would round a value above the limit down to it."""
    if not math.isfinite(value):
        return "infinite" if value > 0 else "unknown"
    text = f"{value:.3f}"
    return text if (float(text) <= RHAT) == (value <= RHAT) else f"{value:.6f}"


def _size(value: float) -> str:
    """Format a sample size as a whole number, rounded down."""
    return f"{math.floor(value):,}" if math.isfinite(value) else number(None)


def sizes_of(chains: Sequence[SampledChains]) -> str:
    """Format the number of chains and the number of draws in each."""
    most = np.max([one.z.shape[:2] for one in chains] or [(0, 0)], axis=0).tolist()
    return f"{count(most[0], 'chain')} of {count(most[1], 'draw')}"


# --- one observation --------------------------------------------------------------------------------------------------


def printed_observation(problem: Problem, chains: Sequence[SampledChains], levels: Mapping[str, Array]) -> Printed:
    """Format the posterior of one observation; ``levels`` are draws of unknown levels of the noise, by name."""
    (one,), network = chains, problem.names
    misfit, mixed = one.p_value < SIGNIFICANCE, one.status is Status.MIXED
    verdict = "MISFIT, no code that was found explains y; the chains have " if misfit else ""
    verdict += "mixed" if mixed else "not mixed, do not rely on these numbers"
    reason = ": the noise is larger than stated, or y is out of the generator's range" if misfit else ""
    entries = [(one.status.name, message_of(one, network))]
    entries.insert(not misfit, ("best code", f"{p_value_text(one.p_value)}{reason}" if one.p_value >= 0 else ""))
    if one.mode.size:
        draws = network.parameters_of(one.flat)
        mean = mean_of(draws)
        deviation = np.where(problem.bounds.fixed, 0.0, np.sqrt(np.diag(covariance_of(draws))))
        names = network.coordinate_names or ("",) * network.latent_dim
        known = [level_text(name, FittedLevel(each.mean(), each.std())) for name, each in levels.items()]
        texts = [(rounded(m, d), rounded(d, d)) for m, d in zip(mean.tolist(), deviation.tolist(), strict=True)]
        each = [(name, *text, held) for name, text, held in zip(names, texts, problem.bounds.fixed, strict=True)]
        means, deviations = np.array([(m, d) for name, m, d, _ in each if not name], dtype=object).reshape(-1, 2).T
        entries += [
            ("parameters", listed([f"{name} = {m} ± {d}" for name, m, d, held in each if name and not held])),
            ("fixed", listed([f"{name} = {m}" for name, m, _, held in each if name and held])),
            ("mean", array_text(means)),
            ("deviation", array_text(deviations)),
            ("noise level", listed(known)),
            ("modes", _modes(one)),
        ]
    evidence, error, accepted = one.log_evidence, one.log_evidence_error, one.acceptance
    about = f" ± {error:.2g}" if math.isfinite(error) else ""
    entries += [
        ("evidence", f"log p(y) = {evidence:.6g}{about}, up to a constant of y" if math.isfinite(evidence) else ""),
        ("prior", _prior(problem)),
        ("effort", (f"{share(accepted)} accepted, " if math.isfinite(accepted) else "") + duration(one.seconds)),
    ]
    return Printed(f"Posterior of one observation, {sizes_of(chains)}: {verdict}", entries)


def _prior(problem: Problem) -> str:
    """Describe the prior of codes and nuisance parameters, as :func:`unrelu.posterior` defines it."""
    bounds, normal, names = problem.bounds, problem.normal or Normal(), problem.names
    mean, std = (np.broadcast_to(each, names.latent_dim) for each in (normal.mean, normal.std))
    nuisance = names.nuisance & (mean == 0) & (std == 1) & ~bounds.fixed
    rest = ~(nuisance | bounds.fixed)
    stated = [names.prior_of(j, bounds.lower[j], bounds.upper[j]) for j in np.flatnonzero(nuisance).tolist()]
    boxed, proper, limited = bounds.boxed[rest], np.isfinite(std), np.isfinite([bounds.lower, bounds.upper])[:, rest]
    if not rest.any():
        return listed(stated, _PRIORS)
    if problem.normal is None and boxed.any():
        others = "uniform within the bounds"
        if not boxed.all():
            others = "uniform between two bounds, N(0, 1) for coordinates without"
    elif proper[rest].all():
        others = f"{normal.subset(rest)}{' within the bounds' if limited.any() else ''}"
    else:
        own = np.flatnonzero(rest & proper).tolist()
        stated = [f"{names.name_of(j)} N({mean[j]:g}, {std[j]:g}^2)" for j in own] + stated
        others = "uniform, all within their bounds"
    return f"{listed(stated, _PRIORS)}, the others {others}" if stated else others


def _modes(chains: SampledChains) -> str:
    """Format the weights of the modes with draws, and the number of modes without."""
    modes, empty = chains.modes, len(chains.best) - len(chains.modes)
    without = f"; {empty} further {'optimum' if empty == 1 else 'optima'} without draws" if empty else ""
    if len(modes) == 1:
        return f"1{without}"
    weights = [f"{share(mode.weight)} ± {share(mode.weight_error)}" for mode in modes]
    return f"{len(modes)}, of weight {listed(weights, _MODES)}{without}"


# --- a batch ----------------------------------------------------------------------------------------------------------


def printed_posteriors(problem: Problem, chains: Sequence[SampledChains]) -> Printed:
    """Format the posteriors of a batch."""
    size, statuses = len(chains), [one.status.name for one in chains]
    if not size:
        return Printed("Posterior of no observation")
    mixed, misfits = statuses.count(Status.MIXED.name), sum(one.p_value < SIGNIFICANCE for one in chains)
    misfit = f"{count(misfits, 'misfit')}, which no code that was found explains; " if misfits else ""
    rhats, rows = np.array([one.worst("rhat")[0] for one in chains]), []
    for i in np.argsort(-np.nan_to_num(rhats, nan=np.inf, posinf=np.inf), kind="stable")[:WORST].tolist():
        sizes = [_size(chains[i].worst(name)[0]) for name in ("ess", "tail_ess")]
        rhat = _rhat(rhats[i]) if math.isfinite(rhats[i]) else number(None)
        rows.append([str(i), statuses[i], rhat, *sizes, count(len(chains[i].modes))])
    seconds = sum(one.seconds for one in chains)
    return printed_batch(
        f"Posteriors of {count(size, 'observation')}, {sizes_of(chains)}: {misfit}{mixed} mixed "
        f"({share(mixed, size)})",
        statuses, _MEANINGS, ["index", "status", "R-hat", "effective", "in tails", "modes"], rows,
        f"time {duration(seconds)}, {duration(seconds / size)} each",
    )  # fmt: skip
