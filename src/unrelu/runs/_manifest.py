"""``manifest.json``: what a run computes. It prevents another run from resuming this one, and describes the folder."""

from __future__ import annotations

import json
import math
import os
from functools import reduce
from pathlib import Path
from typing import Any

from unrelu._version import __version__
from unrelu.datasets.data_set import Observations
from unrelu.errors import InputError, OptionError
from unrelu.methods import METHODS
from unrelu.parameters.code_prior import Normal
from unrelu.parameters.latent_bounds import Bounds
from unrelu.problem import Problem
from unrelu.result.fingerprint import fingerprint
from unrelu.runs.chunk_work import STATUSES, Work
from unrelu.runs.columns import Column, columns_of
from unrelu.runtime.file_reading import read_json
from unrelu.runtime.machine import describe
from unrelu.runtime.words import count, listed, shown

MANIFEST = "manifest.json"
_FORMAT = "unrelu run 3"
# The most coordinates whose bounds are shown.
_SHOWN = 6
# The entries of a manifest that are read, and their types. A damaged or forged manifest is refused at once.
_ENTRIES: dict[str, type] = {
    "model.sha256": str, "model.latent_shape": list, "model.output_shape": list, "model.names": list, "data.size": int,
    "data.shape": list, "data.sha256": str, "predictions": bool, "masks": bool, "method": str, "posterior": int,
    "chunk": int, "statuses": list, "operator": object, "norm": object, "about.data": str,
    "about.noise": str, "about.question": dict, "about.machine": dict, "about.objective": str, "about.expected": dict,
    "about.uniform_p": bool, "about.layerwise": bool,
}  # fmt: skip


def manifest_of(work: Work, observations: Observations, problem: Problem, chunk: int, names: dict[str, str]) -> Any:
    """Return everything that determines the results of a run, as JSON types, with hashes of network and first chunk.

    The entry "about" does not affect results: it has the texts of a report, from the problem of an observation of
    zeros. A run can be resumed on another machine and with other ``names``, the user's for model, data and masks.
    """
    network, data, stated, given = work.network, observations.data, work.stated, problem.stated
    box, prior = Bounds.parse(stated["bounds"], network.latent_shape), stated["prior"]
    texts = {"data": data.location, **names}
    found = {
        "format": _FORMAT,
        "version": __version__,
        "model": {
            "sha256": fingerprint(network),
            "latent_shape": network.latent_shape,
            "output_shape": network.output_shape,
            "names": network.names.parameter_names if network.names.coordinate_names else [],
        },
        "data": {
            "size": data.size, "shape": data.shape, "dtype": str(data.dtype), "scale": str(work.scaling),
            "sha256": observations.digest(0, min(chunk, data.size)),
        },
        "operator": None if work.operator is None else fingerprint(work.measured),
        "masks": work.masked,
        "predictions": any(column.name == "predictions" for column in work.columns),
        "method": work.method,
        "options": work.options,
        "noise": None if stated["noise"] is None else str(stated["noise"]),
        "noise_sha256": fingerprint(given.noise) if given.noise.entrywise else None,
        "bounds": box.plain(),
        "norm": stated["norm"],
        "prior": prior.plain() if isinstance(prior, Normal) else prior,
        "posterior": work.draws,
        "time_limit": stated["time_limit"],
        "seed": work.seed,
        "chunk": chunk,
        "statuses": STATUSES,
        "about": {
            **texts,
            "directory": os.getcwd(),
            "noise": str(given.noise) if given.noise.stated else "",
            "question": {"model": texts.get("model", "a network from Python"), "data": texts["data"]}
            | _question(work, observations, problem, chunk),
            "machine": {name: str(value).strip("[]") for name, value in describe().items() if value},
            "objective": _objective(work, problem),
            "expected": _expected_residuals(work, problem),
            "uniform_p": not given.noise.without_density,
            "layerwise": METHODS[work.method].layerwise,
        },
    }  # fmt: skip
    try:
        manifest: dict[str, Any] = json.loads(json.dumps(found, default=float))  # NumPy numbers and fractions
        _check(manifest)
    except (ValueError, TypeError, KeyError) as error:
        raise OptionError(f"names={names!r} cannot be written to {MANIFEST}: {error}; pass texts") from error
    return manifest


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return a line for each difference between two manifests, such as "seed is 0, asked for is 1"."""
    said: list[str] = []
    for name in sorted({*found, *wanted} - {"about"}):
        one, other = found.get(name), wanted.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            said += [f"{name}.{inner}" for inner in differences(one, other)]
        elif one != other:
            said.append(f"{name} is {shown(one)}, asked for is {shown(other)}")
    return said


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest in a folder.

    Raises:
        InputError: there is no manifest, or it is damaged.
    """
    path = folder / MANIFEST
    if not os.path.exists(path):  # also False where no such file can exist
        raise InputError(f"{folder} holds no {MANIFEST}, so it is no folder of `unrelu run`; check the path")
    manifest: dict[str, Any] = read_json(path, within=folder)
    try:
        _check(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged, or of another version: {error!r}; restore it, or pass overwrite=True (--overwrite) to "
            "begin again"
        ) from error
    return manifest


