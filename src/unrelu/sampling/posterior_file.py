"""Posteriors as files: the draws with their log-likelihoods and modes, and the problem.

As in the file of a result, the network is not in it but its fingerprint. The likeliest draw of each observation is kept
with its output, which shows whether a network is the same.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unrelu.models.generator import Generator
from unrelu.problem import Problem
from unrelu.result import Status
from unrelu.result.saved_problem import problem_arrays, read_problem, sizes_in
from unrelu.runtime.archives import Table, array_of, columns_of, read_archive, texts_of, write_archive
from unrelu.runtime.array_types import Array
from unrelu.sampling.sampled_chains import SampledChains

# Arrays of a file: their types, their least and their largest numbers.
_COLUMNS: dict[str, tuple[Any, float, float]] = {
    "z": (np.float64, math.nan, math.nan), "from_prior": (np.bool_, 0, 1), "mode": (np.int64, -math.inf, math.inf),
    **dict.fromkeys(("log_likelihood", "log_evidence"), (np.float64, -math.inf, math.inf)),
    **dict.fromkeys(("log_evidence_error", "seconds"), (np.float64, 0.0, math.inf)),
    **dict.fromkeys(("acceptance", "overlooked", "p_value"), (np.float64, 0.0, 1.0)),
}  # fmt: skip
# Why a sampling can have been cut short; an empty text is that it was not.
_ENDED = {"": None, **{status.name: status for status in (Status.TIME_LIMIT, Status.STOPPED, Status.ERROR)}}
# Draws of each observation whose log-likelihoods are computed again, and by which share of themselves they may be off,
# in double and in single precision.
_CHECKED, _DOUBLE, _SINGLE = 16, 1e-6, 1e-3


def write_posterior_file(path: Path, chains: SampledChains) -> None:
    """Write the draws of a batch; the file appears complete or not at all.

    Raises:
        InputError: the suffix is not .npz, the folder does not exist, or the posterior was loaded without its network.
        StorageError: the disk is full or cannot be written to.
    """
    outputs = chains.problem.network.outputs(_likeliest(chains))
    table: dict[str, Any] = {
        **problem_arrays(chains.problem, outputs), **{name: getattr(chains, name) for name in _COLUMNS},
        "likeliest": outputs,
        "ended": np.array([status.name if status else "" for status in chains.ended], dtype=np.str_),
        "best": np.concatenate([np.zeros((0, chains.problem.network.latent_dim)), *chains.best]),
        "best.counts": np.array([len(codes) for codes in chains.best], dtype=np.int64),
    }  # fmt: skip
    write_archive(path, "posterior", table)


def read_posterior_file(
    path: Path, max_bytes: int, network: Generator | None, operator: Any
) -> tuple[SampledChains, Array]:
    """Read the draws of a batch, and the outputs of the likeliest ones, (B, *output_shape); check them for damage.

    Raises:
        InputError: see :func:`unrelu.load_posterior`.
    """
    return read_archive(path, "posterior", max_bytes, lambda table: _chains(table, network, operator))


def _chains(table: Table, network: Generator | None, operator: Any) -> tuple[SampledChains, Array]:
    size, latent, output = sizes_in(table)
    k = math.prod(latent)
    found: dict[str, Any] = columns_of(table, _COLUMNS)
    found["ended"] = np.array([_ENDED[text] for text in texts_of(table["ended"])], dtype=object)
    outputs, best = (array_of(table[name], np.float64) for name in ("likeliest", "best"))
    counts = array_of(table["best.counts"], np.int64)
    if outputs.shape != (size, *output):
        raise ValueError(f"likeliest has shape {outputs.shape}, not {(size, *output)}")
    if counts.shape != (size,) or (counts < 0).any() or best.shape != (counts.sum(), k) or not np.isfinite(best).all():
        raise ValueError(f"best has shape {best.shape}, or codes that are not finite")
    if found["z"].ndim != 4 or found["z"].shape[::3] != (size, k):  # before arrays of k numbers are made
        raise ValueError(f"z has shape {found['z'].shape}, y has {size} observations of codes {latent}")
    problem = read_problem(table, outputs, network, operator, "posterior")
    if ((found["z"] < problem.bounds.lower) | (found["z"] > problem.bounds.upper)).any():
        raise ValueError("a draw is outside of the bounds")
    return SampledChains(problem=problem, best=np.split(best, np.cumsum(counts))[:-1], **found), outputs


def _likeliest(chains: SampledChains) -> Array:
    """The likeliest draw of each observation, (B, k); NaN without draws."""
    found = np.full((chains.size, chains.z.shape[3]), np.nan)
    for i in range(chains.size):
        z, likelihood, _ = chains.kept(i)
        if likelihood.size:
            found[i] = z.reshape(-1, found.shape[1])[np.argmax(likelihood)]
    return found


def flaw_of_draws(chains: SampledChains, outputs: Array) -> str | None:
    """A sentence about the first number that does not follow from the draws; None if all that are checked do.

    Args:
        chains: the draws, with their network.
        outputs: G(z) of the likeliest draw of each observation, (B, *output_shape), as it was kept.
    """
    problem = chains.problem
    if not chains.size:
        return None
    share = _SINGLE if problem.network.dtype == torch.float32 else _DOUBLE
    again = problem.network.outputs(_likeliest(chains))
    size = np.nanmax(np.abs(again), initial=0.0)
    same = np.isclose(again, outputs, rtol=0, atol=share * size, equal_nan=True).reshape(chains.size, -1).all(axis=1)
    if not same.all():
        return f"G(z) of the likeliest draw of observation {int(np.argmin(same))} is another one than in the file"
    for i in range(chains.size):
        z, likelihood, _ = chains.kept(i)
        if not likelihood.size:
            continue
        places = ((np.arange(_CHECKED) + 0.5) * likelihood.size / _CHECKED).astype(np.intp)
        found = _log_likelihoods(problem, i, z.reshape(likelihood.size, -1)[places])
        off = found - likelihood.ravel()[places]  # the same everywhere: a constant of y is left open
        if not np.ptp(off) <= share * max(1.0, float(np.abs(found).max())):
            return f"the log-likelihoods of observation {i} are not those of its draws"
    return None


def _log_likelihoods(problem: Problem, i: int, z: Array) -> Array:
    """log p(y | z) of codes (N, k) for observation i, up to a constant of y, (N,)."""
    residual = problem.part(np.full(len(z), i)).residual(z)
    return np.asarray(-0.5 * np.square(residual).sum(axis=1) / problem.noise.dispersion_parameter)
