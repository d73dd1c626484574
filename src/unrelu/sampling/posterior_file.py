"""Posteriors as files: the draws with their log-likelihoods and modes, and the problem.

As with results, the file does not contain the network, only its fingerprint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unrelu.models.generator import Generator
from unrelu.problem import Problem
from unrelu.result import Status
from unrelu.result.result_file import problem_arrays, read_problem, sizes_in, texts_in
from unrelu.runtime.archives import Columns, Table, array_of, columns_of, read_archive, write_archive
from unrelu.sampling.sampled_chains import SampledChains

# The columns of a file: types, smallest and largest numbers. First those with a number for each observation.
_LOG, _COUNT = (np.float64, -math.inf, math.inf), (np.int64, 0, 2**40)
_NUMBERS: Columns = {
    "log_evidence": _LOG, **dict.fromkeys(("log_evidence_error", "seconds"), (np.float64, 0.0, math.inf)),
    **dict.fromkeys(("acceptance", "overlooked", "p_value"), (np.float64, 0.0, 1.0)),
}  # fmt: skip
_COLUMNS: Columns = {
    **_NUMBERS, **dict.fromkeys(("z", "best"), (np.float64, math.nan, math.nan)), "log_likelihood": _LOG,
    **dict.fromkeys(("mode", "draws", "modes"), _COUNT),
}  # fmt: skip
# The arrays of all observations that are joined: the counts of what belongs to each, and the axis.
_JOINED = {"z": ("draws", 1), "log_likelihood": ("draws", 1), "mode": ("draws", 1), "best": ("modes", 0)}
# The reasons why sampling can have been cut short. An empty text means that it was not.
_ENDED = {"": None, **{status.name: status for status in (Status.TIME_LIMIT, Status.STOPPED, Status.ERROR)}}


def write_posterior_file(path: Path, problem: Problem, chains: Sequence[SampledChains]) -> None:
    """Write the draws; the file appears complete or not at all.

    Raises:
        InputError: the suffix is not .npz, or the folder does not exist.
        StorageError: the disk is full or cannot be written to.
    """
    k = problem.network.latent_dim
    empty = SampledChains.without_draws(len(chains[0].z) if chains else 0, k)  # so that there is something to join
    table: dict[str, Any] = {
        **problem_arrays(problem),
        **{
            name: np.concatenate([getattr(one, name) for one in (empty, *chains)], axis=axis)
            for name, (_, axis) in _JOINED.items()
        },
        **{name: np.array([getattr(one, name) for one in chains], dtype=np.float64) for name in _NUMBERS},
        "draws": np.array([one.z.shape[1] for one in chains], dtype=np.int64),
        "modes": np.array([len(one.best) for one in chains], dtype=np.int64),
        "ended": np.array([one.ended.name if one.ended else "" for one in chains], dtype=np.str_),
    }  # fmt: skip
    write_archive(path, "posterior", table)


def read_posterior_file(path: str | Path, network: Generator | None, operator: Any) -> dict[str, Any]:
    """Read the arguments of a ``Posterior`` from a file.

    Raises:
        InputError: see :func:`unrelu.load_posterior`.
    """
    return read_archive(path, "posterior", lambda table: _restored(table, network, operator))


def _restored(table: Table, network: Generator | None, operator: Any) -> dict[str, Any]:
    size, latent, _ = sizes_in(table)
    k, counts = math.prod(latent), [int(array_of(table[name], np.int64).sum()) for name in ("draws", "modes")]
    drawn = (len(table["z"]), counts[0])
    shapes = {"z": (*drawn, k), "log_likelihood": drawn, "mode": drawn, "best": (counts[1], k)}
    found = columns_of(table, _COLUMNS, size, shapes)
    problem = read_problem(table, network, operator, "posterior")
    bounds, z = problem.bounds, found["z"]
    if not (np.isfinite(found["best"]).all() and ((z >= bounds.lower) & (z <= bounds.upper) & np.isfinite(z)).all()):
        raise ValueError("a draw is outside of the bounds, or no number")
    parts = {name: np.split(found[name], np.cumsum(found[n])[:-1], axis) for name, (n, axis) in _JOINED.items()}
    chains = []
    for i, text in enumerate(texts_in(table, "ended", size)):
        own: dict[str, Any] = {name: part[i] for name, part in parts.items()}
        own |= {name: float(found[name][i]) for name in _NUMBERS}
        chains.append(SampledChains(**own, ended=_ENDED[text], fixed=bounds.fixed))
    return {"problem": problem, "chains": chains}
