"""Read saved results and posteriors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unrelu.diagnostics.distinct_optima import distinct_optima
from unrelu.models.generator import Generator
from unrelu.result import Inversion
from unrelu.result.result_file import read_result_file
from unrelu.runtime.host import computing
from unrelu.sampling.draws import Posterior
from unrelu.sampling.posterior_file import read_posterior_file


@computing(one_thread=True)
def load_result(path: str | Path, network: Generator | None = None, *, operator: Any = None) -> Inversion:
    """Read a result that :meth:`Inversion.save` wrote.

    Without the network, the result can be printed, indexed, plotted and converted to a data frame. Values that are
    computed from the codes, such as ``r.residual()``, raise an error. A result whose measurement is code needs both
    ``network`` and ``operator``.

    Args:
        path: the ``.npz`` file.
        network: G. It must have the fingerprint in the file.
        operator: A, if it is code (a function, a large linear operator), which files do not contain; it needs the
            network.

    Raises:
        InputError: the file does not exist, is damaged, truncated, of a later version or not a result; or the result
            was found on another network.
        OptionError: ``network`` is not a generator.

    >>> import os, tempfile
    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "result.npz")
    ...     unrelu.invert(net, [1.0, 0.0, 0.5]).save(path)
    ...     unrelu.load_result(path, net)
    <Inversion: one observation, EXACT_FIT, success>
    """
    return Inversion(*read_result_file(path, network, operator), distinct_optima)


@computing(one_thread=True)
def load_posterior(path: str | Path, network: Generator | None = None, *, operator: Any = None) -> Posterior:
    """Read a posterior that :meth:`Posterior.save` wrote. Its status and all numbers are computed from the draws.

    Without the network, everything that concerns codes is there. What is computed from G(z), such as
    ``p.reconstructions(4)`` and ``p.plot()``, raises an error.

    Args:
        path: the ``.npz`` file.
        network, operator: see :func:`load_result`.

    Raises:
        InputError, OptionError: as for :func:`load_result`.

    >>> import os, tempfile
    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [1.0]]], activation="identity")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "posterior.npz")
    ...     unrelu.posterior(net, [1.0, 0.5], noise="gaussian:0.5", draws=500).save(path)
    ...     unrelu.load_posterior(path, net)
    <Posterior: one observation, MIXED, 8 chains of 500 draws>
    """
    return Posterior(**read_posterior_file(path, network, operator))
