"""The columns of results: one row an observation, one number or one array of a fixed shape a column."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from unrelu.measurements.objectives import norms
from unrelu.result import TESTS, Inversion
from unrelu.runtime.array_types import Array
from unrelu.sampling.draws import Posterior
from unrelu.sampling.sampled_chains import interval_of

# The probability of the intervals in files.
INTERVAL = 0.9


def numbers_of(result: Inversion, residual: Array) -> dict[str, Any]:
    """What the verdict on every observation is made of, (B,), by the names of columns; ``residual`` is (B, m)."""
    found = {
        "success": result.success,
        **{name: getattr(result, name) for name in ("p_value", *TESTS, "confidence")},
        "objective": result.fun,
        **{f"residual_{norm}": norms(residual, norm) for norm in ("l2", "l1", "linf")},
        "freedom": result.freedom,
        "rank": result.rank,
        "identifiable": result.identifiable,
        "nit": result.nit,
        "seconds": result.seconds,
    }
    return {name: np.atleast_1d(values) for name, values in found.items()}


def numbers_of_posterior(posterior: Posterior) -> dict[str, Any]:
    """What the draws say of each observation, by the names of columns: of codes (B, \\*latent_shape), others (B,)."""
    chains, network = posterior.chains, posterior.problem.network
    said = [(one.mean, one.deviation, *interval_of(one.flat, INTERVAL)) for one in chains]
    codes = network.shaped(np.reshape(said, (len(chains), 4, network.latent_dim)))
    return {
        **{name: codes[:, j] for j, name in enumerate(("mean", "std", "lower", "upper"))},
        **{name: np.array([one.worst(name)[0] for one in chains]) for name in ("rhat", "ess", "tail_ess")},
    }


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON has it: Python's numbers in place of NumPy's, and None for those that are not finite."""
    return {name: number_or_none(value) for name, value in row.items()}


def number_or_none(value: Any) -> Any:
    """A number as Python's; None where it is not finite."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
