"""Fits of emulators and a decoder that others have published, with a covariance and a nuisance parameter.

Where a Jacobian takes seconds, ten starts of SciPy's trust region would take hours for an observation: gengli's decoder
has one start of :data:`MOST` evaluations, and its time counts ten times where it is compared with ten. Both it and
``auto`` begin with codes from the prior. Times are CPU times of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

import unrelu
from unrelu import Gaussian, invert
from unrelu.models.generator import Generator
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.host import computing
from unrelu.runtime.words import count as counted
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.benchmarks.measurements.trf_fits import TrfFits, any_model
from unrelu_studies.kit.binomial import share
from unrelu_studies.kit.emulators import observed
from unrelu_studies.kit.markdown_tables import form, short, table
from unrelu_studies.kit.published_emulators import (
    CMB_LOWER,
    CMB_UPPER,
    cmb_spectrum,
    gengli_decoder,
    hydrogen_box,
    hydrogen_brightness,
    installed,
    not_measured,
)
from unrelu_studies.kit.random_instances import random
from unrelu_studies.kit.unit_runner import Unit

MOST, QUICK_MOST = 30, 2
# Codes that are drawn at least: fewer are the first of them.
DRAWN = 100
# A nuisance parameter is N(0, 1) in its latent coordinate, and so are codes without bounds: the box of SciPy's.
_WIDE = 4.0


@dataclass(frozen=True, eq=False)
class PublishedCase:
    """y = A G(z) + e, e ~ N(0, C).

    Attributes:
        network: G, with its nuisance parameters.
        lower, upper: the box of the codes that SciPy searches, (k,).
        bounded: which of its sides are stated to the search, (k,); the other coordinates are N(0, 1).
        operator: A, (m, n), or None.
        covariance: C, (m, m), or the standard deviations, (m,).
        at_most: share of the truth's chi-square that a fit has to reach.
    """

    network: Generator
    lower: Array
    upper: Array
    bounded: Flags
    operator: Array | None
    covariance: Array
    at_most: float = 1.0

    def drawn(self, rng: np.random.Generator, count: int) -> Array:
        """Codes from the prior, (count, k)."""
        uniform = self.lower + (self.upper - self.lower) * rng.random((count, len(self.lower)))
        normal = np.clip(rng.standard_normal(uniform.shape), self.lower, self.upper)
        return np.where(self.bounded, uniform, normal)

    def simulated(self, count: int, seed: int, name: str) -> tuple[Array, Array]:
        """Codes (count, k) and observations of them, (count, m)."""
        truth = self.drawn(random("published truth", seed, name), max(count, DRAWN))[:count]
        e = random("published noise", seed, name).standard_normal((count, len(self.covariance)))
        noise = e @ np.linalg.cholesky(self.covariance).T if self.covariance.ndim == 2 else e * self.covariance
        return truth, self.clean(truth) + noise

    @property
    def whitening(self) -> Array:
        """W with W C W^T = I, (m, m), or one over the deviations, (m,)."""
        if self.covariance.ndim == 1:
            return 1 / self.covariance
        factor = np.linalg.cholesky(self.covariance)
        return np.asarray(scipy.linalg.solve_triangular(factor, np.eye(len(factor)), lower=True))

    def clean(self, z: Array) -> Array:
        """A G(z), (B, m)."""
        x = self.network.outputs(z)
        return x if self.operator is None else x @ self.operator.T

    def stated(self) -> dict[str, Any]:
        """What the search is told."""
        noise = Gaussian(covariance=self.covariance) if self.covariance.ndim == 2 else Gaussian(self.covariance)
        ends = (np.where(self.bounded, self.lower, -np.inf), np.where(self.bounded, self.upper, np.inf))
        return {"operator": self.operator, "noise": noise, "bounds": ends if self.bounded.any() else None}

    def peer(self, most: int | None) -> TrfFits:
        """SciPy's fits of it."""
        value, jacobian = any_model(self.network)
        if self.operator is None:
            return TrfFits((value, jacobian), self.lower, self.upper, self.whitening, most)
        a = self.operator
        return TrfFits(
            (lambda z: a @ value(z), lambda z: a @ jacobian(z)), self.lower, self.upper, self.whitening, most
        )


def cmb() -> PublishedCase:
    """84 bins of the spectrum with cosmic variance on .6 of the sky, an uncertain beam, and a calibration within 2%."""
    network = unrelu.extend(cmb_spectrum(), scale=(0.98, 1.02))
    multipoles = np.arange(2, 2 + network.output_dim)
    edges = np.linspace(0, len(multipoles), 85).astype(int)
    window = np.zeros((84, len(multipoles)))
    for row, low, high in zip(window, edges[:-1], edges[1:], strict=True):
        row[low:high] = 1 / (high - low)
    centre = np.append((np.array(CMB_LOWER) + CMB_UPPER) / 2, 0.0)
    bins, at = window @ network.outputs(centre[None])[0], window @ multipoles
    variance = 2 * bins**2 / ((2 * at + 1) * np.diff(edges) * 0.6)
    beam = 0.005 * bins * (at / 2000) ** 2
    lower, upper = np.append(CMB_LOWER, -_WIDE), np.append(CMB_UPPER, _WIDE)
    return PublishedCase(network, lower, upper, np.arange(7) < 6, window, np.diag(variance) + np.outer(beam, beam))


