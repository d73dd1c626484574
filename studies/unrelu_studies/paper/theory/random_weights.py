"""Theorem 2: what the sizes of a Gaussian network say about its inversion."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from scipy.special import betainc

from unrelu.errors import InputError
from unrelu.models.activations import Activation


def active_rows_probability(n: int, k: int) -> float:
    r"""The probability that at least k of n rows are active in a Gaussian layer without bias.

    .. math:: P(\mathrm{Bin}(n, \tfrac12) \ge k) = 2^{-n} \sum_{j=k}^{n} \binom{n}{j}

    Whatever the input, if it is not 0: :math:`w_j^T h` are independent and symmetric, so their signs are fair coins.

    Args:
        n: number of rows, at least 0.
        k: number of active ones asked for, at least 0.

    Raises:
        InputError: a number is negative or no integer.

    Source: the proof of Theorem 2 of the paper.
    """
    for name, value in (("n", n), ("k", k)):
        if not isinstance(value, (int, np.integer)) or value < 0:
            raise InputError(f"{name}={value!r} must be an integer of at least 0: a number of rows")
    if k == 0 or k > n:
        return float(k == 0)
    return float(betainc(float(k), float(n - k + 1), 0.5))


def layerwise_recovery_probability(sizes: Sequence[int]) -> float:
    r"""The probability over Gaussian weights that solving layer by layer recovers a code z* from G(z*).

    .. math:: \prod_{i=1}^{d} P(\mathrm{Bin}(n_i, \tfrac12) \ge n_{i-1})

    Layer i is solved by the equations of its active rows, which are in general position: they have one solution exactly
    where there are at least :math:`n_{i-1}` of them. Given that the input of a layer is not 0, its count does not
    depend on the layers before it; and the count asked of those is at least 1, so their outputs are not 0. The product
    is therefore exact, for every z* other than 0.

    It tends to 1 where :math:`n_i / n_{i-1}` stays above 2: Theorem 2 says :math:`1 - e^{-\Omega(k)}` from 2.1 on. The
    constant in the exponent is small there: the probability is 0.68 for sizes (20, 42), 0.78 for (100, 210) and 0.986
    for (1000, 2100). For the paper's (20, 100, 500) it is 1 but for 1.4e-10.

    ``method="exact"`` also uses that hidden layers are not negative, and so it can succeed with fewer active rows.

    Args:
        sizes: k, n_1, ..., n_d.

    Raises:
        InputError: fewer than two sizes, or one that is no integer of at least 1.

    Source: Assumption 1 and Theorem 2 of the paper.
    """
    return math.prod(active_rows_probability(n, before) for before, n in pairwise(_sizes(sizes)))


def identifiable_probability(sizes: Sequence[int], activation: str = "relu") -> float:
    r"""The probability over Gaussian weights that the Jacobian of G at a code z* has rank k.

    .. math:: \prod_{i=1}^{d} P(\mathrm{Bin}(n_i, \tfrac12) \ge k)

    for ReLU. Without noise, z* is then the only code near z* with its output, whatever the method. The Jacobian is
    a product of the active rows of the layers. An active row is drawn from a half space, with a density, so each layer
    keeps the rank or cuts it down to its number of active rows: the rank is the least of k and these numbers. They are
    independent as in :func:`layerwise_recovery_probability`, and at least as likely to be large enough.

    A LeakyReLU has no inactive rows: 1 where every :math:`n_i \ge k`, otherwise 0.

    Args:
        sizes: k, n_1, ..., n_d.
        activation: of every layer, "relu", "leaky_relu", "leaky_relu:0.2", ...

    Raises:
        InputError: sizes are not that, or the activation is another one.
        ModelError: there is no such activation.

    Source: the argument of Theorem 2 of the paper, for the network as a whole.
    """
    k, *rest = _sizes(sizes)
    name = Activation.parse(activation).name
    if name == "leaky_relu":
        return float(min(rest) >= k)
    if name != "relu":
        raise InputError(f"activation={activation!r}: this is known for 'relu' and 'leaky_relu'; pass one of them")
    return math.prod(active_rows_probability(n, k) for n in rest)


def _sizes(sizes: Sequence[int]) -> list[int]:
    values = list(sizes) if isinstance(sizes, Iterable) else []
    if len(values) < 2 or not all(isinstance(n, (int, np.integer)) and n >= 1 for n in values):
        raise InputError(f"sizes={sizes!r} must be k, n_1, ..., n_d: at least two integers of at least 1")
    return [int(n) for n in values]
