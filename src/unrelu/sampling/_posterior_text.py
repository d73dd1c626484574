"""Print posteriors: first whether the chains have mixed, then what their draws say."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from unrelu.display.text_tables import html_table, named_lines, shortened, text_table
from unrelu.models.code_prior import Normal
from unrelu.models.names import Names
from unrelu.problem import Problem
from unrelu.result import Status
from unrelu.result.status import meaning_of_posterior
from unrelu.runtime.array_types import Array
from unrelu.runtime.words import count, duration, listed, number, probability, share
from unrelu.sampling._sampled_chains import OVERLOOKED, Mixing, SampledChains
from unrelu.sampling.convergence import DRAWS, ESS, RHAT
from unrelu.thresholds import SIGNIFICANCE

# Rows of the tables of a batch, and characters of the meaning of a status.
_STATUSES, _WORST, _MEANING = 4, 5, 64
_LEFT = ("status", "meaning")
# The most modes whose weights, and coordinates whose normal priors are printed.
_MODES, _PRIORS = 5, 10


@dataclass(frozen=True, eq=False)
class PosteriorSummary:
    """Everything that a printed posterior contains.

    Attributes:
        chains: the draws of a batch.
        means, deviations: those of the codes, (B, k), and of nuisance parameters in place of their coordinates.
        weights: the weights of the modes with their standard errors, the heaviest first, for each observation.
    """

    chains: SampledChains
    means: Array
    deviations: Array
    weights: Sequence[Sequence[tuple[float, float]]]


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
    rhat, place = mixing.worst("rhat")
    above = "" if math.isnan(rhat) else f", above {RHAT}"
    found = [] if rhat <= RHAT else [f"R-hat is {_rhat(rhat)} at {_name_of(place, network)}{above}"]
    for name, what in (("ess", "effective draws"), ("tail_ess", "in the tails")):
        size, place = mixing.worst(name)
        if size < ESS:
            found.append(f"{_size(size)} {what} at {_name_of(place, network)}, fewer than {ESS}")
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


def _name_of(place: int, network: Names) -> str:
    """The name of a coordinate of the flattened code; after the last one comes the log-likelihood."""
    return "the log-likelihood" if place >= network.latent_dim else network.name_of(place)


# --- one observation --------------------------------------------------------------------------------------------------


def observation_lines(summary: PosteriorSummary) -> list[str]:
    """One observation in at most 15 lines."""
    return [title(summary), *named_lines(observation_entries(summary))]


def title(summary: PosteriorSummary) -> str:
    """The number of observations; whether one is a misfit, and whether the chains have mixed."""
    chains, of = summary.chains, sizes_of(summary.chains)
    mixed = sum(chains.mixing(i).status is Status.MIXED for i in range(chains.size))
    misfits = int((chains.p_value < SIGNIFICANCE).sum())
    if chains.problem.single:
        misfit = "MISFIT, no code that was found explains y; the chains have " if misfits else ""
        ending = "mixed" if mixed else "not mixed, do not rely on these numbers"
        return f"Posterior of one observation, {of}: {misfit}{ending}"
    if not chains.size:
        return "Posterior of no observation"
    misfit = f"{count(misfits, 'misfit')}, which no code that was found explains; " if misfits else ""
    return (
        f"Posteriors of {count(chains.size, 'observation')}, {of}: {misfit}{mixed} mixed ({share(mixed, chains.size)})"
    )


def sizes_of(chains: SampledChains) -> str:
    """The numbers of chains and of their draws."""
    return f"{count(chains.z.shape[1], 'chain')} of {count(int(chains.lengths.max(initial=0)), 'draw')}"


def observation_entries(summary: PosteriorSummary) -> list[tuple[str, str]]:
    """The lines about one observation, as names and texts."""
    chains, network = summary.chains, summary.chains.problem.names
    mixing, mean, deviation = chains.mixing(0), summary.means[0], summary.deviations[0]
    p = chains.p_value[0]
    misfit = ": the noise is larger than stated, or y is out of the generator's range" if p < SIGNIFICANCE else ""
    entries = [(mixing.status.name, message_of(mixing, network))]
    entries.insert(not misfit, ("best code", f"p = {probability(p)}{misfit}" if math.isfinite(p) else ""))
    if mixing.draws:
        names = network.coordinate_names or ("",) * network.latent_dim
        unnamed = np.array([not name for name in names])
        named = zip(names, mean, deviation, strict=True)
        entries += [
            ("parameters", listed([f"{name} = {m:.5g} ± {d:.2g}" for name, m, d in named if name])),
            ("mean", _vector(mean[unnamed]) if unnamed.any() else ""),
            ("deviation", _vector(deviation[unnamed]) if unnamed.any() else ""),
            ("modes", _modes(summary.weights[0], len(chains.best[0]))),
            ("chains", _starts(mixing, int(chains.from_prior.sum()), len(chains.from_prior))),
        ]
    evidence, error = float(chains.log_evidence[0]), float(chains.log_evidence_error[0])
    uncertain = f" ± {error:.2g}" if math.isfinite(error) else ""
    accepted = chains.acceptance[0]
    effort = f"{share(accepted)} accepted, " if math.isfinite(accepted) else ""
    return [
        *entries,
        ("evidence", f"log p(y) = {evidence:.6g}{uncertain}, up to a constant of y" if math.isfinite(evidence) else ""),
        ("prior", _prior(chains.problem)),
        ("effort", effort + duration(float(chains.seconds[0]))),
    ]


def _prior(problem: Problem) -> str:
    """The distribution of codes, as :func:`unrelu.posterior` defines it."""
    bounds, normal = problem.bounds, problem.normal
    if normal is None and bounds.boxed.all():
        return "uniform within the bounds"
    if normal is None and bounds.boxed.any():
        return "uniform between two bounds, N(0, 1) for coordinates without"
    if normal is not None and not np.all(normal.proper):
        network = problem.names
        ends = np.isfinite(bounds.lower) | np.isfinite(bounds.upper)
        within = np.where(ends, " within its bounds", "")
        stated = [
            f"{network.name_of(int(j))} ~ N({normal.mean[j]:g}, {normal.std[j]:g}^2){within[j]}"
            for j in np.flatnonzero(normal.proper & ~network.nuisance)
        ]
        own = ["nuisance parameters as stated"] if (normal.proper & network.nuisance).any() else []
        return f"{listed([*own, *stated], _PRIORS)}, the others uniform within their bounds"
    return str(normal or Normal()) + ("" if bounds.none else " within the bounds")


def _vector(values: Array) -> str:
    return np.array2string(values, precision=3, threshold=8, edgeitems=4, separator=", ", max_line_width=10**6)


def _modes(weights: Sequence[tuple[float, float]], known: int) -> str:
    """The weights of the modes with draws, and how many have none."""
    empty = known - len(weights)
    without = f"; {count(empty, 'further optimum')[:-2]}{'um' if empty == 1 else 'a'} without draws" if empty else ""
    if len(weights) == 1:
        return f"1{without}"
    shown = ", ".join(f"{share(w)} ± {share(e)}" for w, e in weights[:_MODES])
    more = f", and {len(weights) - _MODES} lighter" if len(weights) > _MODES else ""
    return f"{len(weights)}, of weight {shown}{more}{without}"


def _starts(mixing: Mixing, prior: int, chains: int) -> str:
    """Where chains began; if they have not mixed, also how those of the same kind agree among themselves."""
    parts = [
        (chains - prior, "optima of the search", mixing.rhat_from_search),
        (prior, "descents from the prior", mixing.rhat_from_prior),
    ]
    shown = [
        f"{n} from {start}"
        + (f" (R-hat among them {_rhat(rhat)})" if n > 1 and mixing.status is not Status.MIXED else "")
        for n, start, rhat in parts
        if n
    ]
    return ", ".join(shown)


def observation_html(summary: PosteriorSummary) -> str:
    """One observation as HTML, with the content of :func:`observation_lines`."""
    name = summary.chains.mixing(0).status.name
    entries = [[name, text] for name, text in observation_entries(summary) if text]
    return f"<div>{html_table(['posterior', name], entries, ('posterior', name))}<p>{escape(title(summary))}</p></div>"


# --- a batch ----------------------------------------------------------------------------------------------------------


def batch_lines(summary: PosteriorSummary) -> list[str]:
    """A batch in at most 15 lines."""
    if not summary.chains.size:
        return [title(summary)]
    statuses, worst, which, ending = _tables(summary)
    return [
        title(summary), *text_table(*statuses, _LEFT), f"  {which}:", *text_table(*worst, _LEFT), f"  {ending}"
    ]  # fmt: skip


def batch_html(summary: PosteriorSummary) -> str:
    """The same as HTML."""
    statuses, worst, which, ending = _tables(summary)
    tables = f"{html_table(*statuses, _LEFT)}<p>{which}:</p>{html_table(*worst, _LEFT)}"
    return f"<div><p>{escape(title(summary))}</p>{tables}<p>{escape(ending)}</p></div>"


_Cells = tuple[list[str], list[list[str]]]


def _tables(summary: PosteriorSummary) -> tuple[_Cells, _Cells, str, str]:
    """The tables of statuses and of the worst observations, each headings and rows, which they are, and the times."""
    chains = summary.chains
    mixings = [chains.mixing(i) for i in range(chains.size)]
    statuses = Counter(mixing.status for mixing in mixings).most_common(_STATUSES)
    meanings = [
        [s.name, count(n), share(n, chains.size), shortened(meaning_of_posterior(s), _MEANING)] for s, n in statuses
    ]
    rhats = np.array([mixing.worst("rhat")[0] for mixing in mixings])
    order = np.argsort(-np.nan_to_num(rhats, nan=np.inf, posinf=np.inf), kind="stable")
    rows = [_row(summary, int(i)) for i in order[:_WORST]]
    which = "all, worst first" if chains.size <= _WORST else f"the worst {_WORST}"
    seconds = float(np.nansum(chains.seconds))
    return (
        (["status", "count", "share", "meaning"], meanings),
        (["index", "status", "R-hat", "effective", "in tails", "modes"], rows),
        which,
        f"time {duration(seconds)}, {duration(seconds / max(1, chains.size))} each",
    )


def _row(summary: PosteriorSummary, i: int) -> list[str]:
    mixing = summary.chains.mixing(i)
    sizes = [mixing.worst(name)[0] for name in ("ess", "tail_ess")]
    texts = [f"{math.floor(size):,}" if math.isfinite(size) else number(None) for size in sizes]
    rhat = mixing.worst("rhat")[0]
    shown = _rhat(rhat) if math.isfinite(rhat) else number(None)
    return [str(i), mixing.status.name, shown, *texts, count(len(summary.weights[i]))]
