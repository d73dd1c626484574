"""Fits of emulators inside their box: ``auto`` beside SciPy's bounded least squares with 1, 10 and 60 starts.

Every observation is fitted twice: without noise, where an exact fit is what counts, and with Gaussian noise whose
deviation differs for every output, by two decades, and is stated. The best known objective is the least of all that are
compared and of a descent from the truth. Times are CPU times of one thread.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from unrelu import Gaussian, invert
from unrelu.models.network import Network
from unrelu.runtime.host import computing
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.benchmarks.measurements import gengli_fits
from unrelu_studies.kit.emulators import EMULATORS, emulator, observed
from unrelu_studies.kit.gengli_decoder import GENGLI, installed
from unrelu_studies.kit.markdown_tables import aims, per_cent, short, table
from unrelu_studies.kit.random_instances import random
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]

COUNT, QUICK_COUNT = 100, 4
STARTS, QUICK_STARTS = (1, 10, 60), (1, 2, 4)
# A fit is exact whose largest residual is this fraction of the largest output; a code is the best if its objective is
# within this share of the best known.
EXACT, WITHIN = 1e-8, 1e-2
TIGHT = 1e-12  # tolerances of SciPy's, for exact fits; its default, 1e-8, ends before


def _units(command: Command) -> list[Unit]:
    names = [*EMULATORS, *([GENGLI] if installed() and not command.quick else [])]
    return [(name, noisy) for name in names for noisy in (False, True)]


def _collect(command: Command, parts: list[Any]) -> Results:
    return {key: [row for row in parts if (row["emulator"] == GENGLI) == (key == GENGLI)] for key in ("rows", GENGLI)}


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    name, noisy = str(unit[0]), bool(unit[1])
    if name == GENGLI:
        return gengli_fits.measure(command, noisy)
    network, count = emulator(name), command.count(COUNT, QUICK_COUNT)
    starts = QUICK_STARTS if command.quick else STARTS
    lower, upper = np.array(EMULATORS[name].lower), np.array(EMULATORS[name].upper)
    truth = lower + (upper - lower) * random("emulator truth", command.seed, name).random((count, len(lower)))
    y, sigma = observed(network, truth, noisy, command.seed, name)
    peer = _Peer(network, lower, upper, sigma)
    with computing(one_thread=True):
        invert(network, y[:2], bounds=(lower, upper), noise=Gaussian(sigma) if noisy else None)  # compiles, and draws
        begin = time.process_time()
        found = invert(network, y, bounds=(lower, upper), noise=Gaussian(sigma) if noisy else None)
        seconds = {"auto": time.process_time() - begin}
        runs, seconds_each = peer.runs(y, starts[-1], command.seed, name)
    size = np.abs(y).max(axis=1)
    inside = bool(((found.z >= lower) & (found.z <= upper)).all())
    codes = {"auto": found.z, **{f"trf x{n}": _best(runs[:, :n], peer, y) for n in starts}}
    seconds |= {f"trf x{n}": float(seconds_each[:, :n].sum()) for n in starts}
    objectives = {method: peer.objective(z, y) for method, z in codes.items()}
    best = np.min([peer.objective(truth, y), *objectives.values()], axis=0)
    largest = {method: np.abs(network(z) - y).max(axis=1) for method, z in codes.items()}
    return {
        "emulator": name, "noisy": noisy, "observations": count, "inside": inside,
        "exact": {m: float((r <= EXACT * size).mean()) for m, r in largest.items()},
        "best": {m: float((f <= (1 + WITHIN) * best + EXACT * size**2).mean()) for m, f in objectives.items()},
        "below truth": float((objectives["auto"] <= peer.objective(truth, y)).mean()),
        "success": float(np.mean(found.success)), "sure": float((np.asarray(found.confidence) >= 0.99).mean()),
        "milliseconds": {m: 1e3 * s / count for m, s in seconds.items()},
    }  # fmt: skip


class _Peer:
    """SciPy's trust region reflective method on parameters scaled to the unit cube, with the exact Jacobian."""

    def __init__(self, network: Network, lower: Array, upper: Array, sigma: Array) -> None:
        self.lower, self.width, self.sigma = lower, upper - lower, sigma
        self.layers = [
            (np.asarray(layer.matrix()), layer.bias(), float(layer.activation.slope)) for layer in network.layers
        ]

    def forward(self, t: Array) -> Array:
        """Outputs at one code of the cube, in units of the noise."""
        h = self.lower + self.width * t
        for weight, bias, slope in self.layers:
            u = weight @ h + bias
            h = np.where(u > 0, u, slope * u)
        return h / self.sigma

    def jacobian(self, t: Array) -> Array:
        """Their derivatives, (n, k)."""
        h, rows = self.lower + self.width * t, np.diag(self.width)
        for weight, bias, slope in self.layers:
            u, rows = weight @ h + bias, weight @ rows
            if slope != 1:
                h, rows = np.where(u > 0, u, slope * u), np.where(u > 0, 1.0, slope)[:, None] * rows
        return rows / self.sigma[:, None]

    def objective(self, z: Array, y: Array) -> Array:
        """|(y - G(z)) / sigma|_2^2 of codes in their own units, (B,)."""
        outputs = np.array([self.forward((row - self.lower) / self.width) for row in z])
        return np.asarray(np.square(outputs - y / self.sigma).sum(axis=1))

    def runs(self, y: Array, starts: int, seed: int, name: str) -> tuple[Array, Array]:
        """Codes (B, starts, k) from uniform draws, and the seconds of each run, (B, starts)."""
        draws = random("emulator starts", seed, name).random((len(y), starts, len(self.lower)))
        codes, seconds = np.empty_like(draws), np.empty(draws.shape[:2])
        for i, row in enumerate(y / self.sigma):
            for j, start in enumerate(draws[i]):
                begin = time.process_time()
                run = least_squares(
                    lambda t, row=row: self.forward(t) - row, start, self.jacobian, (0.0, 1.0), "trf",
                    ftol=TIGHT, xtol=TIGHT, gtol=TIGHT,
                )  # fmt: skip
                seconds[i, j] = time.process_time() - begin
                codes[i, j] = self.lower + self.width * run.x
        return codes, seconds