def brightness() -> PublishedCase:
    """Brightness at 84 redshifts with 5 mK of noise, what is left of a smooth foreground, and a gain within 10%."""
    network = unrelu.extend(hydrogen_brightness(), scale=(0.9, 1.1))
    at = np.linspace(0, 1, network.output_dim)
    foreground = 10.0 * np.exp(-np.square(at[:, None] - at) / (2 * 0.3**2))
    lower, upper = (np.append(ends, side) for ends, side in zip(hydrogen_box(), (-_WIDE, _WIDE), strict=True))
    return PublishedCase(network, lower, upper, np.arange(10) < 9, None, 25.0 * np.eye(len(at)) + foreground**2 / 10)


def _normal(network: Generator, covariance: Array, at_most: float) -> PublishedCase:
    wide = np.full(network.latent_dim, _WIDE)
    return PublishedCase(network, -wide, wide, np.zeros(len(wide), dtype=bool), None, covariance, at_most)


def gengli() -> PublishedCase:
    """All samples, whose noise is independent, of deviations two decades apart."""
    network = gengli_decoder()
    _, sigma = observed(network, network.typical_codes, True, 0, "gengli")  # G(0) is a hundred times smaller
    return _normal(network, sigma, 1.2)


def gengli_coloured() -> PublishedCase:
    """Noise that is correlated over some samples, and an amplitude of the burst."""
    network = unrelu.extend(gengli_decoder(), scale=(0.8, 1.25))
    size = 0.05 * np.sqrt(np.square(network.typical_outputs).mean())
    colour = scipy.linalg.toeplitz(0.8 ** np.arange(network.output_dim))
    return _normal(network, size**2 * colour, 1.0)


@dataclass(frozen=True)
class PublishedProblem:
    """A case by name.

    Attributes:
        module: that has to be installed.
        case: makes it.
        count, few: observations, and those that SciPy's fits are given.
        starts: of SciPy's, one or ten.
        most: evaluations of such a fit; None: as many as it needs.
    """

    module: str
    case: Callable[[], PublishedCase]
    count: int
    few: int
    starts: int
    most: int | None = None


PROBLEMS = {
    "CMB spectrum": PublishedProblem("cosmopower_jax", cmb, 40, 5, 10),
    "21-cm brightness": PublishedProblem("py21cmemu", brightness, 40, 2, 10),
    "gengli": PublishedProblem("gengli", gengli, 1, 1, 1, MOST),
    "gengli, coloured noise": PublishedProblem("gengli", gengli_coloured, 1, 1, 1, MOST),
}


def _units(command: Command) -> list[Unit]:
    return [(name,) for name in command.parts or PROBLEMS if installed(PROBLEMS[name].module)]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    name = str(unit[0])
    problem = PROBLEMS[name]
    case, count = problem.case(), min(problem.count, command.count(problem.count, 1))
    few, most = min(problem.few, count), QUICK_MOST if command.quick else problem.most
    starts = 1 if command.quick else problem.starts
    truth, y = case.simulated(count, command.seed, name)
    peer, stated = case.peer(most), case.stated()
    with computing(one_thread=True):
        invert(case.network, y[:1], **stated)  # compiles, and learns
        begin = time.process_time()
        found = invert(case.network, y, **stated)
        seconds = time.process_time() - begin
        draw = random("published starts", command.seed, name)
        begin = time.process_time()
        runs = np.array([[peer.fit(row, case.drawn(draw, 1)[0]) for _ in range(starts)] for row in y[:few]])
        seconds_of_peer = time.process_time() - begin
    at_truth = case.at_most * peer.objective(truth, y)
    theirs = peer.best(runs, y[:few])
    return {
        "problem": name, "observations": count, "few": few, "starts": starts, "at most": case.at_most,
        "evaluations": most, "reached": float((peer.objective(found.z, y) <= at_truth).mean()),
        "of truth": (peer.objective(found.z, y) / at_truth * case.at_most).tolist(),
        "peer reached": float((peer.objective(theirs, y[:few]) <= at_truth[:few]).mean()),
        "success": float(np.mean(found.success)), "confidence": np.asarray(found.confidence).tolist(),
        "milliseconds": 1e3 * seconds / count, "peer milliseconds": 1e3 * seconds_of_peer / few,
    }  # fmt: skip


# --- tables -----------------------------------------------------------------------------------------------------------


def _missing(results: Results) -> str:
    """What was not measured, and how to have it measured."""
    measured = {PROBLEMS[r["problem"]].module for r in results["rows"]}
    needed = dict.fromkeys(problem.module for problem in PROBLEMS.values())
    return not_measured(module for module in needed if module not in measured)


def _table(results: Results) -> str:
    if not results["rows"]:
        return _missing(results)
    return table(
        ("problem", "observations", "chi-square / the truth's: median, most", "reached", "mean confidence", "ms",
         "SciPy's trf", "reached", "ms"),
        (
            (r["problem"], r["observations"], f"{np.median(r['of truth']):.3g}, {max(r['of truth']):.3g}",
             share(round(r["reached"] * r["observations"]), r["observations"]),
             form(float(np.mean(r["confidence"])), ".2f"), short(r["milliseconds"]),
             f"x{r['starts']}, {counted(r['few'], 'observation')}"
             + (f", {r['evaluations']} evaluations" if r["evaluations"] else ""),
             f"{round(r['peer reached'] * r['few'])} of {r['few']}", short(r["peer milliseconds"]))
            for r in results["rows"]
        ),
    )  # fmt: skip


BENCHMARK = Benchmark(units=_units, measure=_measure, blocks={"published fits": _table}, parts=tuple(PROBLEMS))
