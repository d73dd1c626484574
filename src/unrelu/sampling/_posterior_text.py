"""Posteriors in words: first whether the chains have mixed, then what their draws say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from unrelu.display.text_tables import WORST, Printed, printed_batch
from unrelu.models.code_prior import Normal
from unrelu.models.names import Names
from unrelu.problem import Problem
from unrelu.result import Status
from unrelu.result.status import meaning_of_posterior
from unrelu.runtime.array_types import Array
from unrelu.runtime.words import count, duration, listed, number, probability, share
from unrelu.sampling.convergence import DRAWS, ESS, RHAT
from unrelu.sampling.sampled_chains import OVERLOOKED, Mixing, Mode, SampledChains, covariance_of, mean_of
from unrelu.thresholds import SIGNIFICANCE

# The most modes whose weights, and coordinates whose normal priors are printed.
_MODES, _PRIORS = 5, 10
_MEANINGS = {status.name: meaning_of_posterior(status) for status in Status}


def message_of(mixing: Mixing, network: Names) -> str:
    """The meaning of a status, with the numbers that decided it, and what to do; coordinates are those of G's codes."""
    status = mixing.status
    text = meaning_of_posterior(status)
    if mixing.draws < DRAWS:
        few = f"{text} ({count(mixing.draws, 'draw')} of each chain, too few to compare them)"
        return text if status is Status.ERROR else few
    if status is Status.MIXED:
        return (
            f"{text} (R-hat at most {_rhat(mixing.worst('rhat')[0])}, at least {_size(mixing.worst('ess')[0])} "
            f"effective draws and {_size(mixing.worst('tail_ess')[0])} in the tails)"
        )
    return f"{text} ({'; '.join(_failures(mixing, network))}){_advice(mixing)}"


def _failures(mixing: Mixing, network: Names) -> list[str]:
    """The statistics beyond their limits."""

    def name_of(place: int) -> str:
        return "the log-likelihood" if place >= mixing.k else network.name_of(place)

    rhat, place = mixing.worst("rhat")
    above = "" if math.isnan(rhat) else f", above {RHAT}"
    found = [] if rhat <= RHAT else [f"R-hat is {_rhat(rhat)} at {name_of(place)}{above}"]
    for name, what in (("ess", "effective draws"), ("tail_ess", "in the tails")):
        size, place = mixing.worst(name)
        if size < ESS:
            found.append(f"{_size(size)} {what} at {name_of(place)}, fewer than {ESS}")
    if mixing.overlooked > OVERLOOKED:
        found.append(
            f"further descents found optima with about {mixing.overlooked:.0%} of the posterior, and no draw near"
        )
    elif mixing.agree:
        found.append("the chains agree, and there was no time to look for optima that they have overlooked")
    return found


def _advice(mixing: Mixing) -> str:
    """How many draws would be enough, if the chains agree and only their number is too small."""
    least = min(mixing.worst("ess")[0], mixing.worst("tail_ess")[0])
    if mixing.status is not Status.NOT_MIXED or mixing.agree or not mixing.worst("rhat")[0] <= RHAT or not least > 0:
        return ""
    return f"; the chains agree, and draws={number(math.ceil(1.2 * mixing.draws * ESS / least))} may be enough"


def _rhat(value: float) -> str:
    """R-hat with three decimals; a value above the limit is not rounded to it."""
    if not math.isfinite(value):
        return "infinite" if value > 0 else "unknown"
    text = f"{value:.3f}"
    return text if (float(text) <= RHAT) == (value <= RHAT) else f"{value:.6f}"


def _size(value: float) -> str:
    """A sample size as a whole number, rounded down."""
    return f"{math.floor(value):,}"


def sizes_of(chains: SampledChains) -> str:
    """The numbers of chains and of their draws."""
    return f"{count(chains.z.shape[1], 'chain')} of {count(int(chains.lengths.max(initial=0)), 'draw')}"


# --- one observation --------------------------------------------------------------------------------------------------


def printed_observation(chains: SampledChains) -> Printed:
    """The posterior of one observation."""
    network, mixing, p = chains.problem.names, chains.mixing(0), chains.p_value[0]
    misfit, name = p < SIGNIFICANCE, mixing.status.name
    verdict = "MISFIT, no code that was found explains y; the chains have " if misfit else ""
    verdict += "mixed" if mixing.status is Status.MIXED else "not mixed, do not rely on these numbers"
    reason = ": the noise is larger than stated, or y is out of the generator's range" if misfit else ""
    entries = [(name, message_of(mixing, network))]
    entries.insert(not misfit, ("best code", f"p = {probability(p)}{reason}" if math.isfinite(p) else ""))
    if mixing.draws:
        draws = network.parameters_of(chains.flat(0))
        mean, deviation = mean_of(draws), np.sqrt(np.diag(covariance_of(draws)))
        names = network.coordinate_names or ("",) * network.latent_dim
        unnamed = np.array([not name for name in names])
        named = [f"{n} = {m:.5g} ± {d:.2g}" for n, m, d in zip(names, mean, deviation, strict=True) if n]
        entries += [
            ("parameters", listed(named)),
            ("mean", _vector(mean[unnamed])),
            ("deviation", _vector(deviation[unnamed])),
            ("modes", _modes(chains.modes(0), len(chains.best[0]))),
            ("chains", _starts(mixing, int(chains.from_prior.sum()), len(chains.from_prior))),
        ]
    evidence, error, accepted = (x[0] for x in (chains.log_evidence, chains.log_evidence_error, chains.acceptance))
    about = f" ± {error:.2g}" if math.isfinite(error) else ""
    entries += [
        ("evidence", f"log p(y) = {evidence:.6g}{about}, up to a constant of y" if math.isfinite(evidence) else ""),
        ("prior", _prior(chains.problem)),
        ("effort", (f"{share(accepted)} accepted, " if math.isfinite(accepted) else "") + duration(chains.seconds[0])),
    ]
    return Printed(f"Posterior of one observation, {sizes_of(chains)}: {verdict}", entries)


