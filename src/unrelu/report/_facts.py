"""What was run, and on what, from the manifest, as a list of facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unrelu.methods import METHODS
from unrelu.models.code_prior import Normal
from unrelu.runs import Run
from unrelu.runtime.words import count

# Coordinates whose bounds are shown.
_SHOWN = 6
_OPERATORS = {
    "mask": "one mask for all observations",
    "matrix": "a matrix",
    "sparse": "a sparse matrix",
    "mapped": "a linear map given as code",
}
_OBJECTIVES = {"l1": "l1 residual, the sum over its entries", "linf": "linf residual, its largest entry"}


class Fact(NamedTuple):
    """A line of a list: what it is, its value, and whether that is code, or a hash."""

    name: str
    value: str
    code: bool = False


def opened(run: Run) -> dict[str, Any]:
    """Where the data and the masks were, and how they were opened."""
    about = run.manifest["about"]
    usual = {"data": about["data"], "masks": about.get("masks"), "array": None, "size": None, "operator": None}
    found = {**usual, "directory": None, **about.get("opened", {})}
    return found | {"size": found["size"] and tuple(found["size"])}


def here(run: Run, location: str) -> str:
    """A path as it is from here: relative ones are first looked for where the run was started."""
    began = Path(opened(run)["directory"] or ".", location)
    return str(began) if began.exists() else location


def masked(run: Run) -> bool:
    """Whether entries are hidden."""
    return bool(run.manifest["masks"]) or opened(run)["operator"] == "mask"


def question(run: Run) -> list[Fact]:
    """The model, the data, the method and everything else that decides the results."""
    manifest, about = run.manifest, run.manifest["about"]
    model, data, options = manifest["model"], manifest["data"], manifest["options"]
    given = ", ".join(f"{name}={value!r}" for name, value in sorted(options.items()))
    return [
        Fact("model", about.get("model") or "a network from Python (its name was not recorded)"),
        Fact("maps", f"codes of {_shape(model['latent_shape'])} to outputs of {_shape(model['output_shape'])}"),
        *([Fact("coordinates", ", ".join(run.names))] if run.names else []),
        Fact("data", str(about["data"])),
        Fact("holds", f"{count(data['size'], 'observation')} of shape {_shape(data['shape'])}, {data['dtype']}"),
        Fact("scaled to", "not scaled" if data["scale"] == "none" else f"[{data['scale'].replace(',', ', ')}]"),
        Fact("measured", _measured(run)),
        Fact("method", manifest["method"], code=True),
        Fact("options", given or "its defaults", code=bool(options)),
        Fact("noise", _noise(run), code=bool(manifest["noise"])),
        Fact("bounds", _bounds(manifest.get("bounds"))),
        Fact("norm", ", ".join(_norm(run))),
        Fact("prior", _prior(manifest["prior"])),
        *_posterior(manifest),
        Fact("seed", str(manifest["seed"]), code=True),
        Fact("chunk", f"{count(manifest['chunk'], 'observation')}, inverted together"),
        Fact("time limit", f"{manifest['time_limit']:g} s a chunk" if manifest["time_limit"] else "none"),
    ]


def machine(run: Run) -> list[Fact]:
    """Versions, the machine that began the run, and hashes of what went in."""
    manifest = run.manifest
    facts = [Fact("unrelu", manifest["version"])]
    for name, value in manifest["about"].get("machine", {}).items():
        if name != "unrelu" and value not in (None, "", [], "not installed"):
            facts.append(Fact(name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    hashes = {
        "the model": manifest["model"]["sha256"],
        "the first chunk of the data": manifest["data"]["sha256"],
        "the operator": manifest["operator"],
    }
    return facts + [Fact(f"SHA-256 of {name}", value, code=True) for name, value in hashes.items() if value is not None]


def objective(run: Run) -> str:
    """What the column of that name holds."""
    (norm, _), prior, term = _norm(run), run.manifest["prior"], ""
    if isinstance(prior, dict):
        weight = run.noise.dispersion_parameter
        term = f" + {'' if weight == 1 else f'{weight:g} '}|(z - mean) / std|²"
    elif prior:
        term = f" + {prior:g} |z|²"
    if run.noise.likelihood is not None:
        return f"deviance{term}"
    if run.noise.entrywise:
        return f"{'chi-square' if norm == 'l2' else f'{norm} of the residual'}{term}, whitened"
    if norm == "l2":
        return f"squared l2 residual{term}, squared units of the data"
    if norm in _OBJECTIVES:
        return _OBJECTIVES[norm] + ", units of the data"
    return f"Huber loss ({norm}){term}, squared units of the data"


def _posterior(manifest: dict[str, Any]) -> list[Fact]:
    """The draws, and the distribution of codes before anything was measured."""
    draws, prior, bounds = manifest["posterior"], manifest["prior"], manifest.get("bounds")
    if not draws:
        return []
    usual = "Normal(0, 1)" if bounds is None else "uniform between two finite bounds, otherwise Normal(0, 1)"
    codes = str(Normal.of_plain(prior)) if isinstance(prior, dict) else usual
    return [Fact("posterior", f"{count(draws, 'draw')} of each chain; codes {codes}")]


def _prior(prior: float | dict[str, Any]) -> str:
    if isinstance(prior, dict):
        return f"{Normal.of_plain(prior)}, the most probable code"
    return f"{prior:g} |z|²" if prior else "none"


def _norm(run: Run) -> tuple[str, str]:
    """The norm of the objective that the run reports, and why: asked for, of the method, or of the noise."""
    manifest = run.manifest
    entry, noise = METHODS.get(manifest["method"]), run.noise
    if manifest["norm"]:
        return manifest["norm"], "as asked for"
    if entry is not None and entry.norm != "noise":
        return entry.norm, f"that of {manifest['method']}"
    return noise.norm, f"that of {noise.name} noise" if noise.stated else "as no noise is stated"


def _noise(run: Run) -> str:
    """The noise, and whether the type of the data told it."""
    told = f"{run.noise}, as data of {run.manifest['data']['dtype']} are rounded" if run.noise.stated else "not stated"
    return run.manifest["noise"] or told


def _shape(shape: list[int]) -> str:
    return " × ".join(map(str, shape))  # noqa: RUF001 -- the sign of a product


def _bounds(bounds: list[Any] | None) -> str:
    """The bounds of the codes, of a few coordinates one by one."""
    if bounds is None:
        return "none"
    lower, upper = np.broadcast_arrays(*(np.atleast_1d(np.asarray(end, dtype=np.float64)) for end in bounds))
    each = [f"[{low:g}, {high:g}]" for low, high in zip(lower[:_SHOWN], upper[:_SHOWN], strict=True)]
    if len(lower) == 1:
        return f"{each[0]} of every latent coordinate"
    return ", ".join(each) + (", ..." if len(lower) > _SHOWN else "") + " of the latent coordinates"


def _measured(run: Run) -> str:
    manifest = run.manifest
    if manifest["masks"]:
        return "a mask for every observation"
    if manifest["operator"] is None:
        return "the whole output"
    kind = _OPERATORS.get(opened(run)["operator"], "by an operator")
    return f"{kind}: {_shape(manifest['data']['shape'])} measurements"
