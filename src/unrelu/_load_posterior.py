"""Read saved posteriors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from unrelu.errors import InputError
from unrelu.models.generator import Generator, as_generator
from unrelu.models.network import small
from unrelu.runtime.file_reading import MAX_BYTES, check_limit
from unrelu.runtime.host import computing
from unrelu.sampling.draws import Posterior
from unrelu.sampling.posterior_file import read_posterior_file


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
        operator: A, if it is code (a function, a large linear operator), which files do not contain.
        max_bytes: the most bytes that the file may take in memory, 4 GiB by default.

    Raises:
        InputError: the file does not exist, is damaged, truncated, of a later version or not a posterior; the posterior
            is one of another network; or a number in it does not follow from its draws.
        OptionError: ``network`` is not a generator, or ``max_bytes`` is not a number of bytes.

    >>> import os, tempfile
    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [1.0]]], activation="identity")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "posterior.npz")
    ...     unrelu.posterior(net, [1.0, 0.5], noise="gaussian:0.5", draws=500).save(path)
    ...     unrelu.load_posterior(path, net)
    <Posterior: one observation, MIXED, 8 chains of 500 draws>
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"a posterior is loaded by the path of its file, got {type(path).__name__}")
    limit = check_limit(max_bytes)
    if network is not None:
        as_generator(network)
    with computing(one_thread=network is None or small(network)):
        return Posterior.of(read_posterior_file(Path(path), limit, network, operator))
