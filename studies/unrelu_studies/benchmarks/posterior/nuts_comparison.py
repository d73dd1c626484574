"""Means and deviations of parameters beside NumPyro's NUTS on the same density: emulators in a box, noise stated.

``unrelu.posterior`` and NUTS (Hoffman and Gelman, 2014; dense metric, double precision, one thread) each sample a few
observations. Parameters are uniform in their box. Emulators of the studies are written out in JAX; CosmoPower-JAX's
network of the cosmic microwave background is its own, with 1% of its output as noise, so that nothing of the package
is in the density that NUTS samples. NumPyro is no dependency: ``pip install numpyro cosmopower-jax``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import unrelu
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.runtime.host import computing
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.benchmarks.measurements.emulator_fits import REPORT
from unrelu_studies.kit.emulators import EMULATORS, emulator, observed
from unrelu_studies.kit.markdown_tables import aims, short, table
from unrelu_studies.kit.random_instances import random
from unrelu_studies.kit.timing import processor_seconds, timed
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]

NAMES = REPORT
COUNT, QUICK_COUNT = 2, 1
# Chains, iterations of warm-up and draws of a chain, of NUTS; draws of each of our eight chains.
NUTS, QUICK_NUTS = (4, 1500, 2500), (2, 100, 100)
DRAWS, QUICK_DRAWS = 2000, 100
MISSING = "Not measured: NumPyro was not installed (`pip install numpyro`)."


class SampledEmulator(NamedTuple):
    """A generator in its box, and the same written in JAX, a function of one code."""

    network: Generator
    lower: Array
    upper: Array
    in_jax: Callable[[Any], Any]


def _units(command: Command) -> list[Unit]:
    if find_spec("numpyro") is None:
        return []
    count = command.count(COUNT, QUICK_COUNT)
    return [(name, i) for name in command.parts or NAMES for i in range(count)]


def _of_studies(name: str) -> SampledEmulator:
    network, about = emulator(name), EMULATORS[name]
    return SampledEmulator(network, np.array(about.lower), np.array(about.upper), dense_in_jax(network))


def dense_in_jax(network: Network) -> Callable[[Any], Any]:
    """A chain of dense layers in JAX."""
    jax = importlib.import_module("jax")
    layers = [(np.asarray(layer.matrix()), layer.bias(), layer.activation) for layer in network.layers]

    def value(z: Any) -> Any:
        for weight, bias, activation in layers:
            u = weight @ z + bias
            z = jax.numpy.tanh(u) if activation.name == "tanh" else jax.numpy.where(u > 0, u, activation.slope * u)
        return z

    return value


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    name, index = str(unit[0]), int(unit[1])
    sampled = _of_studies(name)
    width = sampled.upper - sampled.lower
    truth = sampled.lower + width * random("nuts truth", command.seed, name, index).random((1, len(width)))
    y, sigma = observed(sampled.network, truth, True, command.seed, f"nuts {name} {index}")
    with computing(one_thread=True):
        ours, seconds = timed(
            lambda: unrelu.posterior(
                sampled.network, y[0], noise=unrelu.Gaussian(sigma), bounds=(sampled.lower, sampled.upper),
                draws=QUICK_DRAWS if command.quick else DRAWS, seed=command.seed,
            ),
            processor_seconds,
        )  # fmt: skip
        theirs, seconds_of_nuts = timed(
            lambda: _nuts(sampled, y[0], sigma, command.seed, QUICK_NUTS if command.quick else NUTS), processor_seconds
        )
    deviation = theirs.std(axis=(0, 1))
    return {
        "emulator": name, "index": index, "parameters": len(width), "status": ours.status.name,
        "means": (np.abs(ours.mean - theirs.mean(axis=(0, 1))) / deviation).tolist(),
        "deviations": (ours.std / deviation).tolist(),
        "r-hat": float(np.max(_split_rhat(theirs))), "ess": float(np.min(ours.ess)),
        "seconds": {"unrelu.posterior": seconds, "NumPyro NUTS": seconds_of_nuts},
    }  # fmt: skip


def _nuts(sampled: SampledEmulator, y: Array, sigma: Array, seed: int, size: tuple[int, int, int]) -> Array:
    """Draws (chains, draws, k) of NUTS, which starts at uniform draws."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    jax, numpyro = importlib.import_module("jax"), importlib.import_module("numpyro")
    jax.config.update("jax_enable_x64", True)
    width = sampled.upper - sampled.lower

    def model() -> None:
        t = numpyro.sample("t", numpyro.distributions.Uniform(0.0, 1.0).expand([len(width)]).to_event(1))
        r = (sampled.in_jax(sampled.lower + width * t) - y) / sigma
        numpyro.factor("likelihood", -0.5 * jax.numpy.sum(r**2))

    chains, warm_up, draws = size
    kernel = numpyro.infer.NUTS(model, dense_mass=True, target_accept_prob=0.9)
    sampler = numpyro.infer.MCMC(
        kernel, num_warmup=warm_up, num_samples=draws, num_chains=chains, chain_method="sequential", progress_bar=False
    )
    sampler.run(jax.random.PRNGKey(seed))
    return np.asarray(sampled.lower + width * np.asarray(sampler.get_samples(group_by_chain=True)["t"]))


def _split_rhat(draws: Array) -> Array:
    """Gelman and Rubin's, of chains cut into halves, (k,)."""
    halves = np.concatenate(np.array_split(draws[:, : draws.shape[1] // 2 * 2], 2, axis=1))
    within, between = halves.var(axis=1, ddof=1).mean(axis=0), halves.mean(axis=1).var(axis=0, ddof=1)
    return np.asarray(np.sqrt((halves.shape[1] - 1) / halves.shape[1] + between / within))


# --- tables -----------------------------------------------------------------------------------------------------------


def _aims(results: Results) -> str:
    rows = results["rows"]
    if not rows:
        return MISSING
    mixed = [r for r in rows if r["r-hat"] < 1.02]
    said: tuple[Any, ...] = ("NUTS mixed on none", None), ("NUTS mixed on none", None)
    if mixed:
        means, off = max(max(r["means"]) for r in mixed), max(abs(x - 1) for r in mixed for x in r["deviations"])
        said = (f"{means:.3f} at most", means <= 0.1), (f"{100 * off:.1f}% at most", off <= 0.1)
    return aims(
        [
            ("means within .1 standard deviation of NUTS's", *said[0]),
            ("standard deviations within 10% of NUTS's", *said[1]),
            ("observations on which NUTS mixed (R-hat below 1.02)", f"{len(mixed)} of {len(rows)}", None),
        ]
    )


def _table(results: Results) -> str:
    if not results["rows"]:
        return MISSING
    return table(
        ("emulator", "parameters", "status", "means off by", "deviations", "R-hat of NUTS", "s", "s, NUTS"),
        (
            (r["emulator"], r["parameters"], r["status"], f"{max(r['means']):.3f}",
             f"{min(r['deviations']):.2f} to {max(r['deviations']):.2f}", f"{r['r-hat']:.3f}",
             *(short(s) for s in r["seconds"].values()))
            for r in results["rows"]
        ),
    )  # fmt: skip


BENCHMARK = Benchmark(
    units=_units, measure=_measure, blocks={"nuts aims": _aims, "nuts observations": _table}, parts=NAMES
)