def columns_in(manifest: dict[str, Any]) -> tuple[Column, ...]:
    """Return the columns of a run, according to its manifest."""
    model = manifest["model"]
    return columns_of(
        tuple(model["latent_shape"]), tuple(model["output_shape"]), tuple(manifest["data"]["shape"]),
        predictions=manifest["predictions"], posterior=manifest["posterior"] > 0, named=len(model["names"]),
    )  # fmt: skip


def _check(manifest: dict[str, Any]) -> None:
    """Refuse a manifest that no run writes, with a KeyError, TypeError or ValueError."""
    if manifest["format"] != _FORMAT:
        raise ValueError(f"format {shown(manifest['format'])}")
    for name, kind in _ENTRIES.items():
        value: Any = reduce(lambda entry, key: entry[key], name.split("."), dict[str, Any](manifest))
        if type(value) is not kind and kind is not object:
            raise TypeError(f"{name} is {shown(value)}")
    model, data = manifest["model"], manifest["data"]
    for shape in (model["latent_shape"], model["output_shape"], data["shape"], [data["size"], manifest["chunk"]]):
        if not all(type(n) is int and 0 < n < 2**48 for n in shape) or math.prod(shape) >= 2**48 or len(shape) > 32:
            raise ValueError(f"a shape is {shown(shape)}")
    names = model["names"]
    texts = all(isinstance(text, str) for text in (*names, *manifest["statuses"]))
    if not texts or len(names) not in (0, math.prod(model["latent_shape"])):
        raise ValueError("a name or a status is no text, or coordinates have names and their number differs")
    if not all(type(size) in (int, float) and abs(size) < 1e300 for size in manifest["about"]["expected"].values()):
        raise ValueError(f"about.expected is {shown(manifest['about']['expected'])}")


# --- the manifest in words, for readers of the folder who have neither data nor network -------------------------------


def _question(work: Work, observations: Observations, problem: Problem, chunk: int) -> dict[str, str]:
    """Describe the data, the method and everything else that determines the results, in words."""
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
    """Describe the bounds of the codes; if they differ, list the first few coordinates."""
    each = [f"[{low:g}, {high:g}]" for low, high in zip(box.lower.ravel(), box.upper.ravel(), strict=True)]
    if len(set(each)) == 1:
        return "none" if box.none else f"{each[0]} of every latent coordinate"
    return f"{listed(each, _SHOWN)} of the latent coordinates"


def _objective(work: Work, problem: Problem) -> str:
    """Describe the numbers in the column ``objective``."""
    noise, norm = problem.stated.noise, problem.norm
    term = (
        f" + {problem.prior:g} {'|z|²' if problem.normal is None else '|(z - mean) / std|²'}" if problem.prior else ""
    )
    if noise.likelihood is not None:
        return f"deviance{term}"
    kind = {"l2": "squared l2 residual", "huber": f"Huber loss ({work.stated['norm']})"}.get(norm, f"{norm} residual")
    if problem.operator.unweighted is not problem.operator:
        return f"{'chi-square' if norm == 'l2' else kind}{term}, whitened"
    return f"{kind}{term}, {'' if norm in ('l1', 'linf') else 'squared '}units of the data"


def _expected_residuals(work: Work, problem: Problem) -> dict[str, float]:
    """Return the residual expected from the stated noise: S sqrt(m) in l2, and its largest entry, as far as known."""
    noise = problem.stated.noise
    sizes = {"residual_l2": math.sqrt(noise.mean_square * work.measured.m), "residual_linf": noise.bound}
    hidden = work.masked or not work.measured.seen(1).all()
    return {} if hidden else {name: size for name, size in sizes.items() if math.isfinite(size)}


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))  # noqa: RUF001 -- the sign of a product
