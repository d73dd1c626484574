"""Draws of the package and of the negative controls beside posteriors that are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unrelu_studies.benchmarks.benchmark import Command, Results
from unrelu_studies.benchmarks.posterior.control_samplers import CONTROLS
from unrelu_studies.benchmarks.posterior.exact_cases import (
    BINS,
    DISTANCE,
    DRAWS,
    INDEPENDENT,
    WEIGHT,
    StatedMode,
    compared_with_algebra,
    compared_with_grid,
    compared_with_symmetry,
    folded_cell,
    linear_cell,
    small_cell,
)
from unrelu_studies.benchmarks.posterior.posterior_cells import OURS, PosteriorCell
from unrelu_studies.kit.markdown_tables import aims, form, table
from unrelu_studies.kit.random_instances import draw_seed, random
from unrelu_studies.kit.timing import one_thread, processor_seconds, timed
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]

# Nets of each k, of each number of folds, and linear ones of each size; and of a quick run.
SMALL, FOLDED, LINEAR, _QUICK = 10, 3, 3, 1
CODES, FOLDS, LINEAR_SIZES = (1, 2, 3), (1, 2, 3, 4), (4, 20)
_CHAINS = 8
# The coordinates that are folded are at least this far from the fold.
_APART = 0.7
NETS: dict[str, Callable[[int, int, int], PosteriorCell]] = {
    "small": small_cell, "folded": folded_cell, "linear": linear_cell,
}  # fmt: skip


class _Drawn(NamedTuple):
    """What a sampler gives for one observation; a control states one mode, its first draw, and no more."""

    z: Array
    modes: list[StatedMode]
    status: str
    ess: Array | None
    evidence: float | None


def _drawn(way: str, about: PosteriorCell, y: Array, seed: int) -> _Drawn:
    if way in CONTROLS:  # many short chains: the controls run all of them at once
        z = CONTROLS[way](about, y, DRAWS // 100, 100, seed)[0].reshape(DRAWS, -1)
        return _Drawn(z, [StatedMode(1.0, z[0])], "MIXED", None, None)
    (p,) = about.sampled(y, seed=seed, chains=_CHAINS, draws=DRAWS // _CHAINS)
    modes = [StatedMode(float(mode.weight), np.ravel(mode.z)) for mode in p.modes]
    return _Drawn(np.reshape(p.z, (DRAWS, -1)), modes, p.status.name, np.ravel(p.ess), float(p.log_evidence))


def units(command: Command) -> list[Unit]:
    """A net each, of ours; of the controls those with two codes and those that are folded once or twice."""

    def kinds(ours: bool) -> list[Unit]:
        small, folds = (CODES, FOLDS) if ours else (CODES[1:2], FOLDS[:2])
        found: list[Unit] = [("small", k, i) for k in small for i in range(command.count(SMALL, _QUICK))]
        found += [("folded", j, i) for j in folds for i in range(command.count(FOLDED, _QUICK))]
        return found + (
            [("linear", k, i) for k in LINEAR_SIZES for i in range(command.count(LINEAR, _QUICK))] if ours else []
        )

    return [("exact", way, *unit) for way in (OURS, *CONTROLS) for unit in kinds(way == OURS)]


def measure(command: Command, way: str, kind: str, size: int, index: int) -> Results:
    """One net."""
    seed = command.seed
    about = NETS[kind](size, index, seed)
    y = _observation(about, kind, size, index, seed)
    with one_thread():
        drawn, seconds = timed(
            lambda: _drawn(way, about, y, draw_seed(random("posterior exact", seed, kind, size, index))),
            processor_seconds,
        )
    seen = about.seen(y)[0]
    if kind == "small":
        found = compared_with_grid(about, seen, drawn.z, drawn.modes)
    elif kind == "folded":
        found = compared_with_symmetry(size, drawn.z, drawn.modes)
    else:
        assert drawn.ess is not None
        found = compared_with_algebra(about, seen, drawn.z, drawn.ess)
    row = {
        "way": way, "kind": kind, "size": size, "index": index, "status": drawn.status, "seconds": seconds,
        "log_evidence": drawn.evidence, "ess": None if drawn.ess is None else float(drawn.ess.min()), **found,
    }  # fmt: skip
    return {"exact": [row]}


def _observation(about: PosteriorCell, kind: str, size: int, index: int, seed: int) -> Array:
    """One observation of a net, (1, m); of a folded one from a code whose signs matter, so that its modes are apart."""
    name = f"{kind} {size}"
    truth = about.simulated(1, seed, name, index).truth
    if kind == "folded":
        truth[:, :size] += np.copysign(_APART, truth[:, :size])
    return about.observed(truth, seed, name, index).y


# --- tables -----------------------------------------------------------------------------------------------------------


def _of(results: Results, kind: str, ours: bool = True) -> list[Results]:
    return [r for r in results["exact"] if r["kind"] == kind and (r["way"] == OURS) == ours]


def _mixed(rows: Sequence[Results]) -> list[Results]:
    return [r for r in rows if r["status"] == "MIXED"]


def _largest(rows: Sequence[Results], name: str) -> float:
    return max((float(np.max(r[name])) for r in rows), default=float("nan"))


def _evidence(rows: Sequence[Results]) -> float | None:
    off = [abs(r["log_evidence"] - r["evidence"]) for r in rows if r["log_evidence"] is not None]
    return max(off) if off else None


def small_table(results: Results) -> str:
    """Nets with one to three codes, and folded ones."""
    rows = []
    for kind, sizes in (("small", CODES), ("folded", FOLDS)):
        for size in sizes:
            group = [r for r in _of(results, kind) if r["size"] == size]
            mixed = _mixed(group)
            what = f"{size} codes" if kind == "small" else f"folded, {2**size} equal modes"
            rows.append((
                what, len(group), len(mixed), sum(r["modes"] > 1 for r in group),
                form(_largest(mixed, "distance"), ".4f") if kind == "small" else None,
                f"{_largest(mixed, 'drawn'):.3f}", f"{_largest(mixed, 'stated'):.3f}",
                form(_evidence(mixed), ".3f") if kind == "small" else None,
                f"{np.mean([r['seconds'] for r in group]):.2g}",
            ))  # fmt: skip
    said = (
        f"{DRAWS:,} draws of {_CHAINS} chains. Total variation over {BINS} bins of equal probability; that many "
        f"independent draws have {INDEPENDENT:.4f} on average. Largest differences, of the nets that mixed:"
    )
    head = (
        "nets", "number", "mixed", "with several modes", "total variation", "weights of modes, by the draws",
        "as stated", "log evidence", "seconds",
    )  # fmt: skip
    return f"{said}\n\n{table(head, rows)}"


def exact_aims(results: Results) -> str:
    """What the issue asks of exact cases."""
    small, folded, linear = (_of(results, kind) for kind in ("small", "folded", "linear"))
    near, symmetric = _mixed(small), _mixed(folded)
    found = sum(r["found"] == r["modes"] for r in folded)
    return aims([
        ("all mix", f"{sum(len(_mixed(g)) for g in (small, folded, linear))} of {len(results_of_ours(results))}",
         all(r["status"] == "MIXED" for r in results_of_ours(results))),
        (f"total variation of every marginal at most {DISTANCE}", f"{_largest(near, 'distance'):.4f} at most",
         _largest(near, "distance") <= DISTANCE),
        (f"weights of modes within {WEIGHT}", f"{_largest(near, 'stated'):.3f} at most",
         _largest(near, "stated") <= WEIGHT),
        ("every mode of folded nets is found", f"{found} of {len(folded)}", found == len(folded)),
        (f"their weights within {WEIGHT}", f"{_largest(symmetric, 'stated'):.3f} at most",
         _largest(symmetric, "stated") <= WEIGHT),
        ("linear nets: mean and variances within 4 standard errors",
         f"{_largest(linear, 'mean'):.1f} and {_largest(linear, 'variance'):.1f} at most",
         max(_largest(linear, "mean"), _largest(linear, "variance")) <= 4),
    ])  # fmt: skip


def results_of_ours(results: Results) -> list[Results]:
    """The nets that the package sampled."""
    return [r for r in results["exact"] if r["way"] == OURS]


def control_rows(results: Results) -> list[tuple[Any, ...]]:
    """Of each control the share of nets that it passes, small ones and folded ones."""
    rows = []
    for way in CONTROLS:
        small = [r for r in _of(results, "small", False) if r["way"] == way]
        folded = [r for r in _of(results, "folded", False) if r["way"] == way]
        near = sum(np.max(r["distance"]) <= DISTANCE and r["drawn"] <= WEIGHT for r in small)
        even = sum(r["drawn"] <= WEIGHT for r in folded)
        rows.append((way, f"{near} of {len(small)}", f"{even} of {len(folded)}"))
    return rows
