"""A run in words, for people who read its folder without the data and the network."""

from __future__ import annotations

import math
from typing import Any

from unrelu.datasets.data_set import Observations
from unrelu.measurements.latent_bounds import Bounds
from unrelu.methods import METHODS
from unrelu.models.code_prior import Normal
from unrelu.problem import Problem
from unrelu.runs.chunk_work import Work
from unrelu.runtime.words import count

# Coordinates whose bounds are shown.
_SHOWN = 6
_OPERATORS = {"mask": "one mask for all observations", "matrix": "a matrix", "sparse": "a sparse matrix"}


def question(work: Work, observations: Observations, problem: Problem, chunk: int) -> dict[str, str]:
    """The model, the data, the method and everything else that decides the results, in words."""
    network, data, stated, noise = work.network, observations.data, work.stated, problem.stated.noise
    options = ", ".join(f"{name}={value!r}" for name, value in sorted(work.options.items()))
    told = f"{noise}, as data of {data.dtype} are rounded" if noise.stated else "not stated"
    names = ", ".join(network.names.parameter_names) if network.names.coordinate_names else ""
    facts = {
        "maps": f"codes of {_shape(network.latent_shape)} to outputs of {_shape(network.output_shape)}",
        "coordinates": names,
        "holds": f"{count(data.size, 'observation')} of shape {_shape(data.shape)}, {data.dtype}",
        "scaled to": f"[{', '.join(f'{end:g}' for end in work.scaling.ends)}]" if work.scaling.ends else "not scaled",
        "measured": _measured(work, observations),
        "method": work.method,
        "options": options or "its defaults",
        "noise": told if stated["noise"] is None else str(noise),
        "bounds": _bounds(Bounds.parse(stated["bounds"], network.latent_shape)),
        "norm": _norm(work, problem),
        "prior": _prior(stated["prior"]),
        "posterior": _posterior(work),
        "seed": str(work.seed),
        "chunk": f"{count(chunk, 'observation')}, inverted together",
        "time limit": f"{stated['time_limit']:g} s a chunk" if stated["time_limit"] else "none",
    }
    return {name: text for name, text in facts.items() if text}


def _measured(work: Work, observations: Observations) -> str:
    if work.masked:
        return "a mask for every observation"
    if work.operator is None:
        return "the whole output"
    kind = _OPERATORS.get(work.measured.kind, "by an operator")
    return f"{kind}: {_shape(observations.data.shape)} measurements"


def _norm(work: Work, problem: Problem) -> str:
    """The norm of the objective that the run reports, and why."""
    entry, noise = METHODS[work.method], problem.stated.noise
    if work.stated["norm"]:
        return f"{work.stated['norm']}, as asked for"
    if entry.norm != "noise":
        return f"{entry.norm}, that of {work.method}"
    return f"{problem.norm}, {f'that of {noise.name} noise' if noise.stated else 'as no noise is stated'}"


def _prior(prior: Any) -> str:
    if isinstance(prior, Normal):
        return f"{prior}, the most probable code"
    return f"{prior:g} |z|²" if prior else "none"


def _posterior(work: Work) -> str:
    if not work.draws:
        return ""
    usual = "uniform between two finite bounds, otherwise Normal(0, 1)" if work.stated["bounds"] else "Normal(0, 1)"
    prior = work.stated["prior"]
    return f"{count(work.draws, 'draw')} of each chain; codes {prior if isinstance(prior, Normal) else usual}"


def _bounds(box: Bounds) -> str:
    """The bounds of the codes, of a few coordinates one by one."""
    if box.none:
        return "none"
    each = [f"[{low:g}, {high:g}]" for low, high in zip(box.lower.ravel(), box.upper.ravel(), strict=True)]
    if len(set(each)) == 1:
        return f"{each[0]} of every latent coordinate"
    return ", ".join(each[:_SHOWN]) + (", ..." if len(each) > _SHOWN else "") + " of the latent coordinates"


def objective(work: Work, problem: Problem) -> str:
    """What the column of that name holds."""
    noise, norm, prior = problem.stated.noise, problem.norm, problem.prior
    term = f" + {prior:g} |z|²" if prior else ""
    if problem.normal is not None:
        term = f" + {'' if prior == 1 else f'{prior:g} '}|(z - mean) / std|²"
    if noise.likelihood is not None:
        return f"deviance{term}"
    if noise.entrywise:
        return f"{'chi-square' if norm == 'l2' else f'{norm} of the residual'}{term}, whitened"
    kinds = {"l1": "l1 residual, the sum over its entries", "linf": "linf residual, its largest entry"}
    if norm in kinds:
        return f"{kinds[norm]}, units of the data"
    kind = "squared l2 residual" if norm == "l2" else f"Huber loss ({work.stated['norm']})"
    return f"{kind}{term}, squared units of the data"


def expected_residuals(work: Work, problem: Problem) -> dict[str, float]:
    """The residual that the stated noise leaves, S sqrt(m) in l2, and its largest entry, where these are known."""
    noise = problem.stated.noise
    sizes = {"residual_l2": math.sqrt(noise.mean_square * work.measured.m), "residual_linf": noise.bound}
    hidden = work.masked or not work.measured.seen(1).all()
    return {} if hidden else {name: size for name, size in sizes.items() if math.isfinite(size)}


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))  # noqa: RUF001 -- the sign of a product
