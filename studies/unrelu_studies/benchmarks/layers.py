"""How long one layer program takes: ours, its peers and one Cholesky least squares, in one process and one thread.

Every solver is timed in the same turn of the loop, so that a ratio compares neighbours in time. Ours is
:func:`~unrelu.layerwise.layer_program.least_violation` as a user calls it, with the search of a start, the best of 3;
the Cholesky least squares is the best of 5; the peers take much longer and run once. What depends on W alone is
computed in the first of the 3, as it is for the first observation of a layer. An untimed turn leaves out imports and
compilation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import SolverError
from unrelu.layerwise.layer_program import least_violation
from unrelu_studies.benchmarks.instances import (
    CASES,
    PROGRAMS,
    QUICK_CASES,
    REPORT_SEED,
    Case,
    Instance,
    TimedProgram,
    draw,
)
from unrelu_studies.benchmarks.one_core import one_thread
from unrelu_studies.benchmarks.peers import PEERS, Scaled, cholesky, cvxopt_module, objective

Array = npt.NDArray[np.float64]

# Of each layer and program: whole runs through the six combinations of noise and bounds.
INSTANCES = 24
QUICK_INSTANCES = 6
_BEST_OF_OURS = 3
_BEST_OF_CHOLESKY = 5
# Objectives below this share of max|x| count as zero when two of them are compared.
_ZERO = 1e-8


@dataclass(frozen=True)
class LayerRecord:
    """What was measured on one instance; objectives are recomputed from the points.

    Attributes:
        layer, norm, outliers, index, noise, bounded, source, n, k, scale: see :class:`Instance`.
        two_sided: rows with both sides, the neurons that are on.
        ours_seconds, cholesky_seconds: every repetition.
        peer_seconds: of each peer; None where it is not installed or not asked.
        objectives: of "ours" and each peer; None where it has no point, or a peer reported no optimum.
        difference: (ours - linprog) / max(linprog, 1e-8 max|x|); positive where ours is worse.
        status, pivots, engine: what our answer says; the name of the error where there is no answer.
        fallback: whether an attempt of ours before the one that gave the answer failed its proof.
    """

    layer: str
    norm: str
    outliers: float
    index: int
    noise: float
    bounded: bool
    source: str
    n: int
    k: int
    scale: float
    two_sided: int
    ours_seconds: list[float]
    cholesky_seconds: list[float]
    peer_seconds: dict[str, float | None]
    objectives: dict[str, float | None]
    difference: float | None
    status: str
    pivots: int
    engine: str
    fallback: bool

    @property
    def ours(self) -> float:
        """Our seconds."""
        return min(self.ours_seconds)

    def ratio(self, solver: str) -> float | None:
        """How many times longer a peer took than ours; for "cholesky", how many least squares ours costs.

        None where ours or the peer has no answer: giving up early is no speed.
        """
        if self.objectives["ours"] is None:
            return None
        if solver == "cholesky":
            return self.ours / min(self.cholesky_seconds)
        seconds = self.peer_seconds[solver]
        return None if seconds is None or self.objectives[solver] is None else seconds / self.ours


def measure_layers(
    instances: int | None = None,
    quick: bool = False,
    seed: int = REPORT_SEED,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> list[LayerRecord]:
    """Time every layer, program and instance.

    Args:
        instances: of each layer and program; 24 by default, 6 where ``quick``.
        quick: only the two layers that take the least time.
        seed: of the instances.
        progress: called with the name of what is measured, the instances done and their total.
    """
    count = instances or (QUICK_INSTANCES if quick else INSTANCES)
    todo = [(case, program) for case in (QUICK_CASES if quick else CASES) for program in PROGRAMS]
    records: list[LayerRecord] = []
    cvxopt_module()
    with one_thread():
        for case, program in todo:
            measure(draw(case, program, 0, seed))
            for index in range(count):
                progress(f"{case.name}, {program.name}", len(records), count * len(todo))
                records.append(measure(draw(case, program, index, seed)))
    progress("done", len(records), count * len(todo))
    return records


def measure(instance: Instance) -> LayerRecord:
    """Time every solver on one instance."""
    case, program, system = instance.case, instance.program, instance.system
    matrix = system.matrix if isinstance(system.matrix, np.ndarray) else system.matrix.toarray()
    ours, h, said = _ours(instance)
    yardstick = [cholesky(matrix, instance.rows.target)[0] for _ in range(_BEST_OF_CHOLESKY)]
    scaled = Scaled.of(system, instance.rows, program.norm)
    timed = {name: peer.solve(scaled) for name, peer in PEERS.items()}
    points = {"ours": h, **{name: run.h if run else None for name, run in timed.items()}}
    objectives = {
        name: objective(system, instance.rows, program.norm, point)
        if point is not None and np.isfinite(point).all()
        else None
        for name, point in points.items()
    }
    return LayerRecord(
        layer=case.name,
        norm=program.norm,
        outliers=program.outliers,
        index=instance.index,
        noise=instance.noise,
        bounded=instance.bounded,
        source=instance.source,
        n=case.n,
        k=case.k,
        scale=instance.scale,
        two_sided=int(instance.rows.two_sided.sum()),
        ours_seconds=ours,
        cholesky_seconds=yardstick,
        peer_seconds={name: run.seconds if run else None for name, run in timed.items()},
        objectives=objectives,
        difference=_difference(objectives["ours"], objectives["linprog"], instance.scale),
        **said,
    )


def _ours(instance: Instance) -> tuple[list[float], Array | None, dict[str, Any]]:
    """Seconds of every repetition, the point, and what the answer says of itself."""
    seconds = []
    h, said = None, {"status": "", "pivots": 0, "engine": "", "fallback": False}
    for _ in range(_BEST_OF_OURS):
        begin = time.perf_counter()
        try:
            answer = least_violation(instance.system, instance.rows, instance.program.norm)
        except SolverError as error:
            said["status"] = f"SolverError: {error}"
        else:
            h = answer.h
            said = {
                "status": answer.status.name,
                "pivots": answer.pivots,
                "engine": answer.engine,
                "fallback": answer.fallback,
            }
        seconds.append(time.perf_counter() - begin)
    return seconds, h, said


def _difference(ours: float | None, theirs: float | None, scale: float) -> float | None:
    return None if ours is None or theirs is None else (ours - theirs) / max(theirs, _ZERO * scale)


def select(records: Sequence[LayerRecord], case: Case, program: TimedProgram) -> list[LayerRecord]:
    """The records of one layer and program."""
    return [r for r in records if (r.layer, r.norm, r.outliers) == (case.name, program.norm, program.outliers)]
