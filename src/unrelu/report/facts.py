"""What was run, and on what: from the manifest; and the columns of what is finished, one in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.measurements.noise import Noise
from unrelu.methods import METHODS
from unrelu.report.words import count
from unrelu.runs import Run

# Least, middle and most of a column.
_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_OPERATORS = {
    "mask": "one mask for all observations",
    "matrix": "a matrix",
    "sparse": "a sparse matrix",
    "mapped": "a linear map given as code",
}
_OBJECTIVES = {"l1": "l1 residual, the sum over its entries", "linf": "linf residual, its largest entry"}


@dataclass(frozen=True, eq=False)
class Finished:
    """The rows of the finished chunks.

    Rows of others may be zeros, empty, or of a chunk that was not recorded; none of them count.

    Attributes:
        run: the folder.
    """

    run: Run

    @cached_property
    def indices(self) -> npt.NDArray[np.int64] | None:
        """Of the observations, (n,), in order; None for all of them."""
        if self.run.finished:
            return None
        spans = [np.arange(r.start, r.stop) for _, r in sorted(self.run.records.items())]
        return np.concatenate(spans) if spans else np.zeros(0, dtype=np.int64)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of numbers, (n,); ``status`` as the numbers that the table holds.

        Raises:
            InputError: it cannot be read.
        """
        if not self.run.records:
            return np.zeros(0, dtype=self.run.table.column(name).dtype)
        values = self.run.table.read(name)
        return values if self.indices is None else values[self.indices]

    def known(self, name: str) -> npt.NDArray[Any]:
        """The values of a column that are known: neither NaN, nor what whole numbers have in its place."""
        values = self.column(name)
        return values[np.isfinite(values) if values.dtype.kind == "f" else values >= 0]

    def index(self, places: npt.NDArray[np.intp]) -> list[int]:
        """The observations at places of a column."""
        return [int(i) for i in (places if self.indices is None else self.indices[places])]


@dataclass(frozen=True)
class Spread:
    """Where the values of a column lie.

    Attributes:
        name: of the column.
        what: it is, with its unit.
        least, low, median, high, most: its quantiles 0, 5%, 50%, 95% and 100%; NaN without values.
        known: how many values are finite.
    """

    name: str
    what: str
    least: float
    low: float
    median: float
    high: float
    most: float
    known: int


def spread_of(name: str, what: str, values: npt.NDArray[Any]) -> Spread:
    """The spread of the finite values of a column, (n,)."""
    known = values[np.isfinite(values)]
    # An infinite or huge value has no finite mean with its neighbour, so none is taken.
    found = np.quantile(known, _QUANTILES, method="closest_observation") if known.size else np.full(5, np.nan)
    least, low, median, high, most = (float(value) for value in found)
    return Spread(name, what, least, low, median, high, most, len(known))


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
    kind = Noise.parse(manifest["noise"]).name
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
