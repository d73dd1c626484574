"""Means and deviations of parameters beside NumPyro's NUTS on the same density: emulators in a box, noise stated.

``unrelu.posterior`` and NUTS (Hoffman and Gelman, 2014; dense metric, double precision, one thread) each sample a few
observations. Parameters are uniform in their box. Emulators of the studies are written out in JAX; CosmoPower-JAX's
network of the cosmic microwave background is its own, so that nothing of ours computes the outputs that NUTS sees.
NumPyro is no dependency: ``pip install numpyro cosmopower-jax``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import unrelu
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array
from unrelu.runtime.host import computing
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.benchmarks.measurements.published_fits import PublishedCase, cmb
from unrelu_studies.kit.emulators import EMULATORS, emulator, observed
from unrelu_studies.kit.markdown_tables import short, table
from unrelu_studies.kit.published_emulators import installed
from unrelu_studies.kit.random_instances import random
from unrelu_studies.kit.timing import processor_seconds, timed
from unrelu_studies.kit.unit_runner import Unit

CMB = "CMB spectrum"
NAMES = ("dust", CMB)
COUNT, QUICK_COUNT = 1, 1
# Chains, iterations of warm-up and draws of a chain, of NUTS; draws of each of our eight chains.
NUTS, QUICK_NUTS = (2, 500, 1000), (2, 100, 100)
DRAWS, QUICK_DRAWS = 1000, 100
MIXED = 1.02  # R-hat of NUTS; above, there is nothing to compare with
MISSING = "Not measured: NumPyro was not installed (`pip install numpyro`)."


class SampledEmulator(NamedTuple):
    """A problem, and A G(z) written in JAX, a function of one code."""

    case: PublishedCase
    in_jax: Callable[[Any], Any]


def _units(command: Command) -> list[Unit]:
    if not installed("numpyro"):
        return []
    count = command.count(COUNT, QUICK_COUNT)
    names = command.parts or [name for name in NAMES if name != CMB or installed("cosmopower_jax")]
    return [(name, i) for name in names for i in range(count)]


def _sampled(name: str, seed: int) -> SampledEmulator:
    if name == CMB:
        return SampledEmulator(cmb(), _cmb_in_jax())
    network, about = emulator(name), EMULATORS[name]
    lower, upper = np.array(about.lower), np.array(about.upper)
    draws = lower + (upper - lower) * random("nuts sigma", seed, name).random((50, len(lower)))
    _, sigma = observed(network, draws, True, seed, name)
    case = PublishedCase(network, lower, upper, np.ones(len(lower), dtype=bool), None, sigma)
    return SampledEmulator(case, dense_in_jax(network))


def _cmb_in_jax() -> Callable[[Any], Any]:
    """The spectrum by CosmoPower-JAX itself, calibrated and binned."""
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    predict = importlib.import_module("cosmopower_jax.cosmopower_jax").CosmoPowerJAX(probe="cmb_tt").predict
    window = cmb().operator

    def value(z: Any) -> Any:
        calibration = 0.98 + 0.04 * jax.scipy.stats.norm.cdf(z[6])
        return window @ (calibration * predict(z[:6]).ravel())

    return value


def dense_in_jax(network: Network) -> Callable[[Any], Any]:
    """A chain of dense layers in JAX."""
    jax = importlib.import_module("jax")
    layers = [(np.asarray(layer.matrix()), layer.bias(), layer.activation) for layer in network.layers]

    def value(z: Any) -> Any:
        for weight, bias, activation in layers:
            u = weight @ z + bias
            if activation.name == "tanh":
                z = jax.numpy.tanh(u)
            elif not activation.smooth:
                z = jax.numpy.where(u > 0, u, activation.slope * u)
            else:
                z = u * (activation.slope + (1 - activation.slope) * jax.nn.sigmoid(activation.steepness * u))
        return z

    return value


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    name, index = str(unit[0]), int(unit[1])
    sampled = _sampled(name, command.seed)
    case = sampled.case
    _, y = case.simulated(index + 1, command.seed, f"nuts {name}")
    draws = QUICK_DRAWS if command.quick else DRAWS
    with computing(one_thread=True):
        ours, seconds = timed(
            lambda: unrelu.posterior(case.network, y[index], draws=draws, seed=command.seed, **case.stated()),
            processor_seconds,
        )
        theirs, seconds_of_nuts = timed(
            lambda: _nuts(sampled, y[index], command.seed, QUICK_NUTS if command.quick else NUTS), processor_seconds
        )
    deviation = theirs.std(axis=(0, 1))
    return {
        "emulator": name, "index": index, "parameters": len(case.lower), "status": ours.status.name,
        "means": (np.abs(ours.mean - theirs.mean(axis=(0, 1))) / deviation).tolist(),
        "deviations": (ours.std / deviation).tolist(),
        "r-hat": float(np.max(_split_rhat(theirs))), "ess": float(np.min(ours.ess)),
        "seconds": {"unrelu.posterior": seconds, "NumPyro NUTS": seconds_of_nuts},
    }  # fmt: skip


def _nuts(sampled: SampledEmulator, y: Array, seed: int, size: tuple[int, int, int]) -> Array:
    """Draws (chains, draws, k) of NUTS, which starts at uniform draws; coordinates without bounds are N(0, 1)."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    jax, numpyro = importlib.import_module("jax"), importlib.import_module("numpyro")
    jax.config.update("jax_enable_x64", True)
    case, whitening = sampled.case, sampled.case.whitening
    distributions, k = numpyro.distributions, len(sampled.case.lower)

    def model() -> None:
        t = numpyro.sample("t", distributions.Uniform(0.0, 1.0).expand([k]).to_event(1))
        u = numpyro.sample("u", distributions.Normal(0.0, 1.0).expand([k]).to_event(1))
        z = numpyro.deterministic("z", jax.numpy.where(case.bounded, case.lower + (case.upper - case.lower) * t, u))
        r = y - sampled.in_jax(z)
        r = whitening @ r if whitening.ndim == 2 else whitening * r
        numpyro.factor("likelihood", -0.5 * jax.numpy.sum(r**2))

    chains, warm_up, draws = size
    kernel = numpyro.infer.NUTS(model, dense_mass=True, target_accept_prob=0.9)
    sampler = numpyro.infer.MCMC(
        kernel, num_warmup=warm_up, num_samples=draws, num_chains=chains, chain_method="sequential", progress_bar=False
    )
    sampler.run(jax.random.PRNGKey(seed))
    return np.asarray(sampler.get_samples(group_by_chain=True)["z"])


def _split_rhat(draws: Array) -> Array:
    """Gelman and Rubin's, of chains cut into halves, (k,)."""
    halves = np.concatenate(np.array_split(draws[:, : draws.shape[1] // 2 * 2], 2, axis=1))
    within, between = halves.var(axis=1, ddof=1).mean(axis=0), halves.mean(axis=1).var(axis=0, ddof=1)
    return np.asarray(np.sqrt((halves.shape[1] - 1) / halves.shape[1] + between / within))


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(results: Results) -> str:
    if not results["rows"]:
        return MISSING
    return table(
        ("emulator", "parameters", "status", "means off by", "standard deviations / NUTS's", "R-hat of NUTS",
         "seconds", "seconds of NUTS"),
        (
            (r["emulator"], r["parameters"], r["status"], f"{max(r['means']):.3f}",
             f"{min(r['deviations']):.2f} to {max(r['deviations']):.2f}", f"{r['r-hat']:.3f}",
             *(short(s) for s in r["seconds"].values()))
            for r in results["rows"] if r["r-hat"] < MIXED
        ),
    )  # fmt: skip


BENCHMARK = Benchmark(units=_units, measure=_measure, blocks={"nuts observations": _table}, parts=(*EMULATORS, CMB))
