"""Read saved results and posteriors, and check that their numbers follow from their codes and draws."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unrelu.diagnostics.code_diagnostics import judged_again
from unrelu.diagnostics.distinct_optima import distinct_optima
from unrelu.errors import InputError
from unrelu.measurements.objectives import DEGREES, norms
from unrelu.models.generator import Generator, as_generator
from unrelu.models.network import small
from unrelu.result import Inversion
from unrelu.result.result_file import read_result_file
from unrelu.runtime.file_reading import MAX_BYTES, check_limit
from unrelu.runtime.host import computing
from unrelu.sampling.draws import Posterior
from unrelu.sampling.posterior_file import flaw_of_draws, read_posterior_file

# The largest relative difference between machines, in double and in single precision.
_DOUBLE, _SINGLE = 1e-9, 1e-4
# The largest difference of probabilities.
_PROBABILITY = 1e-6


def load_result(
    path: str | Path, network: Generator | None = None, *, operator: Any = None, max_bytes: int = MAX_BYTES
) -> Inversion:
    """Read a result that :meth:`Inversion.save` wrote; with its network, its numbers are checked.

    Without the network, the result can be printed, indexed, plotted and converted to a data frame. Values that are
    computed from the codes, such as ``r.residual()``, raise an error. A result whose measurement is code needs both
    ``network`` and ``operator``.

    Args:
        path: the ``.npz`` file.
        network: G. It must have the fingerprint in the file. G(z), objective, p-value and success are computed from the
            codes and compared with those in the file. All else is taken from the file.
        operator: A, if it is code (a function, a large linear operator), which files do not contain; it needs the
            network.
        max_bytes: the most bytes that the file may take in memory, 4 GiB by default.

    Raises:
        InputError: the file does not exist, is damaged, truncated, of a later version or not a result; the result was
            found on another network; or a number in it does not follow from its codes.
        OptionError: ``network`` is not a generator, or ``max_bytes`` is not a number of bytes.

    >>> import os, tempfile
    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "result.npz")
    ...     unrelu.invert(net, [1.0, 0.0, 0.5]).save(path)
    ...     unrelu.load_result(path, net)
    <Inversion: one observation, EXACT_FIT, success>
    """
    with _opened(path, network, max_bytes, "result") as file:
        result = Inversion(**read_result_file(file, max_bytes, network, operator), find_optima=distinct_optima)
        if network is not None:
            _refuse(file, _flaw(result))
        return result.shaped()


def load_posterior(
    path: str | Path, network: Generator | None = None, *, operator: Any = None, max_bytes: int = MAX_BYTES
) -> Posterior:
    """Read a posterior that :meth:`Posterior.save` wrote. Its status and all numbers are computed from the draws.

    Without the network, everything that concerns codes is there. What is computed from G(z), such as
    ``p.reconstructions(4)`` and ``p.plot()``, raises an error.

    Args:
        path: the ``.npz`` file.
        network: G. It must have the fingerprint in the file. G(z) of the likeliest draws, and the log-likelihoods of 16
            draws of each observation, are computed again and compared with those in the file.
        operator, max_bytes: see :func:`load_result`.

    Raises:
        InputError, OptionError: as for :func:`load_result`; a number does not follow from its draws.

    >>> import os, tempfile
    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [1.0]]], activation="identity")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "posterior.npz")
    ...     unrelu.posterior(net, [1.0, 0.5], noise="gaussian:0.5", draws=500).save(path)
    ...     unrelu.load_posterior(path, net)
    <Posterior: one observation, MIXED, 8 chains of 500 draws>
    """
    with _opened(path, network, max_bytes, "posterior") as file:
        fields, outputs = read_posterior_file(file, max_bytes, network, operator)
        found = Posterior(**fields)
        if network is not None:
            _refuse(file, flaw_of_draws(found.problem, found.chains, outputs))
        return found


@contextmanager
def _opened(path: object, network: Generator | None, max_bytes: object, kind: str) -> Iterator[Path]:
    """Check the arguments and yield the path, within the settings for our computations."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"a {kind} is loaded by the path of its file, got {type(path).__name__}")
    check_limit(max_bytes)
    with computing(one_thread=network is None or small(as_generator(network))):
        yield Path(path)


def _refuse(path: Path, flaw: str | None) -> None:
    """Raise an error if there is a flaw."""
    if flaw:
        raise InputError(f"{path}: {flaw}; load it without the network to look at it")


def _flaw(result: Inversion) -> str | None:
    """A sentence about the first number that does not follow from the codes; None if all that are checked do.

    Outputs, objectives, p-values and successes; whether one is an outlier depends on the batch, which may be gone.
    """
    problem = result.problem
    if not problem.size:
        return None
    share = _SINGLE if problem.network.dtype == torch.float32 else _DOUBLE
    again = judged_again(replace(result, pool=False))
    outputs = again.reconstruction.reshape(problem.size, -1)
    room = share * np.maximum(np.nan_to_num(np.abs(outputs).max(axis=1), nan=0.0), problem.scale)
    same_outputs = np.isclose(result.reconstruction.reshape(outputs.shape), outputs, 0.0, room[:, None], equal_nan=True)
    of_entries = np.broadcast_to((share * problem.scale)[:, None], problem.y.shape)
    near = norms(of_entries, result.norm) ** DEGREES[result.norm]
    same = {
        "reconstruction": same_outputs.all(axis=1),
        "fun": np.isclose(result.fun, again.fun, 1e-6, near, equal_nan=True),
        "p_value": np.isclose(result.p_value, again.p_value, 1e-6, _PROBABILITY, equal_nan=True),
        "success": (result.success == again.success) | (~result.success & result.pool),
    }
    for name, agree in same.items():
        for i in np.flatnonzero(~agree)[:1]:
            return f"{name} of observation {i} is not what follows from its code"
    return None