def _prior(problem: Problem) -> str:
    """The distribution of codes, as :func:`unrelu.posterior` defines it."""
    bounds, normal, network = problem.bounds, problem.normal, problem.names
    if normal is None and bounds.boxed.all():
        return "uniform within the bounds"
    if normal is None and bounds.boxed.any():
        return "uniform between two bounds, N(0, 1) for coordinates without"
    if normal is None or np.all(normal.proper):
        return str(normal or Normal()) + ("" if bounds.none else " within the bounds")
    within = np.where(np.isfinite(bounds.lower) | np.isfinite(bounds.upper), " within its bounds", "")
    stated = [
        f"{network.name_of(int(j))} ~ N({normal.mean[j]:g}, {normal.std[j]:g}^2){within[j]}"
        for j in np.flatnonzero(normal.proper & ~network.nuisance)
    ]
    own = ["nuisance parameters as stated"] if (normal.proper & network.nuisance).any() else []
    return f"{listed([*own, *stated], _PRIORS)}, the others uniform within their bounds"


def _vector(values: Array) -> str:
    if not values.size:
        return ""
    return np.array2string(values, precision=3, threshold=8, edgeitems=4, separator=", ", max_line_width=10**6)


def _modes(modes: Sequence[Mode], known: int) -> str:
    """The weights of the modes with draws, and how many have none."""
    empty = known - len(modes)
    without = f"; {count(empty, 'further optimum')[:-2]}{'um' if empty == 1 else 'a'} without draws" if empty else ""
    if len(modes) == 1:
        return f"1{without}"
    shown = ", ".join(f"{share(mode.weight)} ± {share(mode.weight_error)}" for mode in modes[:_MODES])
    more = f", and {len(modes) - _MODES} lighter" if len(modes) > _MODES else ""
    return f"{len(modes)}, of weight {shown}{more}{without}"


def _starts(mixing: Mixing, prior: int, chains: int) -> str:
    """Where chains began; if they have not mixed, also how those of the same kind agree among themselves."""
    parts = [
        (chains - prior, "optima of the search", mixing.rhat_from_search),
        (prior, "descents from the prior", mixing.rhat_from_prior),
    ]
    apart = mixing.status is not Status.MIXED
    return ", ".join(
        f"{n} from {start}" + (f" (R-hat among them {_rhat(rhat)})" if n > 1 and apart else "")
        for n, start, rhat in parts
        if n
    )


# --- a batch ----------------------------------------------------------------------------------------------------------


def printed_posteriors(chains: SampledChains) -> Printed:
    """The posteriors of a batch."""
    if not chains.size:
        return Printed("Posterior of no observation")
    mixed, misfits = int((chains.statuses == Status.MIXED).sum()), int((chains.p_value < SIGNIFICANCE).sum())
    misfit = f"{count(misfits, 'misfit')}, which no code that was found explains; " if misfits else ""
    title = f"Posteriors of {count(chains.size, 'observation')}, {sizes_of(chains)}: {misfit}{mixed} mixed"
    rhats = np.array([chains.mixing(i).worst("rhat")[0] for i in range(chains.size)])
    order = np.argsort(-np.nan_to_num(rhats, nan=np.inf, posinf=np.inf), kind="stable")[:WORST].tolist()
    rows = []
    for i in order:
        ess, tail = (chains.mixing(i).worst(name)[0] for name in ("ess", "tail_ess"))
        sizes = [_size(size) if math.isfinite(size) else number(None) for size in (ess, tail)]
        rhat = _rhat(rhats[i]) if math.isfinite(rhats[i]) else number(None)
        rows.append([str(i), chains.statuses[i].name, rhat, *sizes, count(len(chains.modes(i)))])
    seconds = float(np.nansum(chains.seconds))
    return printed_batch(
        f"{title} ({share(mixed, chains.size)})", [status.name for status in chains.statuses], _MEANINGS,
        ["index", "status", "R-hat", "effective", "in tails", "modes"], rows,
        f"time {duration(seconds)}, {duration(seconds / chains.size)} each",
    )  # fmt: skip
