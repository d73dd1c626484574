"""Phase retrieval: codes from the magnitudes |F x| of complex measurements, by ``auto`` and by Adam with ten starts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import unrelu
from unrelu.models.generator import Generator
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.kit.markdown_tables import form, per_cent, table
from unrelu_studies.kit.measures import relative_error
from unrelu_studies.kit.timing import one_thread, processor_seconds, timed
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]

GENERATOR = "mnist-relu"
MEASUREMENTS = 200
# Observations of a cell, those of them that Adam is given, which takes long, and those of a quick run.
OBSERVATIONS, OF_ADAM, QUICK = 100, 25, 3
KINDS, NOISES = ("gaussian", "fourier"), (0.0, 0.02)
# CSGM's settings for MNIST, and a rate ten times as large: 1,000 steps from each of ten starts both times.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "auto": ("auto", {}),
    "adam": ("adam", {}),
    "adam, rate 0.1": ("adam", {"learning_rate": 0.1}),
}
# A code is found that is off by at most so much of its length; of noisy observations, whose objective is at most so
# much above the lowest that is known.
_FOUND, _LOWEST = 1e-3, 0.01


class PhaseInstance(NamedTuple):
    """Observations of one kind.

    Attributes:
        magnitudes: the measurement, a function of PyTorch.
        z: true codes, (B, k).
        y: (B, m).
        sigma: the standard deviation of the noise.
    """

    magnitudes: Callable[[Tensor], Tensor]
    z: Array
    y: Array
    sigma: float

    def first(self, count: int) -> PhaseInstance:
        """The first observations alone."""
        return self._replace(z=self.z[:count], y=self.y[:count])


def rows(kind: str, m: int, side: int, rng: np.random.Generator) -> npt.NDArray[np.complex128]:
    """m complex measurements of a picture of side x side, (m, side^2).

    Args:
        kind: "gaussian": independent entries of variance 1 / side^2; "fourier": so many frequencies of the
            two-dimensional discrete Fourier transform, no two of which have the same magnitude for each real picture.
        m: how many.
        side: of the picture.
        rng: of the draws.
    """
    n = side * side
    if kind == "gaussian":
        drawn = rng.standard_normal((2, m, n)) / np.sqrt(2 * n)
        return np.asarray(drawn[0] + 1j * drawn[1])
    places = np.arange(n).reshape(side, side)
    partner = places[-np.arange(side)][:, -np.arange(side)]  # of a real picture, the conjugate
    chosen = rng.choice(np.flatnonzero((places <= partner).ravel()), m, replace=False)
    one = np.exp(-2j * np.pi * np.outer(np.arange(side), np.arange(side)) / side)
    return np.asarray(np.kron(one, one)[chosen] / side)


def draw(network: Generator, kind: str, noise: float, count: int, seed: int) -> PhaseInstance:
    """Observations |F x| + e of generated pictures, e of ``noise`` times their root mean square."""
    side = round(network.output_dim**0.5)
    f = rows(kind, MEASUREMENTS, side, stream("phase retrieval, measurements", seed, kind))
    real, imaginary = torch.from_numpy(f.real.copy()), torch.from_numpy(f.imag.copy())

    def magnitudes(x: Tensor) -> Tensor:
        x = x.flatten(1)
        return torch.hypot(x @ real.to(x.dtype).T, x @ imaginary.to(x.dtype).T)

    z = stream("phase retrieval, codes", seed, kind).standard_normal((count, network.latent_dim))
    clean = np.abs(network(z).reshape(count, -1) @ f.T)
    sigma = noise * float(np.sqrt(np.square(clean).mean()))
    e = stream("phase retrieval, noise", seed, kind).standard_normal(clean.shape)
    return PhaseInstance(magnitudes, z, clean + sigma * e, sigma)


def _units(command: Command) -> list[Unit]:
    """A kind of measurement, a noise and a method each."""
    return [(kind, noise, method) for kind in KINDS for noise in NOISES for method in METHODS]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    kind, noise, label = str(unit[0]), float(unit[1]), str(unit[2])
    network = unrelu.zoo.load(GENERATOR)
    instance = draw(network, kind, noise, command.count(OBSERVATIONS, QUICK), command.seed)
    name, options = METHODS[label]
    instance = instance if name == "auto" else instance.first(OF_ADAM)
    given: dict[str, Any] = {"operator": instance.magnitudes, "noise": f"gaussian:{instance.sigma}" if noise else None}
    unrelu.invert(
        network, instance.y[:1], operator=instance.magnitudes
    )  # samples of the generator, for all that follow
    with one_thread():
        result, seconds = timed(
            partial(unrelu.invert, network, instance.y, name, seed=command.seed, **given, **options), processor_seconds
        )
    near = unrelu.invert(network, instance.y, "lm", z0=instance.z, **given)
    x, truth = (network(z).reshape(len(z), -1) for z in (result.z, instance.z))
    return {
        "kind": kind, "noise": noise, "method": label, "seconds": seconds,
        "error": relative_error(result.z, instance.z).tolist(), "picture": relative_error(x, truth).tolist(),
        "fun": result.fun.tolist(), "near": near.fun.tolist(), "success": result.success.tolist(),
        "confidence": result.confidence.tolist() if name == "auto" else None,
    }  # fmt: skip


def _table(results: Results) -> str:
    found = results["rows"]
    lowest: dict[tuple[str, float], Array] = {}
    for row in found:  # of a cell, first the method that is given all observations
        least, size = np.minimum(row["fun"], row["near"]), len(row["fun"])
        known = lowest.setdefault((row["kind"], row["noise"]), least)
        known[:size] = np.minimum(known[:size], least)
    return table(
        ("F", "noise", "method", "observations", "found", "`success`", "median error of the code", "of the picture",
         "milliseconds of the processor an observation"),
        (
            (
                row["kind"], f"{row['noise']:.0%}", f"`{row['method']}`", len(row["fun"]),
                per_cent(float(_found(row, lowest[row["kind"], row["noise"]]).mean())),
                per_cent(float(np.mean(row["success"]))),
                form(float(np.median(row["error"])), ".1e"), form(float(np.median(row["picture"])), ".1e"),
                form(1000 * row["seconds"] / len(row["error"]), ".3g"),
            )
            for row in found
        ),
    )  # fmt: skip


def _found(row: Results, lowest: Array) -> npt.NDArray[np.bool_]:
    """Of each observation: without noise the true code, with noise the lowest objective that is known."""
    if not row["noise"]:
        return np.asarray(row["error"]) <= _FOUND
    return np.asarray(row["fun"]) <= (1 + _LOWEST) * lowest[: len(row["fun"])]


BENCHMARK = Benchmark(units=_units, measure=_measure, blocks={"phase_retrieval": _table})
