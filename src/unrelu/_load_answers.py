"""Read saved results and posteriors, and check that their numbers follow from their codes and draws."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unrelu.diagnostics.code_diagnostics import judged_again
from unrelu.errors import InputError
from unrelu.measurements.objectives import DEGREES, OwnLoss, norms
from unrelu.models.generator import Generator, as_generator
from unrelu.models.network import small
from unrelu.result import TESTS, Ending, Inversion, Status
from unrelu.result.result_file import read_result_file
from unrelu.result.status import CUT_OFF, JUDGED, among
from unrelu.result.verdict_text import TOO_LARGE
from unrelu.runtime.file_reading import MAX_BYTES, check_limit
from unrelu.runtime.host import computing
from unrelu.sampling.draws import Posterior
from unrelu.sampling.posterior_file import flaw_of_draws, read_posterior_file

# The largest relative difference between machines, in double and in single precision.
_DOUBLE, _SINGLE = 1e-9, 1e-4
# The largest difference of probabilities.
_PROBABILITY = 1e-6
# By how much the effective degrees of freedom may be off.
_USED = 1e-3
# Only messages contain why an observation failed, and by which factor its residual exceeds the batch's noise level.
_FAILED, _FACTOR = "could not be inverted: ", re.compile(r"\((\d+\.\d) times the batch's noise level\)")


def load_result(
    path: str | Path, network: Generator | None = None, *, operator: Any = None, max_bytes: int = MAX_BYTES
) -> Inversion:
    """Read a result that :meth:`Inversion.save` wrote; with its network, the verdict is computed again.

    Without the network, the result can be printed, indexed, plotted and converted to a data frame. Values that are
    computed from the codes, such as ``r.residual()``, raise an error. A result whose measurement is code needs both
    ``network`` and ``operator``.

    Args:
        path: the ``.npz`` file.
        network: G. It must have the fingerprint in the file. G(z), objective, p-value, rank, status and messages are
            computed from the codes and compared with those in the file. Values that only the search knew are taken from
            the file: how it ended or failed, the confidence of a fit that is not exact, which residuals were too large
            for the batch and by how much, the method, iterations and times.
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
        result = Inversion(**read_result_file(file, max_bytes, network, operator))
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
    """A sentence about the first number or message that does not follow from the codes; None if all do."""
    problem = result.problem
    if not problem.size:
        return None
    single, again = problem.network.dtype == torch.float32, _expected(result)
    share, outputs = _SINGLE if single else _DOUBLE, again.reconstruction.reshape(problem.size, -1)
    room = share * np.maximum(np.nan_to_num(np.abs(outputs).max(axis=1), nan=0.0), problem.scale)
    kept = result.reconstruction.reshape(outputs.shape)
    off = ~np.isclose(kept, outputs, rtol=0.0, atol=room[:, None], equal_nan=True).all(axis=1)
    if off.any():
        return f"G(z) of observation {int(np.argmax(off))} is not the reconstruction in the file"
    of_entries = np.broadcast_to((share * problem.scale)[:, None], problem.y.shape)
    near: dict[str, Any] = {
        "fun": norms(of_entries, result.norm) ** DEGREES[result.norm],
        **dict.fromkeys(("p_value", *TESTS, "confidence"), _PROBABILITY),
        "used": _USED,
    }
    if result.norm == OwnLoss.name:
        del near["fun"]  # no file holds the function
    for name in (*near, "rank", "freedom", "identifiable", "success", "verdict", "message"):
        kept, found = getattr(result, name), getattr(again, name)
        differ = kept != found
        if name in near:
            differ = ~np.isclose(kept, found, rtol=1e-6, atol=near[name], equal_nan=True)
        if differ.any():
            i = int(np.argmax(differ))
            return (
                f"{name} of observation {i} is {str(kept[i])[:80]}, computed again from its code {str(found[i])[:80]}"
            )
    return None


def _expected(result: Inversion) -> Inversion:
    """Judge each of the codes alone, and word messages by the numbers in the file.

    Outliers, and by which factor they are above the batch's level, are taken from the file: they depend on the whole
    batch, of which this result may be a part. So are the reasons of failures.
    """
    again = judged_again(replace(result, pool=False))
    if result.pool and result.problem.tells_level:
        # An outlier may also be no better than chance.
        judged = among(again.verdict, JUDGED - {Ending.NO_BETTER_THAN_CHANCE})
        cut = among(again.verdict, CUT_OFF)
        outlying = among(result.verdict, (Ending.OUTLIER,)) & ~judged & ~cut
        verdict = np.where(outlying, result.verdict, again.verdict)
        again = replace(again, verdict=verdict, success=again.success & ~outlying & ~(cut & ~result.success))
    messages = result.message.copy()
    for i, message in enumerate(messages):
        if result.verdict[i] is not Status.ERROR or not message.startswith(_FAILED):
            factor = _FACTOR.search(message)
            excessive = again.message[i].startswith(TOO_LARGE)
            messages[i] = result.message_for(i, float(factor[1]) if factor else 0.0, excessive)
    return replace(again, message=messages)
