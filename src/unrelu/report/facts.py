"""What was run, and on what: from the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unrelu.batch import Run
from unrelu.methods import METHODS
from unrelu.noise import Noise
from unrelu.report.words import count

__all__ = ["Fact", "machine", "norm_of", "objective", "question"]

_OPERATORS = {
    "mask": "one mask for all observations",
    "matrix": "a matrix",
    "sparse": "a sparse matrix",
    "mapped": "a linear map given as code",
}
_OBJECTIVES = {"l1": "l1 residual, the sum over its entries", "linf": "linf residual, its largest entry"}


@dataclass(frozen=True)
class Fact:
    """A line of a list: what it is, its value, and whether that is code, or a hash."""

    name: str
    value: str
    code: bool = False


def question(run: Run) -> list[Fact]:
    """The model, the data, the method and everything else that decides the results."""
    manifest, about = run.manifest, run.manifest["about"]
    model, data = manifest["model"], manifest["data"]
    return [
        Fact("model", about.get("model") or "a network from Python (its name was not recorded)"),
        Fact("maps", f"{count(model['latent_dim'])} latent coordinates to {_shape(model['output_shape'])} outputs"),
        Fact("data", str(about["data"])),
        Fact("holds", f"{count(data['size'], 'observation')} of shape {_shape(data['shape'])}, {data['dtype']}"),
        Fact("scaled to", "not scaled" if data["scale"] == "none" else f"[{data['scale'].replace(',', ', ')}]"),
        Fact("measured", _measured(run)),
        Fact("method", manifest["method"], code=True),
        Fact("options", _options(manifest["options"]) or "its defaults", code=bool(manifest["options"])),
        Fact("noise", manifest["noise"] or "not stated", code=bool(manifest["noise"])),
        Fact("norm", _norm(run)),
        Fact("prior", f"{manifest['prior']:g} |z|²" if manifest["prior"] else "none"),
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
    facts += [
        Fact("SHA-256 of the model", manifest["model"]["sha256"], code=True),
        Fact("SHA-256 of the first chunk of the data", manifest["data"]["sha256"], code=True),
    ]
    if manifest["operator"] is not None:
        facts.append(Fact("SHA-256 of the operator", manifest["operator"], code=True))
    return facts


def norm_of(run: Run) -> str:
    """The norm of the objective that the run reports: the one asked for, else that of the method, or of the noise."""
    manifest = run.manifest
    entry = METHODS.get(manifest["method"])
    own = "noise" if entry is None else entry.norm
    return str(manifest["norm"] or (Noise.parse(manifest["noise"]).norm if own == "noise" else own))


def objective(run: Run) -> str:
    """What the column of that name holds."""
    norm, prior = norm_of(run), run.manifest["prior"]
    if norm == "l2":
        return "squared l2 residual" + (f" + {prior:g} |z|²" if prior else "") + ", squared units of the data"
    return _OBJECTIVES[norm] + ", units of the data"


def _norm(run: Run) -> str:
    norm, manifest = norm_of(run), run.manifest
    entry = METHODS.get(manifest["method"])
    if manifest["norm"]:
        return norm + ", as asked for"
    if entry is not None and entry.norm != "noise":
        return f"{norm}, that of {manifest['method']}"
    kind = Noise.parse(manifest["noise"]).kind
    return f"{norm}, that of {kind} noise" if manifest["noise"] else f"{norm}, as no noise is stated"


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in sorted(options.items()))


def _shape(shape: list[int]) -> str:
    return " × ".join(map(str, shape))  # noqa: RUF001 -- the sign of a product


def _measured(run: Run) -> str:
    manifest = run.manifest
    if manifest["masks"]:
        return "a mask for every observation"
    if manifest["operator"] is None:
        return "the whole output"
    kind = manifest["about"].get("opened", {}).get("operator")
    return _OPERATORS.get(kind, "by an operator") + f": {_shape(manifest['data']['shape'])} measurements"