def _best(runs: Array, peer: _Peer, y: Array) -> Array:
    values = np.array([peer.objective(runs[:, j], y) for j in range(runs.shape[1])])
    return np.asarray(runs[np.arange(len(runs)), values.argmin(axis=0)])


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(results: Results) -> str:
    rows = results["rows"]
    methods = list(rows[0]["milliseconds"])
    columns = ("emulator", "noise", "observations", "share of", *methods)
    return table(
        columns,
        (
            (r["emulator"], "stated" if r["noisy"] else "none", r["observations"],
             "best codes" if r["noisy"] else "exact fits",
             *(f"{per_cent((r['best'] if r['noisy'] else r['exact'])[m])}, {short(r['milliseconds'][m])} ms"
               for m in methods))
            for r in rows
        ),
    )  # fmt: skip


def _aims(results: Results) -> str:
    rows = results["rows"]
    clean, noisy = [r for r in rows if not r["noisy"]], [r for r in rows if r["noisy"]]
    one, ten, sixty = list(rows[0]["milliseconds"])[1:]
    fewer = [r["emulator"] for r in clean if r["exact"]["auto"] < r["exact"][sixty]]
    slower = max(r["milliseconds"]["auto"] / r["milliseconds"][ten] for r in rows)
    below = min(r["below truth"] for r in noisy)
    wrong = [
        f"{r['emulator']} {per_cent(1 - (r['best'] if r['noisy'] else r['exact'])[one])}"
        f"{' with noise' if r['noisy'] else ''}"
        for r in rows
    ]
    return aims(
        [
            (f"at least as many exact fits as {sixty}", ", ".join(fewer) or "all", not fewer),
            (f"in at most the time of {ten}", f"{slower:.2f} of it at most", slower <= 1),
            ("noisy objectives at or below the truth's: 98%", per_cent(below), below >= 0.98),
            ("every code inside its bounds", "yes" if all(r["inside"] for r in rows) else "no",
             all(r["inside"] for r in rows)),
            ("fits from one start that are not the best", ", ".join(wrong), None),
        ]
    )  # fmt: skip


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={"emulators aims": _aims, "emulators fits": _table, "emulators gengli": gengli_fits.fits_of_gengli},
    collect=_collect,
)
