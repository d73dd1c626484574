"""A run in words, for people who read its folder without the data and the network."""

from __future__ import annotations

import math

from unrelu.datasets.data_set import Observations
from unrelu.measurements.latent_bounds import Bounds
from unrelu.models.code_prior import Normal
from unrelu.problem import Problem
from unrelu.runs.chunk_work import Work
from unrelu.runtime.words import count, listed

# Coordinates whose bounds are shown.
_SHOWN = 6


def question(work: Work, observations: Observations, problem: Problem, chunk: int) -> dict[str, str]:
    """The data, the method and everything else that decides the results, in words."""
    network, data, stated, noise = work.network, observations.data, work.stated, problem.stated.noise
    prior, rounded = stated["prior"], f"{noise}, as data of {data.dtype} are rounded" if noise.stated else "not stated"
    usual = "Normal(0, 1), or uniform between two finite bounds"
    kind = "the whole output" if work.operator is None else f"{work.measured.kind}: {_shape(data.shape)} measurements"
    facts = {
        "maps": f"codes of {_shape(network.latent_shape)} to outputs of {_shape(network.output_shape)}",
        "coordinates": ", ".join(network.names.parameter_names) if network.names.coordinate_names else "",
        "holds": f"{count(data.size, 'observation')} of shape {_shape(data.shape)}, {data.dtype}",
        "scaled to": str(work.scaling),
        "measured": "a mask for every observation" if work.masked else kind,
        "method": work.method,
        "options": ", ".join(f"{name}={value!r}" for name, value in sorted(work.options.items())),
        "noise": rounded if stated["noise"] is None else str(noise),
        "bounds": _bounds(Bounds.parse(stated["bounds"], network.latent_shape)),
        "norm": stated["norm"] or problem.norm,
        "prior": str(prior) if isinstance(prior, Normal) else f"{prior:g} |z|²" if prior else "none",
        "posterior": f"{count(work.draws, 'draw')} of each chain; codes {prior or usual}" if work.draws else "",
        "seed": str(work.seed),
        "chunk": f"{count(chunk, 'observation')}, inverted together",
        "time limit": f"{stated['time_limit']:g} s a chunk" if stated["time_limit"] else "none",
    }
    return {name: text for name, text in facts.items() if text}


def _bounds(box: Bounds) -> str:
    """The bounds of the codes, of a few coordinates one by one."""
    each = [f"[{low:g}, {high:g}]" for low, high in zip(box.lower.ravel(), box.upper.ravel(), strict=True)]
    if len(set(each)) == 1:
        return "none" if box.none else f"{each[0]} of every latent coordinate"
    return f"{listed(each, _SHOWN)} of the latent coordinates"


def objective(work: Work, problem: Problem) -> str:
    """What the column of that name holds."""
    noise, norm = problem.stated.noise, problem.norm
    term = (
        f" + {problem.prior:g} {'|z|²' if problem.normal is None else '|(z - mean) / std|²'}" if problem.prior else ""
    )
    if noise.likelihood is not None:
        return f"deviance{term}"
    kind = {"l2": "squared l2 residual", "huber": f"Huber loss ({work.stated['norm']})"}.get(norm, f"{norm} residual")
    if noise.entrywise:
        return f"{'chi-square' if norm == 'l2' else kind}{term}, whitened"
    return f"{kind}{term}, {'' if norm in ('l1', 'linf') else 'squared '}units of the data"


def expected_residuals(work: Work, problem: Problem) -> dict[str, float]:
    """The residual that the stated noise leaves, S sqrt(m) in l2, and its largest entry, where these are known."""
    noise = problem.stated.noise
    sizes = {"residual_l2": math.sqrt(noise.mean_square * work.measured.m), "residual_linf": noise.bound}
    hidden = work.masked or not work.measured.seen(1).all()
    return {} if hidden else {name: size for name, size in sizes.items() if math.isfinite(size)}


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))  # noqa: RUF001 -- the sign of a product
