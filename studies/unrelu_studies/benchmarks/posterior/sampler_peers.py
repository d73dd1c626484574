"""Samplers of others, on the posterior of a decoder relu(W_2 relu(W_1 z)) under Gaussian noise.

Each is compiled, and run on a first observation before it is timed. All chains start at draws from the prior.

* ``NumPyro NUTS``: dense metric, learned in its warm-up, in double precision on the CPU (Phan, Pradhan and Jankowiak,
  2019; Hoffman and Gelman, 2014).
* ``nutpie``: its NUTS on a function compiled by Numba that returns the density and its gradient.

They are no dependencies of the package: ``pip install numpyro nutpie``.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from unrelu.runtime.array_types import Array
from unrelu.runtime.compilation import kernel
from unrelu_studies.kit.random_instances import random
from unrelu_studies.kit.timing import processor_seconds, timed

# Chains, iterations of warm-up and draws of a chain, of NUTS.
_NUTS, _QUICK_NUTS = (4, 500, 1000), (2, 50, 50)


@dataclass(frozen=True, eq=False)
class DenseDecoder:
    """y = relu(W_2 relu(W_1 z)) + e, e ~ N(0, sigma^2), z ~ N(0, I).

    Attributes:
        w1, w2: (h, k) and (m, h).
        sigma: the noise.
    """

    w1: Array
    w2: Array
    sigma: float


class PeerRun(NamedTuple):
    """Draws (chain, draw, k), and the seconds of the processor for them, warm-up and all."""

    z: Array
    seconds: float


def _starts(decoder: DenseDecoder, seed: int, chains: int) -> Array:
    return random("posterior peers' starts", seed).standard_normal((chains, decoder.w1.shape[1]))


@cache
def _numpyro(chains: int, warm_up: int, draws: int) -> Any:
    """Its sampler, whose compiled functions take the observation as an argument."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    jax = importlib.import_module("jax")
    numpyro = importlib.import_module("numpyro")
    jax.config.update("jax_enable_x64", True)
    jnp, distributions = jax.numpy, numpyro.distributions

    def model(w1: Any, w2: Any, sigma: Any, y: Any) -> None:
        z = numpyro.sample("z", distributions.Normal(0.0, 1.0).expand([w1.shape[1]]).to_event(1))
        r = jax.nn.relu(w2 @ jax.nn.relu(w1 @ z)) - y
        numpyro.factor("likelihood", -0.5 * jnp.sum(r**2) / sigma**2)

    return numpyro.infer.MCMC(
        numpyro.infer.NUTS(model, dense_mass=True), num_warmup=warm_up, num_samples=draws, num_chains=chains,
        chain_method="sequential", progress_bar=False, jit_model_args=True,
    )  # fmt: skip


def numpyro_nuts(decoder: DenseDecoder, y: Array, seed: int, quick: bool) -> PeerRun:
    """NumPyro's NUTS with a dense metric."""
    size = _QUICK_NUTS if quick else _NUTS
    sampler = _numpyro(*size)
    jax = importlib.import_module("jax")
    starts = {"z": _starts(decoder, seed, size[0])}

    def run() -> Array:
        sampler.run(jax.random.PRNGKey(seed), decoder.w1, decoder.w2, decoder.sigma, y, init_params=starts)
        return np.asarray(sampler.get_samples(group_by_chain=True)["z"])

    return PeerRun(*timed(run, processor_seconds))


@kernel
def density_and_gradient(z: Array, w1: Array, w2: Array, sigma: float, y: Array) -> tuple[float, Array]:
    """log p(z | y) up to a constant, and its gradient, of one code."""
    a = np.dot(w1, z)
    u = np.dot(w2, np.maximum(a, 0.0))
    r = np.where(u > 0, np.maximum(u, 0.0) - y, 0.0)
    value = -0.5 * (np.maximum(u, 0.0) - y) @ (np.maximum(u, 0.0) - y) / sigma**2 - 0.5 * z @ z
    g = np.dot(w2.T, r) * (a > 0)
    return value, -np.dot(w1.T, g) / sigma**2 - z


@cache
def _nutpie(k: int) -> Any:
    """Its model, whose data are given later."""
    pyfunc = importlib.import_module("nutpie.compiled_pyfunc")
    nothing = np.zeros((0, 0))
    return pyfunc.from_pyfunc(
        k, lambda: density_and_gradient, lambda *seeds: lambda z, **data: {"z": z}, [np.dtype(np.float64)], [(k,)],
        ["z"], shared_data={"w1": nothing, "w2": nothing, "sigma": 1.0, "y": np.zeros(0)},
    )  # fmt: skip


def nutpie_nuts(decoder: DenseDecoder, y: Array, seed: int, quick: bool) -> PeerRun:
    """nutpie's NUTS with its own metric."""
    nutpie = importlib.import_module("nutpie")
    chains, warm_up, draws = _QUICK_NUTS if quick else _NUTS
    model = _nutpie(decoder.w1.shape[1]).with_data(w1=decoder.w1, w2=decoder.w2, sigma=decoder.sigma, y=y)

    def run() -> Array:
        found = nutpie.sample(
            model, draws=draws, tune=warm_up, chains=chains, cores=1, seed=seed, progress_bar=False, save_warmup=False
        )
        return np.asarray(found.posterior["z"].values)

    return PeerRun(*timed(run, processor_seconds))


# By name, with the module that each needs.
SAMPLER_PEERS: dict[str, tuple[Callable[[DenseDecoder, Array, int, bool], PeerRun], str]] = {
    "NumPyro NUTS": (numpyro_nuts, "numpyro"),
    "nutpie": (nutpie_nuts, "nutpie"),
}


def peers_installed() -> list[str]:
    """Those that can be run."""
    return [name for name, (_, module) in SAMPLER_PEERS.items() if importlib.util.find_spec(module) is not None]
